"""Pretraining: shards in, a model out. `python -m trainer.pretrain`, or with torchrun on many processes.

    torchrun --nproc-per-node 2 -m trainer.pretrain --shards runs/crawl/shards --out runs/model

The run's folder comes to hold manifest.json (the snapshot it is pinned to, so that a crawl may go on beside
it), tokenizer.json, metrics.jsonl, checkpoints, and at the end evaluation.json. The same command on the same
folder goes on where the last checkpoint is; on a finished run it says so. With --init-from a model that was
trained before, here or elsewhere, is trained further.
"""

import contextlib
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from numpy.typing import NDArray

from tinylm.config import require
from tinylm.terminal import entered, say
from trainer.config import PretrainConfig, identity
from trainer.data.batch import Batch
from trainer.data.loader import Loader
from trainer.data.sources import Source, open_sources, pin_sources, sample
from trainer.evaluate import baselines, bits_per_byte, held_out_texts
from trainer.generate import Generator
from trainer.interop.start import Start, fingerprint, shaped
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.run.distributed import World, connect
from trainer.run.lifecycle import command, finish, finished, grow, holding
from trainer.run.loop import Run
from trainer.run.preflight import Estimate, check, check_memory, describe_hardware
from trainer.tokenizer import LONGEST_PIECE, Tokenizer

# Text the tokenizer is trained on, at most, of all sources by share: about 4 seconds, in proportion.
_TOKENIZER_BYTES = 8_000_000
# Held-out text that is scored, at most: a fourth of it doubles the noise of val_bpb, which is scored often.
_EVAL_BYTES = 100_000


def pretrain(config: Annotated[PretrainConfig, Parameter(name="*")] = PretrainConfig()) -> None:
    """Train to the end, or say that it is done; raises a `TinylmError` for what the user can mend."""
    start = Start.at(config.init_from) if config.init_from else None
    if start:
        config = shaped(config, start)
    known = identity(config) | {"sources": len(config.sources)}
    known["init_from.sha256"] = fingerprint(start.path) if start else None
    if finished(config, known, config.steps):
        return
    expected = check(config, config.model(config.vocab_size), config.steps)
    with holding(config.out):
        _train(config, known, start, expected)


def _train(config: PretrainConfig, known: dict[str, Any], start: Start | None, expected: Estimate) -> None:
    with connect() as world:
        if world.device.type != "cpu":  # which `check` has looked at
            check_memory(config, expected, world.device)
        if world.is_main:
            _prepare(config, start)
        world.barrier()  # the others read what it wrote
        sources = open_sources(config)
        held_out = sources[0].held_out
        texts = held_out_texts(held_out, _EVAL_BYTES) if held_out else []
        tokenizer = Tokenizer.load(config.out / checkpoint.TOKENIZER)
        with contextlib.closing(Loader(sources, tokenizer, config, world)) as loader:
            torch.manual_seed(config.seed)  # all ranks make the same first weights
            if start:
                model = start.load(config.sequence_len, world.device)
            else:
                model = GPT(config.model(tokenizer.vocab_size)).to(world.device)
            evaluate = partial(_measure, model, tokenizer, texts, config, world)
            whole = known | loader.identity
            run = Run(model, loader, config, world, steps=config.steps, evaluate=evaluate, identity=whole)
            if world.is_main:
                if start:
                    say(start.describe())
                text_bytes = sum(source.reader.text_bytes for source in sources)
                say(expected.describe(run.peak))
                say(f"{text_bytes / 1e6:.1f} MB of text; {describe_hardware(config, world)}")
                if loader.sampling:
                    say(loader.sampling.description)
                say(f"goes on after step {run.step}" if run.step else "starts")
            run.fit()
            if world.is_main:
                say(loader.describe_packing())
    if world.is_main:
        found = {"step": run.step, "tokens": run.tokens, **run.measured}
        finish(config, found | _beside_baselines(config, sources, tokenizer, texts, run))


def _prepare(config: PretrainConfig, start: Start | None) -> None:
    """Make the run's folder: the pinned snapshots, and the tokenizer unless there is one."""
    grow(config, config.steps)
    pin_sources(config, begun=checkpoint.latest(config.out) is not None)
    path = config.out / checkpoint.TOKENIZER
    if start:
        start.tokenizer.save(path)
    elif not path.exists():
        most = f"{_TOKENIZER_BYTES / 1e6:.0f} MB of the text"
        say(
            f"trains a tokenizer of {config.vocab_size:,} on up to {most}, in which pieces of more than "
            f"{LONGEST_PIECE} characters are cut"
        )
        texts = sample(open_sources(config), _TOKENIZER_BYTES, config.seed)
        Tokenizer.train(texts, config.vocab_size).save(path)
    trained = Tokenizer.load(path).vocab_size
    require(
        config, "vocab_size", trained <= config.vocab_size, f"{path} has {trained}: start with another --out"
    )


def _measure(
    model: GPT, tokenizer: Tokenizer, texts: list[str], config: PretrainConfig, world: World
) -> dict[str, Any]:
    """Bits per byte of the held-out `texts`, if there are any; prints a sample."""
    found: dict[str, Any] = {"val_bpb": bits_per_byte(model, tokenizer, texts, world)} if texts else {}
    if config.sample_prompt and world.is_main:
        # Without a copy of the weights, which would be of this moment only.
        generator = Generator(model, tokenizer, weights=None)
        prompt = entered(config.sample_prompt)
        found["sample"] = prompt + "".join(generator.complete(prompt, max_tokens=48, seed=0))
        say(f"\n{found['sample']!r}")
    return found


def _beside_baselines(
    config: PretrainConfig, sources: list[Source], tokenizer: Tokenizer, texts: list[str], run: Run
) -> dict[str, Any]:
    """Bits per byte of n-grams and xz on the held-out `texts`; prints them with the model's, worst first."""
    if not texts:
        say("the corpus holds no text out, so there is nothing to measure the model on")
        return {}
    ids, targets = _seen(config, sources, tokenizer)
    found = baselines(ids, targets, texts, tokenizer)
    size = sum(len(text.encode()) for text in texts)
    say(f"bits per byte of {size / 1000:.0f} kB held-out text")
    for name, bits in sorted([*found.items(), ("model", run.measured["val_bpb"])], key=lambda row: -row[1]):
        say(f"  {name:<8} {bits:6.3f}")
    return {"baselines": found, "held_out_bytes": size}


def _seen(
    config: PretrainConfig, sources: list[Source], tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and targets (n, T) that the model saw in its first steps, up to `baseline_bytes` of text."""
    lengths = np.array(tokenizer.byte_lengths)
    batches: list[Batch] = []
    left = config.baseline_bytes
    with contextlib.closing(Loader(sources, tokenizer, config, World())) as loader:
        for _ in range(config.steps):
            batches += (step := loader.next_step())
            left -= sum(int(lengths[batch["ids"]].sum()) for batch in step)
            if left <= 0:
                break
    ids, targets = (torch.cat([batch[name] for batch in batches]).numpy() for name in ("ids", "targets"))
    return ids, targets


def main() -> None:
    command(pretrain, PretrainConfig, __doc__)


if __name__ == "__main__":
    main()
