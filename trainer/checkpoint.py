"""Checkpoints: a run's whole state at one step, in a directory that is there complete or not at all.

    RUN/tokenizer.json
    RUN/step_000500/model.safetensors   weights, named as in `trainer.model`
                    optimizer.pt        AdamW's moments
                    state.json          step, settings, reading position, digests of the other two

A checkpoint is written under a hidden temporary name, fsynced and renamed. What is read back is checked
against its digests first, so damage is an error that names the file, never a strange model.
"""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from shards.files import sha256, sync_directory
from tinylm import __version__
from tinylm.errors import TinylmError
from trainer.config import ModelConfig, TrainConfig, as_json, identity
from trainer.model import GPT
from trainer.tokenizer import Tokenizer

FORMAT = 1
TOKENIZER = "tokenizer.json"
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.pt", "state.json"


class CheckpointError(TinylmError):
    """A checkpoint that is missing, damaged, or of another run."""


class CheckpointDamaged(CheckpointError):
    """A file of it is not what was saved; the checkpoint before it may be whole."""


def save(
    run: Path,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    state: dict[str, Any],
) -> Path:
    """Write `RUN/step_NNNNNN` for `state["step"]` and keep only the `config.keep_last` up to it.

    What lies beyond it is damaged: otherwise the run had gone on from there. Raises `CheckpointError` if it
    cannot be written; the checkpoints before it are untouched then.
    """
    target = run / f"step_{state['step']:06d}"
    temporary = run / f".{target.name}.tmp"
    try:
        _write(temporary, model, optimizer, config, state)
        _discard(target)
        temporary.rename(target)
        sync_directory(run)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{target} could not be written ({error}); make room and start again: the run goes on"
        ) from error
    found = newest_first(run)
    kept = found[found.index(target) :][: config.keep_last]
    for other in found:
        if other not in kept:
            _discard(other)
    return target


def _write(
    directory: Path,
    model: GPT,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    state: dict[str, Any],
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    save_file(_tensors(model), directory / _MODEL)
    torch.save(optimizer.state_dict(), directory / _OPTIMIZER)
    state = {
        "format": FORMAT,
        **state,
        "model": asdict(model.config),
        "config": as_json(config),
        "rng": bytes(torch.get_rng_state().tolist()).hex(),
        "torch": torch.__version__,
        "tinylm": __version__,
        "sha256": {name: sha256(directory / name) for name in (_MODEL, _OPTIMIZER)},
    }
    (directory / _STATE).write_text(json.dumps(state | {"digest": _digest(state)}, indent=1))
    for name in (_MODEL, _OPTIMIZER, _STATE):
        _sync(directory / name)
    sync_directory(directory)


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(iter(newest_first(run)), None)


def newest_first(run: Path) -> list[Path]:
    """The complete checkpoints of a run."""
    complete = [path for path in run.glob("step_*") if (path / _STATE).exists()]
    return sorted(complete, key=lambda path: -int(path.name.removeprefix("step_")))


def last_state(config: TrainConfig) -> dict[str, Any] | None:
    """The newest whole state of the run in `config.out`, None if there is none.

    Raises `CheckpointError` if it is of another run.
    """
    for found in newest_first(config.out):
        with suppress(CheckpointDamaged):
            state = read_state(found)
            check_identity(found, state, config)
            return state
    return None


def find(path: Path) -> Path:
    """The checkpoint at `path`, or the latest of the run there; raises `CheckpointError` if there is none."""
    checkpoint = path if (path / _STATE).exists() else latest(path)
    if checkpoint is None:
        raise CheckpointError(f"{path}: no checkpoint here; give the folder of a run, or train one")
    return checkpoint


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of state.json; raises `CheckpointDamaged`, or `CheckpointError` for another format."""
    path = checkpoint / _STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        damaged = state.pop("digest") != _digest(state)
    except (OSError, ValueError, KeyError, AttributeError):
        damaged = True
    if damaged:
        raise CheckpointDamaged(_damage(path))
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format = {state['format']}, this tinylm reads {FORMAT}; use tinylm {state['tinylm']}"
        )
    return state


def check_identity(checkpoint: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Raise `CheckpointError` naming the first setting in which the run differs from `config`."""
    for field, value in identity(config).items():
        saved = state["config"].get(field)
        if saved != value:
            raise CheckpointError(
                f"{checkpoint.parent} holds a run with {field} = {saved}, not {value}: "
                f"go on with {field} = {saved}, or start anew with another --out"
            )


def restore(
    checkpoint: Path, model: GPT, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> dict[str, Any]:
    """Put the checkpoint's weights, moments and random state in place; returns its state.

    Raises `CheckpointError` for another run's settings, another shape, or a damaged file.
    """
    state = read_state(checkpoint)
    check_identity(checkpoint, state, config)
    _check_shape(checkpoint, state, model.config)
    _load_weights(checkpoint, state, model)
    moments = _verified(checkpoint, state, _OPTIMIZER)
    optimizer.load_state_dict(torch.load(moments, weights_only=True))
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["rng"])), dtype=torch.uint8))
    return state


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[GPT, Tokenizer]:
    """The model, in evaluation mode, and tokenizer of a run (its latest checkpoint) or of one checkpoint.

    Raises `CheckpointError` if there is none or it is damaged, `TokenizerError` for the tokenizer.
    """
    checkpoint = find(path)
    state = read_state(checkpoint)
    tokenizer = Tokenizer.load(checkpoint.parent / TOKENIZER)
    if tokenizer.vocab_size != state["model"]["vocab_size"]:
        raise CheckpointError(
            f"{checkpoint}: vocab_size = {state['model']['vocab_size']}, but its {TOKENIZER} has "
            f"{tokenizer.vocab_size}; put the run's own tokenizer back"
        )
    model = GPT(ModelConfig(**state["model"]))
    _load_weights(checkpoint, state, model)
    return model.to(device).eval(), tokenizer


def _tensors(model: GPT) -> dict[str, torch.Tensor]:
    """The weights, tied ones once."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tied_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def _load_weights(checkpoint: Path, state: dict[str, Any], model: GPT) -> None:
    path = _verified(checkpoint, state, _MODEL)
    try:
        tensors = load_file(path)
        if model.config.tied_embeddings:
            tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the model that {_STATE} describes: {error}") from error


def _check_shape(checkpoint: Path, state: dict[str, Any], shape: ModelConfig) -> None:
    for field, value in asdict(shape).items():
        saved = state["model"].get(field)
        if saved != value:
            raise CheckpointError(
                f"{checkpoint} holds a model with {field} = {saved}, not {value}: "
                "start anew with another --out"
            )


def _verified(checkpoint: Path, state: dict[str, Any], name: str) -> Path:
    path = checkpoint / name
    if not path.exists() or sha256(path) != state["sha256"][name]:
        raise CheckpointDamaged(_damage(path))
    return path


def _damage(path: Path) -> str:
    return f"{path} is missing or damaged; delete {path.parent} to go on from the checkpoint before it"


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _discard(directory: Path) -> None:
    """Delete a checkpoint; it loses its name first, so what is half deleted is never taken for whole."""
    if directory.exists():
        doomed = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
