"""Checkpoints: a run's whole state at one step, in a directory that is there complete or not at all.

    RUN/tokenizer.json
    RUN/step_000500/shard-00001-model-00001-of-00002.safetensors   weights, named as in `trainer.model.model`
                    shard-00001-model-00002-of-00002.safetensors   the optimizer's moments
                    state.json          step, identity, reading position, digests of the others

Each rank writes what it holds (torch.distributed.checkpoint), in a thread, while training goes on; what it
writes was copied before. The directory has a hidden temporary name until all of it is there and fsynced. The
header of a file says which part of a tensor it holds, so any number of ranks, and a program that knows
nothing of ranks, can read it, and no file is unpickled: a stranger's checkpoint runs no code. What is read
back is checked against its digests first, so damage is an error that names the file, never a strange model.
"""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from tinylm import __version__
from tinylm.errors import ConfigError, TinylmError
from tinylm.files import NO_ROOM, read_json, sha256, sync_directory, sync_file
from tinylm.records import record, typed
from trainer.config import ModelConfig, TrainConfig, as_json
from trainer.data.sources import identity_of_sources
from trainer.model.model import GPT
from trainer.run.distributed import World
from trainer.run.optim import Optimizer, before_decay
from trainer.tokenizer import Tokenizer

FORMAT = 3  # since the identity is one table (2026-11); 2 is converted when read, others are refused
TOKENIZER = "tokenizer.json"
_STATE = "state.json"
_STEP = re.compile(r"step_[0-9]{1,18}")
# Numbers of a rank's two files: apart, so that a model is loaded without AdamW's moments, twice its size.
_WEIGHTS, _MOMENTS = 1, 2
# Of what a state says, as `Saver.start` is given it.
_TYPES: dict[str, Any] = {
    "step": int, "steps": int, "warmup": int, "tokens": int, "updates": int, "skipped": int, "rng": str,
    "model": dict[str, Any], "sha256": dict[str, str],
    "identity": dict[str, Any], "data": dict[str, Any], "guard": dict[str, Any], "measured": dict[str, Any],
}  # fmt: skip
_NEEDED = {"step", "model", "identity", "updates", "rng", "sha256"}
_LONGEST = 1 << 22  # positions; tables of them are made before anything is read. Twice: 2 GB for heads of 64

# torch says this of every run of one process.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class CheckpointError(TinylmError):
    """A checkpoint that is missing, damaged, or of another run."""


class CheckpointDamaged(CheckpointError):
    """A file of it is not what was saved; the checkpoint before it may be intact."""


class Saver:
    """Writes `RUN/step_NNNNNN` beside the training and keeps only the `config.keep_last` up to it.

    And the last from before the learning rate falls, of a run that can be given more steps.
    """

    def __init__(self, config: TrainConfig, world: World) -> None:
        self._config = config
        self._world = world
        # One: `start` waits for the checkpoint before it, with which it would share the group `side`.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def start(self, model: GPT, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Copy all there is at `state["step"]` and write it in a thread; a collective.

        Waits for the checkpoint before it, and raises the `CheckpointError` if that could not be written; the
        checkpoints before it are untouched then.
        """
        self.wait()
        target = self._config.out / f"step_{state['step']:06d}"
        temporary = target.with_name(f".{target.name}.tmp")
        state = {
            "format": FORMAT,
            **state,
            "updates": optimizer.updates,
            "model": asdict(model.config),
            "config": as_json(self._config),
            "rng": bytes(torch.get_rng_state().tolist()).hex(),
            "torch": torch.__version__,
            "tinylm": __version__,
        }
        tensors, moments = weights(model), optimizer.tensors()
        files = dict.fromkeys(tensors, _WEIGHTS) | dict.fromkeys(moments, _MOMENTS)
        try:
            if self._world.is_main:
                # Whatever a killed run left half written or half deleted.
                for left in target.parent.glob(".step_*"):
                    shutil.rmtree(left)
                temporary.mkdir(parents=True)
            self._world.barrier()
            written = async_save(
                tensors | moments,
                storage_writer=HuggingFaceStorageWriter(
                    str(temporary), fqn_to_index_mapping=files, save_distributed=True
                ),
                process_group=self._world.side,
                no_dist=self._world.size == 1,
            )
        except OSError as error:
            raise _not_written(target, error) from error
        self._pending = self._thread.submit(self._finish, written, temporary, target, state)

    def wait(self) -> None:
        """Until the last checkpoint is whole, on all ranks; raises `CheckpointError` if it cannot be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
            self._world.barrier()

    def _finish(self, written: Any, temporary: Path, target: Path, state: dict[str, Any]) -> None:
        """Once all ranks have written, the main one makes a checkpoint of it."""
        try:
            written.result()
            if self._world.is_main:
                names = sorted(path.name for path in temporary.glob("*.safetensors"))
                state |= {"sha256": {name: sha256(temporary / name) for name in names}}
                (temporary / _STATE).write_text(json.dumps(state | {"digest": _digest(state)}, indent=1))
                sync_file(temporary / _STATE)
                sync_directory(temporary)
                discard(target)
                temporary.rename(target)  # from here on it is a checkpoint
                sync_directory(target.parent)
                # What lies beyond `target` is damaged: otherwise the run had gone on from there.
                found = newest_first(target.parent)
                kept = found[found.index(target) :][: self._config.keep_last]
                if self._config.can_grow:
                    kept += up_to(before_decay(state["steps"], self._config), found)[:1]
                for other in found:
                    if other not in kept:
                        discard(other)
        except (OSError, SafetensorError) as error:
            raise _not_written(target, error) from error
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            # A full disk on one rank is what the user can mend; what the others then met follows from it.
            on_disk = [cause for cause in causes if isinstance(cause, OSError | SafetensorError)]
            if on_disk or self._world.size == 1:
                raise _not_written(target, (on_disk or causes)[0]) from error
            raise RuntimeError(str(error)) from error  # a rank was lost


