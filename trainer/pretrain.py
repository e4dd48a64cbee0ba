"""Pretraining: shards in, a model out. `python -m trainer.pretrain`, or with torchrun on many processes.

    torchrun --nproc-per-node 2 -m trainer.pretrain --shards runs/shards --out runs/model

The run's folder comes to hold manifest.json (the snapshot it is pinned to, so that a crawl may go on beside
it), tokenizer.json, metrics.jsonl, checkpoints, and at the end evaluation.json. The same command on the same
folder goes on where the last checkpoint is; on a finished run it says so. With --init-from a model that was
trained before, here or elsewhere, is trained further.
"""

import contextlib
import json
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from numpy.typing import NDArray
from torch.distributed.elastic.multiprocessing.errors import record

from tinylm.config import layers
from tinylm.errors import exit_on_error
from tinylm.files import replacing
from trainer.config import PretrainConfig, require
from trainer.data.loader import Loader
from trainer.data.sources import Source, open_sources, pin_sources, sample
from trainer.evaluate import baselines, bits_per_byte, held_out_texts
from trainer.generate import Generator
from trainer.interop.start import Start, pin, shaped
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.run.distributed import World, connect, speaks
from trainer.run.hardware import describe_hardware
from trainer.run.loop import Batch, Run
from trainer.run.preflight import Estimate, check, check_memory
from trainer.tokenizer import Tokenizer

EVALUATION = "evaluation.json"


def pretrain(config: PretrainConfig) -> None:
    """Train to the end, or say that it is done; raises a `TinylmError` for what the user can mend."""
    start = Start.at(config.init_from) if config.init_from else None
    if start:
        config = shaped(config, start)
    if finished(config):
        if speaks():
            print(f"{config.out}: finished, {config.steps} steps; start another run with another --out")
        return
    expected = check(config, config.model(config.vocab_size), config.steps)
    with connect(config.timeout_seconds) as world:
        if world.device.type != "cpu":  # which `check` has looked at
            check_memory(config, expected, world.device)
        if world.is_main:
            _prepare(config, start)
        world.barrier()
        sources = open_sources(config)
        held_out = sources[0].held_out
        texts = held_out_texts(held_out, config.eval_bytes) if held_out else []
        tokenizer = Tokenizer.load(config.out / checkpoint.TOKENIZER)
        with contextlib.closing(Loader(sources, tokenizer, config, world)) as loader:
            run = _run(config, world, loader, tokenizer, texts, start)
            if world.is_main:
                if start:
                    print(start.describe())
                print(_before(expected, run, sources, config, world, loader))
            run.fit()
            if world.is_main:
                print(loader.describe_packing())
    if world.is_main:
        _finish(config, sources, tokenizer, texts, run)


def _before(
    expected: Estimate,
    run: Run,
    sources: list[Source],
    config: PretrainConfig,
    world: World,
    loader: Loader,
) -> str:
    """What is about to happen."""
    text_bytes = sum(source.reader.text_bytes for source in sources)
    lines = [
        expected.describe(run.peak),
        f"{text_bytes / 1e6:.1f} MB of text; {describe_hardware(config, world)}",
        str(loader.sampling or ""),
        f"goes on after step {run.step}" if run.step else "starts",
    ]
    return "\n".join(filter(None, lines))


def finished(config: PretrainConfig) -> bool:
    """Whether `config.out` holds this run, complete; raises `CheckpointError` if it holds another."""
    state = checkpoint.last_state(config)
    return state is not None and state["step"] == config.steps and (config.out / EVALUATION).exists()


def _run(
    config: PretrainConfig,
    world: World,
    loader: Loader,
    tokenizer: Tokenizer,
    texts: list[str],
    start: Start | None,
) -> Run:
    torch.manual_seed(config.seed)
    if start:
        model = start.load(config.sequence_len, world.device)
    else:
        model = GPT(config.model(tokenizer.vocab_size)).to(world.device)

    def evaluate() -> dict[str, Any]:
        found: dict[str, Any] = {"val_bpb": bits_per_byte(model, tokenizer, texts, world)} if texts else {}
        if config.sample_prompt and world.is_main:
            generator = Generator(model, tokenizer, weights=None)
            pieces = generator.complete(config.sample_prompt, max_tokens=48, seed=0)
            found["sample"] = config.sample_prompt + "".join(pieces)
            print(f"\n{found['sample']!r}")
        return found

    return Run(model, loader, config, world, steps=config.steps, evaluate=evaluate)


def _prepare(config: PretrainConfig, start: Start | None) -> None:
    """Make the run's folder: the pinned snapshots and start, and the tokenizer unless there is one."""
    pin_sources(config)
    pin(config)
    path = config.out / checkpoint.TOKENIZER
    if start:
        start.tokenizer.save(path)
    elif not path.exists():
        texts = sample(open_sources(config), config.tokenizer_bytes, config.seed)
        Tokenizer.train(texts, config.vocab_size).save(path)
    trained = Tokenizer.load(path).vocab_size
    require(
        config, "vocab_size", trained <= config.vocab_size, f"{path} has {trained}; delete it for another"
    )


def _finish(
    config: PretrainConfig, sources: list[Source], tokenizer: Tokenizer, texts: list[str], run: Run
) -> None:
    """Write evaluation.json, which marks the run as finished, and print it."""
    found: dict[str, Any] = {"step": run.step, "tokens": run.tokens, **run.measured}
    if texts:
        ids, targets = _seen(config, sources, tokenizer)
        found["baselines"] = baselines(ids, targets, texts, tokenizer)
        found["held_out_bytes"] = sum(len(text.encode()) for text in texts)
        print(_table(found))
    else:
        print("the corpus holds no text out, so there is nothing to measure the model on")
    with replacing(config.out / EVALUATION) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def _seen(
    config: PretrainConfig, sources: list[Source], tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and targets (n, T) of the run's first steps once more, up to `baseline_bytes` of text."""
    lengths = np.array(tokenizer.byte_lengths)
    batches: list[Batch] = []
    left = config.baseline_bytes
    with contextlib.closing(Loader(sources, tokenizer, config)) as loader:
        for _ in range(config.steps):
            batches += (step := loader.next_step())
            left -= sum(int(lengths[batch["ids"]].sum()) for batch in step)
            if left <= 0:
                break
    ids, targets = (torch.cat([batch[name] for batch in batches]).numpy() for name in ("ids", "targets"))
    return ids, targets


def _table(found: dict[str, Any]) -> str:
    """Model and baselines, worst first."""
    rows = sorted([*found["baselines"].items(), ("model", found["val_bpb"])], key=lambda row: -row[1])
    title = f"bits per byte of {found['held_out_bytes'] / 1000:.0f} kB held-out text"
    return "\n".join([title, *(f"  {name:<8} {bits:6.3f}" for name, bits in rows)])


@record  # torchrun shows the traceback of the rank that failed first
def main() -> None:
    with exit_on_error():
        app = App(name="python -m trainer.pretrain", help=__doc__, config=layers(pretrain=PretrainConfig))
        app.default(_command)
        app()


def _command(config: Annotated[PretrainConfig, Parameter(name="*")] = PretrainConfig()) -> None:
    pretrain(config)


if __name__ == "__main__":
    main()
