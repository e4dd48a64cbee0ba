"""What a run starts from: one of our own runs or checkpoints, or a folder of Hugging Face's transformers."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from tinylm.config import require
from trainer.config import PretrainConfig, SFTConfig
from trainer.interop import hf
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Start:
    """A model to train further: its shape and tokenizer, and its weights once they are asked for."""

    path: Path
    shape: ModelConfig
    tokenizer: Tokenizer
    added: tuple[str, ...] = ()
    """Special tokens that its tokenizer lacked, and that stand after its own now."""

    @classmethod
    def at(cls, path: Path) -> "Start":
        """Raises `CheckpointError` if there is nothing to start from, or nothing that we can compute."""
        if hf.is_hf(path):
            return cls(path, *hf.read(path))
        found = checkpoint.find(path)
        shape = checkpoint.model_config(found, checkpoint.read_state(found))
        return cls(path, shape, Tokenizer.load(found.parent / checkpoint.TOKENIZER))

    def load(self, sequence_len: int, device: torch.device | str = "cpu") -> GPT:
        """The model, in evaluation mode, for rows of `sequence_len`.

        Raises `CheckpointError` for weights that are damaged or of another shape.
        """
        if not hf.is_hf(self.path):
            return checkpoint.load_model(self.path, device, sequence_len)[0]
        model = GPT(replace(self.shape, sequence_len=sequence_len))
        model.load_state_dict(hf.read_weights(self.path, self.shape.vocab_size))
        return model.to(device).eval()

    def describe(self) -> str:
        """Where the model is from, and what was added to it."""
        text = f"starts from {self.path}, which read up to {self.shape.sequence_len:,} tokens at once"
        if self.added:
            text += f"; added to its tokenizer, and begun as the mean of all tokens: {', '.join(self.added)}"
        return text


def fingerprint(path: Path) -> str:
    """Digest of the weights a run starts with; of a folder of transformers, of all that is read there."""
    if hf.is_hf(path):
        return hf.fingerprint(path)
    return checkpoint.fingerprint(checkpoint.read_state(checkpoint.find(path)))


def check_length(config: PretrainConfig | SFTConfig, start: Start) -> None:
    """Raise `ConfigError` if the model's places are a table that does not have as many as a row has."""
    require(
        config,
        "sequence_len",
        start.shape.positions != "learned" or config.sequence_len in (0, start.shape.sequence_len),
        f"{start.path} has learned {start.shape.sequence_len} positions, so rows have as many",
    )


def shaped(config: PretrainConfig, start: Start) -> PretrainConfig:
    """`config` with the shape of the model it starts from; the length of rows stays its own.

    Raises `ConfigError` for the first field that says something else.
    """
    check_length(config, start)
    default = ModelConfig()
    shape = asdict(start.shape) | {"sequence_len": config.sequence_len}
    for field in fields(ModelConfig):
        given, there = getattr(config, field.name), shape[field.name]
        require(
            config,
            field.name,
            given in (there, getattr(default, field.name)),
            f"{start.path} has {there!r}, and its shape is what is trained; leave {field.name} out",
        )
    return replace(config, **shape)