def _not_written(target: Path, error: BaseException) -> CheckpointError:
    # Who writes safetensors says it in words only.
    full = isinstance(error, SafetensorError) or getattr(error, "errno", None) in NO_ROOM
    mend = "make room and start again" if full else "start again"
    return CheckpointError(f"{target} could not be written ({error}); {mend}: the run goes on")


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    return next(iter(newest_first(run)), None)


def newest_first(run: Path) -> list[Path]:
    """The complete checkpoints of a run."""
    complete = [
        path for path in run.glob("step_*") if _STEP.fullmatch(path.name) and (path / _STATE).exists()
    ]
    return sorted(complete, key=lambda path: -int(path.name.removeprefix("step_")))


def up_to(step: int, found: Iterable[Path]) -> list[Path]:
    """Those of the checkpoints `found` that are of no later step."""
    return [path for path in found if int(path.name.removeprefix("step_")) <= step]


def last_state(run: Path) -> dict[str, Any] | None:
    """The newest state of the run that is not damaged, None if there is none."""
    for found in newest_first(run):
        with suppress(CheckpointDamaged):
            return read_state(found)
    return None


def find(path: Path) -> Path:
    """The checkpoint at `path`, or the latest of the run there; raises `CheckpointError` if there is none."""
    checkpoint = path if (path / _STATE).exists() else latest(path)
    if checkpoint is None:
        raise CheckpointError(f"{path}: no checkpoint here; give the folder of a run, or train one")
    return checkpoint


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The contents of state.json, an older format's as this one's.

    Raises `CheckpointDamaged`, or `CheckpointError` for a format that is not known.
    """
    path = checkpoint / _STATE
    try:
        state: dict[str, Any] = typed(dict[str, Any], json.loads(path.read_text()), _STATE)
        if state.pop("digest") != _digest(state):
            raise ValueError("its digest is another")
        found = typed(int, state["format"], "format")
        if found == 2:
            state = _of_format_2(state, checkpoint.parent)
        elif found != FORMAT:
            raise CheckpointError(
                f"{path}: format = {found}, this tinylm reads {FORMAT}: train anew with another --out"
            )
        if missing := _NEEDED - state.keys():
            raise ValueError(f"without {', '.join(sorted(missing))}")
        for name in _TYPES.keys() & state.keys():
            typed(_TYPES[name], state[name], name)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, RecursionError) as error:
        raise CheckpointDamaged(_damage(path)) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    return state


def model_config(checkpoint: Path, state: dict[str, Any]) -> ModelConfig:
    """The shape of the model that was saved. Raises `CheckpointError` if it is none, or cannot be that."""
    return saved_shape(
        checkpoint / _STATE, state["model"], [checkpoint / name for name in _weight_files(state)]
    )


def saved_shape(path: Path, found: object, files: Sequence[Path]) -> ModelConfig:
    """The shape that the file `path` describes by `found`, of a model whose weights are in `files`.

    Raises `CheckpointError` if it is none, or of more numbers than the files hold: to make such a model would
    take all memory, or hours, before a weight is read.
    """
    try:
        shape = record(ModelConfig, found, "model")
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} describes no model ({error})") from error
    # Of each layer two matrices of each part at least, and the embeddings, at a byte a number at least.
    a_layer = 2 * shape.width * (shape.hidden + shape.heads * shape.head_width)
    least = shape.layers * a_layer + shape.vocab_size * shape.width
    # One that is missing is named when they are read.
    if all(file.exists() for file in files) and least > sum(file.stat().st_size for file in files):
        raise CheckpointError(f"{path} describes a larger model than is saved beside it: restore both")
    if shape.sequence_len > _LONGEST:
        raise CheckpointError(f"{path}: a context of {shape.sequence_len}: at most {_LONGEST:,} can be read")
    return shape


def _of_format_2(state: dict[str, Any], run: Path) -> dict[str, Any]:
    """A state of format 2, where the reading position said what the text was, and a file what came before."""
    identity, data = dict(state["config"]), state["data"]
    if "origin" in data:  # a fine-tuning run
        identity |= {f"{name}.sha256": digest for name, digest in data.pop("origin").items()}
    elif "sources" in data:
        start = run / "init_from.json"
        identity["init_from.sha256"] = read_json(start)["sha256"] if start.exists() else None
        identity |= {name: data.pop(name) for name in ("order", "tokenizer")}
        identity |= {"sample_by.sha256": data.pop("sample_by"), "lane_count": len(data["lanes"])}
        identity |= identity_of_sources(data.pop("sources"))
    return state | {"format": FORMAT, "identity": identity}


def check_identity(run: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` for the first field of `now` in which the run with the identity `then` differs.

    A command that has not read its text yet gives as much of `now` as it knows.
    """
    for field, value in now.items():
        if (saved := then.get(field)) != value:
            raise CheckpointError(
                f"{run} holds a run with {field} = {saved}, not {value}: "
                f"go on with {field} = {saved}, or start anew with another --out"
            )


