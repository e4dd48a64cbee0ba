"""Tokens a second and time to the first, beside transformers and llama.cpp on the same weights.

One text at a time on one thread, greedy, 128 tokens after a prompt of 128. Contestants take turns in one
process; times are CPU time of the process, so that a busy machine disturbs less. Before anything is timed,
all in fp32 must give the same tokens.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import torch
from cyclopts import App, Parameter

from bench.report import report, why_not
from trainer.config import SamplingConfig
from trainer.generate import Generator
from trainer.interop.hf import tensors
from trainer.interop.layouts import to_json
from trainer.model.architecture import ModelConfig
from trainer.model.decoder import Weights
from trainer.model.model import GPT
from trainer.tokenizer import Tokenizer

SIZES: dict[str, dict[str, Any]] = {
    "demo": {"vocab_size": 4096, "width": 128, "layers": 4},
    "small": {"vocab_size": 8192, "width": 256, "layers": 6},
    "medium": {"vocab_size": 8192, "width": 512, "layers": 8, "heads": 8},
}
"""Models of 1.3, 6.8 and 29 M parameters; the figures at the top level are those of `small`."""
PROMPT = list(range(300, 428))
NEW = 128
_CONTEXT = 512

app = App(name="python -m bench.decode", help=__doc__)

Contestant = Callable[[int], list[int]]
"""Writes so many tokens after PROMPT."""


class Vocabulary(NamedTuple):
    """What a `Generator` needs of a tokenizer to give out ids: all of them, none of them special."""

    vocab_size: int
    endoftext: int = 0
    im_start: int = 0
    im_end: int = 0
    special: frozenset[int] = frozenset({0})
    ends: tuple[int, ...] = ()


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Measure all sizes; the last line is JSON.

    Parameters
    ----------
    quick
        The small size alone, two rounds.
    out
        File that gets the JSON too.
    """
    torch.set_num_threads(1)
    sizes = ["small"] if quick else list(SIZES)
    found: dict[str, Any] = {size: measure(size, rounds=2 if quick else 7) for size in sizes}
    report(
        found["small"] | {"sizes": found, "quick": quick}, out, "torch", "transformers", "llama-cpp-python"
    )


def measure(size: str, rounds: int) -> dict[str, Any]:
    """All contestants on one size, in turns."""
    model = made(size)
    limit = bandwidth(4 * model.parameters_count)
    with tempfile.TemporaryDirectory() as folder:
        contestants = _contestants(model, Path(folder))
        expected = contestants["fp32"](NEW)
        for name in ("transformers", "llama_cpp"):
            if name in contestants and (theirs := contestants[name](NEW)) != expected:
                raise SystemExit(f"{name} writes other tokens: {theirs[:9]}, ours {expected[:9]}")
        first: dict[str, list[float]] = {name: [] for name in contestants}
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, write in contestants.items():
                begin = _seconds(write, 1)
                first[name].append(1000 * begin)
                rates[name].append((NEW - 1) / (_seconds(write, NEW) - begin))
    return _figures(model, first, rates, limit)


