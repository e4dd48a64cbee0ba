"""Pretraining: shards in, a model out. `python -m trainer.pretrain`, or with torchrun on many processes.

    torchrun --nproc-per-node 2 -m trainer.pretrain --shards runs/shards --out runs/model

The run's folder comes to hold manifest.json (the snapshot it is pinned to, so that a crawl may go on beside
it), tokenizer.json, metrics.jsonl, checkpoints, and at the end evaluation.json. The same command on the same
folder goes on where the last checkpoint is; on a finished run it says so.
"""

import json
from collections.abc import Iterator
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from numpy.typing import NDArray

from shards.files import replacing
from shards.manifest import Manifest
from shards.reader import ShardReader
from tinylm.config import layers
from tinylm.errors import ConfigError, exit_on_error
from trainer import checkpoint
from trainer.baselines import baselines
from trainer.checkpoint import CheckpointError
from trainer.config import PretrainConfig, require
from trainer.distributed import World, connect, speaks
from trainer.evaluate import bits_per_byte, held_out_texts
from trainer.loader import Loader
from trainer.loop import Batch, Run
from trainer.model import GPT
from trainer.tokenizer import Tokenizer

EVALUATION = "evaluation.json"


def pretrain(config: PretrainConfig) -> None:
    """Train to the end, or say that it is done; raises a `TinylmError` for what the user can mend."""
    if finished(config):
        if speaks():
            print(f"{config.out}: finished, {config.steps} steps; start another run with another --out")
        return
    with connect(config.timeout_seconds) as world:
        if world.is_main:
            _prepare(config)
        world.barrier()
        reader = ShardReader(config.shards, Manifest.load(config.out))
        texts = held_out_texts(ShardReader(config.shards, reader.manifest, "held_out"), config.eval_bytes)
        tokenizer = Tokenizer.load(config.out / checkpoint.TOKENIZER)
        loader = Loader(reader, tokenizer, config, world)
        run = _run(config, world, loader, tokenizer, texts)
        if world.is_main:
            print(estimate(config, run.model, reader.manifest.text_bytes))
            if loader.sampling:
                print(loader.sampling)
            print(f"goes on after step {run.step}" if run.step else "starts")
        run.fit()
        loader.close()
    if world.is_main:
        _finish(config, reader, tokenizer, texts, run)


def finished(config: PretrainConfig) -> bool:
    """Whether `config.out` holds this run, complete; raises `CheckpointError` if it holds another."""
    state = checkpoint.last_state(config)
    return state is not None and state["step"] == config.steps and (config.out / EVALUATION).exists()


def _run(config: PretrainConfig, world: World, loader: Loader, tokenizer: Tokenizer, texts: list[str]) -> Run:
    torch.manual_seed(config.seed)
    model = GPT(config.model(tokenizer.vocab_size)).to(world.device)

    def evaluate() -> dict[str, float]:
        return {"val_bpb": bits_per_byte(model, tokenizer, texts, world)} if texts else {}

    return Run(model, loader, config, world, steps=config.steps, evaluate=evaluate)


def _prepare(config: PretrainConfig) -> None:
    """Make the run's folder: the pinned manifest, and the tokenizer unless there is one."""
    config.out.mkdir(parents=True, exist_ok=True)
    current = Manifest.load(config.shards)
    if checkpoint.latest(config.out) is None:
        _check_held_out(config, current)
        current.save(config.out)
    pinned = Manifest.load(config.out)
    _check_pin(config, pinned, current)
    path = config.out / checkpoint.TOKENIZER
    if not path.exists():
        texts = _sample(ShardReader(config.shards, pinned), config.tokenizer_bytes, config.seed)
        Tokenizer.train(texts, config.vocab_size).save(path)
    trained = Tokenizer.load(path).vocab_size
    require(
        config, "vocab_size", trained <= config.vocab_size, f"{path} has {trained}; delete it for another"
    )


def _check_held_out(config: PretrainConfig, current: Manifest) -> None:
    """Raise `ConfigError` if text that came in later may nearly stand on both sides."""
    if not current.held_out_is_current:
        raise ConfigError(
            f"{config.shards} grew since its held-out text was compared with the rest: "
            f"`tinylm shards hold-out {config.shards}` first"
        )


