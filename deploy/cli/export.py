"""`tinylm export`: a trained model as files that other programs open."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cyclopts import App

from tinylm.errors import ConfigError

app = App(name="export", help="A trained model for other programs: transformers, llama.cpp.")


@app.command
def hf(run: Path, *, out: Path) -> None:
    """Write RUN as transformers loads it, with its tokenizer and chat template.

    Parameters
    ----------
    run
        Directory of a training run, or one of its checkpoints.
    out
        New directory; there once all of it is.
    """
    from trainer.interop.hf import export_hf

    print(f"{out}: {export_hf(run, out)}; AutoModelForCausalLM and AutoTokenizer open it")


@app.command
def gguf(run: Path, *, out: Path, weights: Literal["fp32", "fp16", "q8_0"] = "fp16") -> None:
    """Write RUN as one file for llama.cpp, with its tokenizer and chat template.

    Parameters
    ----------
    run
        Directory of a training run, or one of its checkpoints.
    out
        New file; there once all of it is.
    weights
        Of matrices: as trained, in half, or in blocks of 8 bits.
    """
    if find_spec("gguf") is None:
        raise ConfigError("the package gguf is not installed: pip install '.[export]'")
    from trainer.interop.gguf import export_gguf

    print(f"{out}: {export_gguf(run, out, weights)} in {weights}, {out.stat().st_size / 1e6:.1f} MB")
