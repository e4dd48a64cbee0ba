"""Tokens a second of a training step, beside transformers' Llama, a loop in nanoGPT's style, and the limit.

All train one model size on the same tokens in one process: forward and backward pass of a few micro-batches,
clipping, AdamW. Rounds alternate. The limit is the time that the matrix products of a step take alone, in
their own shapes, by the faster of torch's two libraries. `make setup` installs transformers.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from cyclopts import App
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bench.report import report, why_not
from trainer.config import PretrainConfig
from trainer.interop.layouts import to_json
from trainer.model.loss import multiply
from trainer.model.model import GPT
from trainer.run.distributed import StopSignal, World
from trainer.run.loop import Run
from trainer.run.metrics import profiled

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 4096,
        "width": 128,
        "layers": 4,
        "heads": 4,
        "kv_heads": 2,
        "device_batch_size": 8,
    },
    "small": {
        "vocab_size": 8192,
        "width": 256,
        "layers": 6,
        "heads": 4,
        "kv_heads": 2,
        "device_batch_size": 4,
    },
}
LENGTH = 256
MICRO_BATCHES = 2

app = App(name="python -m bench.train", help=__doc__)

Step = Callable[[], float]
"""Trains on a step's tokens and returns the loss."""


@app.default
def main(
    *,
    quick: bool = False,
    size: str = "small",
    precision: Literal["fp32", "bf16"] = "fp32",
    threads: int | None = None,
    profile: bool = False,
    out: Path | None = None,
) -> None:
    """Measure; the last line is JSON.

    With one thread the seconds are the processor's, which other programs on the machine do not change; with
    more (all cores, if not given) they are the clock's. `--profile` says where our time goes, instead.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    config = settings("tiny" if quick else size, precision)
    if profile:
        print(profile_of(ours(config, compiled=True)))
        return
    tokens = config.tokens_per_step
    contenders = {
        "tinylm": ours(config, compiled=False),
        "tinylm, compiled": ours(config, compiled=True),
        "nanoGPT's style, compiled": nanogpt(config),
    } | transformers(config)
    limits = shapes(config)
    rounds = 3 if quick else 12
    times: dict[str, list[float]] = {name: [] for name in [*contenders, "products alone"]}
    for number in range(rounds + 2):
        print(f"\rround {number + 1}/{rounds + 2}", end="", flush=True)
        for name, step in contenders.items():
            began = seconds()
            step()
            times[name].append(seconds() - began)
        times["products alone"].append(sum(limits()))
    kept = {name: seen[2:] for name, seen in times.items()}  # the first two compile
    print(table(kept, tokens))
    best = min(("tinylm", "tinylm, compiled"), key=lambda name: median(kept[name]))
    figures: dict[str, Any] = {
        "size": "tiny" if quick else size,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "best": best,
        "tokens_per_s": round(tokens / median(kept[best])),
        "ratio_transformers_compiled": ratio(kept, "transformers, compiled", best),
        "ratio_transformers": ratio(kept, "transformers", best),
        "ratio_nanogpt_style": ratio(kept, "nanoGPT's style, compiled", best),
        "fraction_of_gemm": ratio(kept, "products alone", best),
    }
    if why := why_not("transformers", "LlamaForCausalLM"):
        print(why)
        figures["why"] = why
    report(figures, out, "torch", "transformers")


def ratio(times: dict[str, list[float]], other: str, best: str) -> float | None:
    """Median over the rounds of their time divided by ours; None without them."""
    if other not in times:
        return None
    return round(median(b / a for a, b in zip(times[best], times[other], strict=True)), 3)


def table(times: dict[str, list[float]], tokens: int) -> str:
    rows = sorted(((tokens / median(seen), name) for name, seen in times.items()), reverse=True)
    return "\n" + "\n".join(f"{name:<28}{rate:>8.0f} tokens/s" for rate, name in rows)


def settings(size: str, precision: Literal["fp32", "bf16"]) -> PretrainConfig:
    """The Llama layout, which transformers has too."""
    shape = SIZES[size]
    tokens = MICRO_BATCHES * shape["device_batch_size"] * LENGTH
    rest: dict[str, Any] = {"preset": "llama", "sequence_len": LENGTH, "spike_sigmas": 0.0}
    return PretrainConfig(**(shape | rest), tokens_per_step=tokens, precision=precision)


def batches(config: PretrainConfig) -> Iterator[list[Tensor]]:
    """Micro-batches (B, T + 1), endlessly; random tokens cost what others do."""
    source = torch.Generator().manual_seed(0)
    shape = (config.device_batch_size, LENGTH + 1)
    while True:
        yield [torch.randint(0, config.vocab_size, shape, generator=source) for _ in range(MICRO_BATCHES)]


def seconds() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Source:
    def __init__(self, config: PretrainConfig) -> None:
        self._batches = batches(config)

    def next_step(self) -> list[dict[str, Tensor]]:
        return [{"ids": rows[:, :-1], "targets": rows[:, 1:]} for rows in next(self._batches)]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """There is nothing to go on from."""


def ours(config: PretrainConfig, *, compiled: bool) -> Step:
    """The step of the training loop itself."""
    torch.manual_seed(0)
    model = GPT(config.model(config.vocab_size))
    with TemporaryDirectory() as nothing:
        changed = replace(config, out=Path(nothing), compile=compiled)
        run = Run(model, Source(config), changed, World(), steps=1000, evaluate=dict, identity={})
    stop = StopSignal()
    return lambda: run.train_step(config.learning_rate, stop).loss


def loop(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], config: PretrainConfig, *, fused: bool
) -> Step:
    """What everybody writes: mean losses, their mean over micro-batches, clipping, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), fused=fused)
    source = batches(config)

    def step() -> float:
        for rows in next(source):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                loss = loss_of(rows) / MICRO_BATCHES
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item() * MICRO_BATCHES

    return step


