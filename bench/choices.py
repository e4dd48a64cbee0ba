"""Every choice of the model beside the default, at equal compute: bits per byte, parameters, time.

Each is trained on the same text in the same order, for as many steps as the same number of FLOPs allows, at
one learning rate. The models are small (about a million parameters) and so is what they read: what differs by
less than one more seed of the default differs (the row `default, seed 1`) says nothing, and large models may
differ otherwise. Peers there are none; the default is what the others stand beside.
"""

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from rich.progress import track
from torch import Tensor

from bench.architectures import CHOICES
from bench.pages import HELD_OUT, TRAINED_ON, prose
from bench.report import report
from trainer.evaluate import bits_per_byte
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT, BatchNorm
from trainer.tokenizer import Tokenizer

VOCABULARY, LENGTH, ROWS = 2048, 256, 4
RATE, WARMUP, DECAY = 4e-3, 0.02, 0.4

app = App(name="python -m bench.choices", help=__doc__)


@app.default
def main(
    *only: str,
    quick: Annotated[bool, Parameter(negative=())] = False,
    steps: int = 250,
    out: Path | None = None,
) -> None:
    """Train them; the last line is JSON. All take about 20 minutes on one core of a quiet machine.

    Parameters
    ----------
    only
        Names of choices, as in `bench.architectures`; all, if none is given.
    quick
        Four steps each: does it run at all.
    steps
        Steps of 1,024 tokens that the default is given; the others get the same FLOPs.
    out
        File that gets the JSON too.
    """
    steps = 4 if quick else steps
    torch.set_num_threads(1)
    texts, held_out = prose(TRAINED_ON, 100_000 if quick else 3_000_000), prose(HELD_OUT, 100_000)
    tokenizer = Tokenizer.train(texts, VOCABULARY)
    tokens = stream(texts, tokenizer)
    plan = [(name, changes, 0) for name, changes in _distinct().items()] + [("default, seed 1", {}, 1)]
    plan = [row for row in plan if row[0] in only or not only]
    rows = {}
    for name, changes, seed in track(plan, description="choices", transient=True):
        rows[name] = _measure(changes, seed, steps, tokens, tokenizer, held_out)
        print(_line(name, rows[name]), flush=True)
    sizes = {"tokens": steps * ROWS * LENGTH, "vocabulary": tokenizer.vocab_size, "sequence_len": LENGTH}
    held = sum(len(text.encode()) for text in held_out)
    report({"choices": rows, **sizes, "held_out_bytes": held, "quick": quick}, out, "torch")


def _distinct() -> dict[str, dict[str, Any]]:
    """The choices that differ in training; squeezed rotary positions are for contexts longer than it had."""
    found: dict[ModelConfig, str] = {}
    for name, changes in CHOICES.items():
        config = replace(ModelConfig(**changes), preset="qwen3")
        if config.rope_scaling == "none":
            found.setdefault(config, name)
    return {name: CHOICES[name] for name in found.values()}


def _measure(
    changes: dict[str, Any], seed: int, steps: int, stream: Tensor, tokenizer: Tokenizer, held_out: list[str]
) -> dict[str, float]:
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "sequence_len": LENGTH,
        "width": 128,
        "layers": 4,
    }
    torch.manual_seed(seed)
    model = GPT(ModelConfig(**{**sizes, **changes}))
    budget = steps * GPT(ModelConfig(**sizes)).flops_per_token
    steps = round(budget / model.flops_per_token)
    began = time.process_time()
    training = train(model, stream, steps)
    spent = time.process_time() - began
    found = {"val_bpb": round(bits_per_byte(model, tokenizer, held_out), 4)}
    if model.config.norm == "batch":
        found["val_bpb_looking_ahead"] = round(bits_per_byte(_looking_ahead(model), tokenizer, held_out), 4)
    return found | {
        "train_bpt": round(training / math.log(2), 4),
        "parameters": model.parameters_count,
        "cache_bytes_per_token": 4 * model.config.layers * model.config.cached_per_token,
        "steps": steps,
        "cpu_s": round(spent, 1),
        "tokens_per_s": round(steps * ROWS * LENGTH / spent),
    }


def _looking_ahead(model: GPT) -> GPT:
    """A copy used as it was trained: each token normed by what comes after it too, and by other rows."""
    copied = deepcopy(model)
    for module in copied.modules():
        if isinstance(module, BatchNorm):
            module.running_mean = module.running_var = None
    return copied


def stream(texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
    """The ids of `texts`, each after `<|endoftext|>`, as one stream."""
    return torch.tensor([t for ids in map(tokenizer.encode, texts) for t in (tokenizer.endoftext, *ids)])


def train(model: GPT, stream: Tensor, steps: int) -> float:
    """AdamW with warm-up and decay on random windows, the same for all; the last steps' nats a token."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)
    rng = torch.Generator().manual_seed(0)
    last = []
    for step in range(steps):
        share = min(1.0, (step + 1) / max(1, steps * WARMUP), (steps - step) / (steps * DECAY))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        starts = torch.randint(len(stream) - LENGTH, (ROWS, 1), generator=rng)
        rows = stream[starts + torch.arange(LENGTH + 1)]
        loss, count = model(rows[:, :-1], rows[:, 1:])
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last.append(float(loss.detach() / count))
    return sum(last[-20:]) / len(last[-20:])


def _line(name: str, row: dict[str, float]) -> str:
    return (
        f"| {name} | {row['val_bpb']:.3f} | {row['parameters'] / 1e6:.2f} M | {row['steps']:.0f} | "
        f"{row['cpu_s']:.0f} s | {row['cache_bytes_per_token']:,.0f} |"
    )


if __name__ == "__main__":
    app()