def _check_pin(config: PretrainConfig, pinned: Manifest, current: Manifest) -> None:
    """A corpus may have grown since a run began; raise `CheckpointError` if it is another one."""
    there = {(shard.name, shard.sha256) for shard in current.shards}
    for shard in pinned.shards:
        if (shard.name, shard.sha256) not in there:
            raise CheckpointError(
                f"{config.out} is pinned to manifest {pinned.fingerprint[:12]}, whose {shard.name} is not in "
                f"{config.shards} (manifest {current.fingerprint[:12]}): give it its own shards back, "
                "or start anew with another --out"
            )


def _sample(reader: ShardReader, most_bytes: int, seed: int) -> Iterator[str]:
    """Training texts, row group by row group in a random order, up to about `most_bytes`."""
    groups = list(reader.row_groups)
    Random(seed).shuffle(groups)
    for group in groups:
        for text in reader.texts(group):
            yield text
            most_bytes -= len(text.encode())
        if most_bytes <= 0:
            return


def estimate(config: PretrainConfig, model: GPT, text_bytes: int) -> str:
    """What the run is going to take, before it starts."""
    parameters = model.parameters_count
    tokens = config.steps * config.tokens_per_step
    activations = config.device_batch_size * config.sequence_len * config.layers * (16 + 4 * config.mlp_ratio)
    megabytes = (16 * parameters + 4 * activations * config.width) / 1e6
    return (
        f"{parameters / 1e6:.2f} M parameters, {text_bytes / 1e6:.1f} MB of text; {config.steps} steps of "
        f"{config.tokens_per_step:,} tokens = {tokens / 1e6:.2f} M ({tokens / parameters:.1f} a parameter), "
        f"{tokens * model.flops_per_token:.1e} FLOPs, about {megabytes:.0f} MB a rank beyond torch itself"
    )


def _finish(
    config: PretrainConfig, reader: ShardReader, tokenizer: Tokenizer, texts: list[str], run: Run
) -> None:
    """Write evaluation.json, which marks the run as finished, and print it."""
    found: dict[str, Any] = {"step": run.step, "tokens": run.tokens, **run.measured}
    if texts:
        ids, targets = _seen(config, reader, tokenizer)
        found["baselines"] = baselines(ids, targets, texts, tokenizer)
        found["held_out_bytes"] = sum(len(text.encode()) for text in texts)
        print(_table(found))
    else:
        print("the corpus holds no text out, so there is nothing to measure the model on")
    with replacing(config.out / EVALUATION) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _seen(
    config: PretrainConfig, reader: ShardReader, tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and targets (n, T) of the run's first steps once more, up to `baseline_bytes` of text."""
    lengths = np.array(tokenizer.byte_lengths)
    loader = Loader(reader, tokenizer, config)
    batches: list[Batch] = []
    left = config.baseline_bytes
    for _ in range(config.steps):
        batches += (step := loader.next_step())
        left -= sum(int(lengths[batch["ids"]].sum()) for batch in step)
        if left <= 0:
            break
    loader.close()
    ids, targets = (torch.cat([batch[name] for batch in batches]).numpy() for name in ("ids", "targets"))
    return ids, targets


def _table(found: dict[str, Any]) -> str:
    """Model and baselines, worst first."""
    rows = sorted([*found["baselines"].items(), ("model", found["val_bpb"])], key=lambda row: -row[1])
    title = f"bits per byte of {found['held_out_bytes'] / 1000:.0f} kB held-out text"
    return "\n".join([title, *(f"  {name:<8} {bits:6.3f}" for name, bits in rows)])


def main() -> None:
    with exit_on_error():
        app = App(name="python -m trainer.pretrain", help=__doc__, config=layers(pretrain=PretrainConfig))
        app.default(_command)
        app()


def _command(config: Annotated[PretrainConfig, Parameter(name="*")] = PretrainConfig()) -> None:
    pretrain(config)


if __name__ == "__main__":
    main()