def transformers(config: PretrainConfig) -> dict[str, Step]:
    """Llama with the same sizes, as it is and compiled; nothing if that cannot be had here."""
    if why_not("transformers", "LlamaForCausalLM"):
        return {}
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = to_json(config.model(config.vocab_size))
    shape = LlamaConfig(**ours, attn_implementation="sdpa", use_cache=False)

    def made(*, compiled: bool) -> Step:
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
        run = torch.compile(model) if compiled else model
        # As its users call it: labels are shifted inside, so the last token of a row is only a target.
        return loop(model, lambda rows: run(input_ids=rows, labels=rows).loss, config, fused=True)

    return {"transformers": made(compiled=False), "transformers, compiled": made(compiled=True)}


class PlainBlock(nn.Module):
    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class Plain(nn.Module):
    """GPT-2's layout: LayerNorm, GELU, learned positions."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(LENGTH, config.width)
        self.h = nn.Sequential(*(PlainBlock(config) for _ in range(config.layers)))
        self.ln_f = nn.LayerNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(LENGTH))
        logits = self.lm_head(self.ln_f(self.h(x)))
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def nanogpt(config: PretrainConfig) -> Step:
    """As nanoGPT does it on a CPU: compiled, logits whole, AdamW not fused."""
    torch.manual_seed(0)
    model = Plain(config)
    run = torch.compile(model)
    return loop(model, lambda rows: run(rows[:, :-1], rows[:, 1:]), config, fused=False)


def shapes(config: PretrainConfig) -> Callable[[], list[float]]:
    """Returns what measures the seconds of a step's products: three for each weight, six for attention."""
    rows, width, hidden = config.device_batch_size * LENGTH, config.width, config.hidden
    kv_width = config.kv_heads * (width // config.heads)
    in_a_layer = [(width, width)] * 2 + [(width, kv_width)] * 2 + [(width, hidden)] * 3
    weights = in_a_layer * config.layers + [(width, config.vocab_size)]
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    counted = {shape: weights.count(shape) for shape in weights}

    def product(m: int, k: int, n: int) -> float:
        a, b, turned = (torch.ones(size, dtype=dtype) for size in ((m, k), (k, n), (n, k)))
        ways: list[Callable[[], Tensor]] = [lambda: a @ b]
        if dtype == torch.float32:
            ways.append(lambda: multiply(a, turned))
        return min(_seconds_of(way) for way in ways)

    def measure() -> list[float]:
        found = [
            MICRO_BATCHES * count * (product(rows, a, b) + product(rows, b, a) + product(a, rows, b))
            for (a, b), count in counted.items()
        ]
        head = torch.ones(config.device_batch_size * config.heads, LENGTH, width // config.heads, dtype=dtype)
        began = seconds()
        head @ head.mT
        causal = (seconds() - began) / 2
        return [*found, MICRO_BATCHES * config.layers * 6 * causal]

    return measure


def _seconds_of(work: Callable[[], Any]) -> float:
    """Of one call among four, after one that is not counted."""
    work()
    began = seconds()
    for _ in range(4):
        work()
    return (seconds() - began) / 4


def profile_of(step: Step) -> str:
    """Where our step's time goes, by operator."""
    with TemporaryDirectory() as folder:
        with profiled(Path(folder), rank=0) as stepped:
            for _ in range(8):
                step()
                stepped()
        return (Path(folder) / "rank_0.txt").read_text()


if __name__ == "__main__":
    app()
