"""What a run is asked to do: frozen dataclasses, checked when made.

cyclopts turns every field and its docstring into a flag, a key of tinylm.toml and an environment
variable. Nothing here loads torch, so that `--help` is quick.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from tinylm.config import MOST, require, require_positive, require_several, require_within
from tinylm.errors import ConfigError
from trainer.model.architecture import ModelConfig as ModelConfig  # the first part of PretrainConfig

_MOST_SEED = 2**63 - 1  # that torch takes, whatever a row is to be added
_HOTTEST = 100.0  # where all of a model's tokens are as good as alike; far above, numbers overflow


@dataclass(frozen=True, kw_only=True)  # no slots: they would keep PretrainConfig from having two bases
class TrainConfig:
    """What pretraining and fine-tuning have in common."""

    may_change: ClassVar[frozenset[str]] = frozenset(
        {"out", "checkpoint_every", "keep_last", "eval_every", "log_every"}
        | {"parallel", "activation_checkpointing", "tensorboard", "wandb", "profile"}
    )
    """Fields a run may be continued with other values of; of paths, what they lead to is compared instead."""

    out: Path = Path("runs/model")
    """Folder of the run: tokenizer, checkpoints, metrics. The same command on the same folder goes on."""
    device_batch_size: int = 8
    """Rows in one micro-batch: what a rank holds in memory at once."""
    # For a small model fewer are better: 360 steps of 2,048 tokens came to 2.21 bits a byte, 120 of 8,192 to
    # 2.40. In proportion: the time of a step, and how few steps there are for a given text.
    tokens_per_step: int = 8192
    """Tokens behind one optimizer step, over all ranks; a multiple of device_batch_size * sequence_len."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all, or Muon for the matrices in the layers: fewer steps, each of which costs more."""
    learning_rate: float = 4e-3
    """Peak learning rate."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from zero."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """After the warm-up: warmup-stable-decay (arXiv 2404.06395), or a cosine."""
    decay: float = 0.4
    """Share of the steps, at the end, in which wsd falls to zero."""
    weight_decay: float = 0.1
    """Decoupled weight decay, of matrices only."""
    grad_clip: float = 1.0
    """Largest norm of a step's gradient; 0 switches clipping off."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps logits from drifting (PaLM: 1e-4); 0 leaves it out."""
    # OLMo 2's number, but of 64 steps and not of its 128 (run/spikes.py). Fewer leave out healthy steps.
    spike_sigmas: float = 6.0
    """A step whose loss or gradient is so many deviations above the last 64 is left out; 0: only NaN is."""
    bad_steps: int = 3
    """So many steps left out in a row, and the run goes back to its last checkpoint and reads on."""
    seed: int = 0
    """Of the initial weights and of the data order."""
    checkpoint_every: int = 100
    """Steps between checkpoints; the last step always makes one."""
    # Two, as the newest may be damaged: then the one before it is gone on from. With one there is none.
    keep_last: int = 2
    """Checkpoints kept; older ones are deleted."""
    eval_every: int = 100
    """Steps between measurements on held-out text; 0 for the end only."""
    log_every: int = 5
    """Steps between lines of metrics.jsonl."""
    compile: bool = False
    """Compile the model: about 1.1 times the speed on a CPU after 20 s, and it needs a C++ compiler."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Each rank holds the whole model, or a shard of each parameter and moment (FSDP2), for large ones."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What products are computed in; auto: bf16 on GPUs, fp32 on CPUs."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a third more work."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, into the run's folder."""
    wandb: str = ""
    """Send the metrics to this project of Weights & Biases too; empty: do not."""
    profile: Path | None = None
    """Folder for a profile of a few early steps: a table, and a trace for Perfetto; none: do not."""

    def __post_init__(self) -> None:
        require_positive(self, "device_batch_size", "tokens_per_step", "learning_rate")
        require_positive(self, "checkpoint_every", "keep_last", "log_every", "bad_steps")
        require_within(self, 0, MOST, "weight_decay", "eval_every", "grad_clip", "z_loss", "spike_sigmas")
        require_within(self, 0, _MOST_SEED, "seed")
        require_within(self, 0, 1, "warmup", "decay")
        require(
            self, "warmup", self.warmup + self.decay <= 1, f"warmup + decay = {self.decay} must not exceed 1"
        )

    @property
    def can_grow(self) -> bool:
        """Whether a run may be given more steps: with wsd, as a cosine ends where it was to end."""
        return "steps" in self.may_change and self.schedule == "wsd"

    def micro_batches_per_step(self, sequence_len: int) -> int:
        """Micro-batches in one step over all ranks; raises `ConfigError` unless they fill it exactly."""
        tokens = self.device_batch_size * sequence_len
        require(
            self,
            "tokens_per_step",
            self.tokens_per_step % tokens == 0,
            f"must be a multiple of device_batch_size * sequence_len = {tokens}",
        )
        return self.tokens_per_step // tokens


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(ModelConfig, TrainConfig):
    """One pretraining run: the shape of the model, the course of the training, the text."""

    may_change: ClassVar[frozenset[str]] = TrainConfig.may_change | frozenset(
        {"shards", "mix", "baseline_bytes", "sample_prompt", "init_from", "steps"}
    )

    shards: str = "runs/crawl/shards"
    """Folder of the shards and their manifest, or of other Parquet with a column `text`; or a URL (s3://)."""
    mix: tuple[str, ...] = ()
    """More such places, each as PLACE=SHARE of the rows, for example hf://datasets/x/y=0.3; the rest is of
    shards."""
    init_from: Path | None = None
    """Train this model further: a run of ours, one of its checkpoints, or a folder of transformers. Shape and
    tokenizer are the model's, the length of rows is this run's. None: a new model."""
    steps: int = 300
    """Optimizer steps of the run; with wsd, the same command with more goes on from before the decay."""
    packing: Literal["concat", "best-fit"] = "best-fit"
    """Texts into rows: concat pads nothing and cuts at any place, best-fit cuts only texts above a row."""
    sample_by: str = ""
    """Read documents of shards in proportion to this column, of theirs or in columns/; empty: alike."""
    sample_power: float = 1.0
    """The column is raised to this power first: below 1 evens out, above 1 sharpens."""
    document_mask: bool = False
    """Let no document attend to another in its row; measured elsewhere as no gain at pretraining."""
    sample_prompt: str = "The "
    """What the model writes after this is shown at each measurement; empty: nothing."""
    # A lane holds four slices of each source: 260 MB for 64 lanes on one rank with documents of 1,000 tokens;
    # in proportion, and a share of it on each of several ranks.
    lanes: int = 64
    """Fixed logical streams of the data order; at most so many ranks have work."""
    # Counting takes a second a million tokens, xz a second a MB: half or double, half or double the wait.
    baseline_bytes: int = 4_000_000
    """Most training text the baselines (n-grams, xz) are given, in bytes."""

    def __post_init__(self) -> None:
        ModelConfig.__post_init__(self)
        TrainConfig.__post_init__(self)
        require_positive(self, "steps", "sample_power", "lanes", "baseline_bytes")
        require_several(self, "mix")
        self.micro_batches_per_step(self.sequence_len)
        require(self, "out", self.out != self.init_from, "must not be init_from, the run it starts from")
        for place, share in self.sources[1:]:
            require(self, "mix", bool(place) and share > 0, "each must be PLACE=SHARE, a share above 0")
        require(self, "mix", self.sources[0][1] > 0, "the shares must leave some of the rows to shards")

    @property
    def sources(self) -> tuple[tuple[str, float], ...]:
        """The places text is read from, `shards` first, each with its share of the rows."""
        parts = [entry.rpartition("=") for entry in self.mix]
        try:
            mixed = [(place, float(share)) for place, _, share in parts]
        except ValueError:
            raise ConfigError(f"mix = {self.mix!r}: each must be PLACE=SHARE, a share above 0") from None
        return ((self.shards, 1 - sum(share for _, share in mixed)), *mixed)

    def model(self, vocab_size: int) -> ModelConfig:
        """The shape alone, with the vocabulary the tokenizer came out with."""
        shape = {field.name: getattr(self, field.name) for field in fields(ModelConfig)}
        return ModelConfig(**(shape | {"vocab_size": vocab_size}))


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionsConfig:
    """One instruction set made out of a corpus."""

    shards: Path = Path("runs/crawl/shards")
    """Folder of the shards and their manifest."""
    out: Path = Path("runs/instructions.jsonl")
    """JSONL file to write; the held-out examples go beside it, as NAME.val.jsonl."""
    # What is held in memory, once for each of the three kinds.
    max_examples: int = 3000
    """Most examples written, held-out ones included; which ones is decided by a hash."""
    held_out: float = 0.05
    """Share of the documents whose examples are kept from training."""
    min_answer_chars: int = 40
    """Shorter answers are dropped."""
    max_answer_chars: int = 400
    """Longer answers are cut at the end of a sentence, or dropped."""

    def __post_init__(self) -> None:
        require_positive(self, "max_examples", "min_answer_chars", "max_answer_chars")
        require_within(self, 0, 1, "held_out")
        require(self, "held_out", 0 <= self.held_out < 1, "must be a share, below 1")
        least = self.min_answer_chars
        require(self, "max_answer_chars", self.max_answer_chars > least, f"must be above {least}, the least")


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainConfig):
    """One supervised fine-tuning run: a pretrained model learns to answer."""

    may_change: ClassVar[frozenset[str]] = TrainConfig.may_change | {"data", "init_from", "on_bad_line"}

    out: Path = Path("runs/chat")
    """Folder of the run: tokenizer, checkpoints, metrics. The same command on the same folder goes on."""
    data: Path = Path("runs/instructions.jsonl")
    """JSONL file of conversations, one {"messages": [...]} a line; NAME.val.jsonl beside it is held out."""
    init_from: Path = Path("runs/model")
    """Folder of the pretraining run, one of its checkpoints, or a folder of transformers."""
    sequence_len: int = 0
    """Tokens a row holds, and the longest context the model is to look back on. 0: as many as before."""
    epochs: int = 2
    """Passes over the conversations."""
    on_bad_line: Literal["error", "skip"] = "error"
    """What a line that holds no valid conversation does: end the run, or be counted and left out."""
    tokens_per_step: int = 4096
    """Tokens behind one optimizer step, over all ranks; a multiple of device_batch_size * sequence_len."""
    learning_rate: float = 1e-3
    """Peak learning rate: a quarter of pretraining's, which keeps what was learned."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        require_positive(self, "epochs")
        require_within(self, 0, MOST, "sequence_len")
        require(self, "out", self.out != self.init_from, "must not be init_from, the run it starts from")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the next token is chosen and when to stop."""

    max_tokens: int = 128
    """Most tokens to add."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 50
    """Choose among this many likeliest tokens; 0 for all."""
    top_p: float = 1.0
    """Choose among the likeliest tokens that together reach this probability (nucleus sampling)."""
    min_p: float = 0.0
    """Choose among tokens at least this likely, in relation to the likeliest."""
    seed: int | None = None
    """The same seed gives the same text; without one it is another each time."""
    stop: tuple[str, ...] = ()
    """End before this string; may be given several times. In a command \\n is a new line, \\t a tab."""
    speculate: int = 0
    """Guess so many tokens ahead, from where the last three stood before: the same text, sooner where it
    repeats itself. Of one text alone, not of several together."""

    def __post_init__(self) -> None:
        require_positive(self, "max_tokens", "top_p")
        require_within(self, 0, 1, "top_p", "min_p")
        require_within(self, 0, _HOTTEST, "temperature")
        require_within(self, 0, MOST, "top_k", "speculate")
        require_within(self, 0, _MOST_SEED, "seed")
        require_several(self, "stop")
        require(self, "stop", all(self.stop), "an empty string would stop everything")


def as_json(config: TrainConfig | ModelConfig) -> dict[str, Any]:
    """All fields as JSON values, nested dataclasses as objects."""
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
    }


def identity(config: TrainConfig) -> dict[str, Any]:
    """The fields that decide what a run computes; a resumed run must have the same."""
    return {name: value for name, value in as_json(config).items() if name not in config.may_change}