def made(size: str) -> GPT:
    """A model whose blocks all matter, as a new one's do not."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(sequence_len=_CONTEXT, **SIZES[size])).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=parameter.size(1) ** -0.5)
    return model


def bandwidth(size: int) -> float:
    """Bytes a second one core reads of a buffer of `size` bytes: the limit for whoever reads all weights."""
    buffer = torch.ones(size // 4)
    return size / min(_seconds(lambda _: buffer.sum(), 0) for _ in range(20))


def _contestants(model: GPT, folder: Path) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {weights: _ours(model, weights) for weights in ("fp32", "fp16")}
    if not why_not("transformers", "Qwen3ForCausalLM"):
        found["transformers"] = _transformers(model)
    if find_spec("llama_cpp") and find_spec("gguf"):
        found["llama_cpp"] = _llama_cpp(model, folder / "fp32.gguf", "fp32")
        found["llama_cpp_q8"] = _llama_cpp(model, folder / "q8.gguf", "q8_0")
    return found


def _ours(model: GPT, weights: Weights) -> Contestant:
    generator = Generator(model, cast("Tokenizer", Vocabulary(model.config.vocab_size)), weights)

    def write(count: int) -> list[int]:
        return list(generator.tokens(PROMPT, SamplingConfig(max_tokens=count, temperature=0), ends=()))

    return write


def _transformers(model: GPT) -> Contestant:
    from transformers import Qwen3Config, Qwen3ForCausalLM  # a peer that may not be there

    shape = to_json(model.config) | {"eos_token_id": None, "pad_token_id": 0}
    theirs = Qwen3ForCausalLM(Qwen3Config(**shape)).eval()
    theirs.load_state_dict({"lm_head.weight": model.lm_head.weight, **tensors(model)})
    ids = torch.tensor([PROMPT])

    def write(count: int) -> list[int]:
        with torch.inference_mode():
            out = theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                suppress_tokens=[0],
            )
        return cast("list[int]", out[0, len(PROMPT) :].tolist())

    return write


def _llama_cpp(model: GPT, path: Path, weights: Any) -> Contestant:
    import llama_cpp  # a peer that may not be there

    from trainer.interop.gguf import write as write_gguf

    write_gguf(model, path, weights)
    settings = {"n_ctx": _CONTEXT, "n_batch": _CONTEXT, "n_threads": 1, "n_threads_batch": 1}
    if weights == "fp32":  # and no cache in fp16, which is its default, or it writes other tokens
        settings |= {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    llama = llama_cpp.Llama(str(path), verbose=False, **settings)

    def write(count: int) -> list[int]:
        llama.reset()
        unread, written = PROMPT, list[int]()
        for _ in range(count):
            llama.eval(unread)
            logits = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
            values = np.ctypeslib.as_array(logits, (model.config.vocab_size,))
            values[0] = -np.inf
            unread = [int(values.argmax())]
            written += unread
        return written

    return write


def _seconds(write: Callable[[int], Any], count: int) -> float:
    began = time.process_time()
    write(count)
    return time.process_time() - began


def _figures(
    model: GPT, first: dict[str, list[float]], rates: dict[str, list[float]], limit: float
) -> dict[str, Any]:
    """Medians, of ratios where two are compared in the same round."""

    def ratio(ours: str, theirs: str) -> float | None:
        if theirs not in rates:
            return None
        pairs = zip(rates[ours], rates[theirs], strict=True)
        return round(statistics.median(one / other for one, other in pairs), 2)

    rate = {name: statistics.median(values) for name, values in rates.items()}
    found: dict[str, Any] = {
        "parameters": model.parameters_count,
        "tokens_per_s": round(rate["fp32"]),
        "ttft_ms": round(statistics.median(first["fp32"]), 1),
        "ratio_transformers": ratio("fp32", "transformers"),
        "ratio_llama_cpp": ratio("fp32", "llama_cpp"),
        "ratio_transformers_fp16": ratio("fp16", "transformers"),
        "ratio_llama_cpp_q8_fp16": ratio("fp16", "llama_cpp_q8"),
        "fraction_of_bandwidth": round(rate["fp32"] * 4 * model.parameters_count / limit, 3),
        "fraction_of_bandwidth_fp16": round(rate["fp16"] * 2 * model.parameters_count / limit, 3),
        "gigabytes_per_s": round(limit / 1e9, 1),
        "contestants": {
            name: {"tokens_per_s": round(rate[name]), "ttft_ms": round(statistics.median(first[name]), 1)}
            for name in rates
        },
    }
    llama_cpp = "" if "llama_cpp" in rates else "llama_cpp or gguf is not installed: docs/model.md"
    if why := "; ".join(filter(None, (why_not("transformers", "Qwen3ForCausalLM"), llama_cpp))):
        found["why"] = why
        print(why)
    print(f"{model.parameters_count / 1e6:.1f} M parameters; so much is read at {limit / 1e9:.1f} GB/s")
    for name, values in found["contestants"].items():
        print(f"  {name:<14} {values['tokens_per_s']:6d} tokens/s   first after {values['ttft_ms']:6.1f} ms")
    return found


if __name__ == "__main__":
    app()