def restore(
    checkpoint: Path, model: GPT, optimizer: Optimizer, identity: Mapping[str, Any], world: World
) -> dict[str, Any]:
    """Put the checkpoint's weights, moments and random state in place; returns its state. A collective.

    Raises `CheckpointError` for a run of another identity, another shape, or a damaged file.
    """
    state = read_state(checkpoint)
    check_identity(checkpoint.parent, state["identity"], identity)
    check_identity(checkpoint.parent, state["model"], asdict(model.config))
    _load(checkpoint, state, state["sha256"], weights(model) | optimizer.tensors(), world)
    optimizer.goes_on_after(state["updates"])
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(state["rng"])), dtype=torch.uint8))
    return state


def fingerprint(state: dict[str, Any]) -> str:
    """Digest of the weights of the checkpoint with this state."""
    return _digest({name: state["sha256"][name] for name in _weight_files(state)})


def load_model(
    path: Path, device: torch.device | str = "cpu", sequence_len: int = 0
) -> tuple[GPT, Tokenizer]:
    """The model, in evaluation mode, and tokenizer of a run (its latest checkpoint) or of one checkpoint.

    With `sequence_len`, the model reads so many positions instead of as many as before. Raises
    `CheckpointError` if there is none or it is damaged, `TokenizerError` for the tokenizer.
    """
    checkpoint = find(path)
    state = read_state(checkpoint)
    tokenizer = Tokenizer.load(checkpoint.parent / TOKENIZER)
    shape = model_config(checkpoint, state)
    if tokenizer.vocab_size != shape.vocab_size:
        raise CheckpointError(
            f"{checkpoint}: vocab_size = {shape.vocab_size}, but its {TOKENIZER} has "
            f"{tokenizer.vocab_size}; put the run's own tokenizer back"
        )
    model = GPT(replace(shape, sequence_len=sequence_len) if sequence_len else shape)
    _load(checkpoint, state, _weight_files(state), weights(model), World())
    return model.to(device).eval(), tokenizer


def weights(model: GPT) -> dict[str, Tensor]:
    """The weights, tied ones once."""
    tensors: dict[str, Tensor] = model.state_dict()
    if model.config.tied_embeddings:
        del tensors["lm_head.weight"]  # the same tensor as embed_tokens.weight
    return tensors


def _weight_files(state: dict[str, Any]) -> list[str]:
    return [name for name in state["sha256"] if f"-model-{_WEIGHTS:05d}-" in name]


def _load(
    checkpoint: Path, state: dict[str, Any], files: Iterable[str], tensors: Mapping[str, Tensor], world: World
) -> None:
    """Read `tensors`, by their names, from `files`, of which each rank checks a share first; a collective.

    Raises `CheckpointDamaged` on all ranks if a file is not what was saved.
    """
    bad = [
        name
        for name in sorted(files)[world.rank :: world.size]
        if not (path := checkpoint / name).exists() or sha256(path) != state["sha256"][name]
    ]
    if damaged := [name for part in world.gather(bad) for name in part]:
        raise CheckpointDamaged(_damage(checkpoint / damaged[0]))
    try:
        load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(checkpoint)),
            process_group=world.side,
            no_dist=world.size == 1,
        )
    except (SafetensorError, KeyError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(
            f"{checkpoint} does not fit the model that {_STATE} describes: {error}"
        ) from error


def _damage(path: Path) -> str:
    # Only of a folder whose name we gave is it said that it may go: another could hold anything.
    ours = f"delete {path.parent} to go on from the checkpoint before it"
    return f"{path} is missing or damaged; {ours if _STEP.fullmatch(path.parent.name) else 'restore it'}"


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def discard(directory: Path) -> None:
    """Delete a checkpoint; it loses its name first, so what is half deleted is never taken for whole."""
    if directory.exists():
        doomed = directory.with_name(f".{directory.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)
