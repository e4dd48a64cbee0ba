"""Supervised fine-tuning: a pretrained model and conversations in, a model that answers out.

    torchrun --nproc-per-node 2 -m trainer.sft --data runs/instructions.jsonl --init-from runs/model

The loss is that of the assistant's tokens alone, their sum divided by their number over all ranks and
micro-batches, so a short answer counts no more a token than a long one. Conversations in NAME.val.jsonl are
scored before and after (evaluation.json). The run's folder is like pretraining's, and so is going on: the
same command continues a run that was killed, with the same losses, and says so when there is nothing to do.
"""

from dataclasses import replace
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from tinylm.terminal import say, tally
from trainer.config import SFTConfig, identity
from trainer.evaluate import evaluating
from trainer.interop.start import Start, check_length, fingerprint
from trainer.model.model import GPT
from trainer.post.chat import held_out_file
from trainer.post.conversations import (
    Conversations,
    ConversationSource,
    batches,
    digest,
    plan,
    read_conversations,
)
from trainer.run import checkpoint
from trainer.run.distributed import World, connect
from trainer.run.lifecycle import command, finish, finished, holding
from trainer.run.loop import Run
from trainer.run.preflight import check
from trainer.tokenizer import Tokenizer

# Most keys and faults that are named of a file: of a good one there are few, a bad one may have one a line.
_NAMED = 10


def sft(config: Annotated[SFTConfig, Parameter(name="*")] = SFTConfig()) -> None:
    """Fine-tune to the end, or say that it is done; raises a `TinylmError` for what the user can mend."""
    known = {"data.sha256": digest(config.data), "init_from.sha256": fingerprint(config.init_from)}
    known = identity(config) | known
    if finished(config, known):
        return
    start = Start.at(config.init_from)
    check_length(config, start)
    sequence_len = config.sequence_len or start.shape.sequence_len
    check(config, replace(start.shape, sequence_len=sequence_len), steps=1)  # as many as the data say
    with holding(config.out):
        _train(config, known, start, sequence_len)


def _train(config: SFTConfig, known: dict[str, Any], start: Start, sequence_len: int) -> None:
    with connect() as world:
        model, tokenizer = start.load(sequence_len, world.device), start.tokenizer
        data = read_conversations(config.data, tokenizer, sequence_len, config.on_bad_line)
        held_out = read_held_out(config, tokenizer, sequence_len)
        source = ConversationSource(data, sequence_len, config, world)

        def evaluate() -> dict[str, Any]:
            return {"val_loss": mean_loss(model, held_out, config, world)} if held_out else {}

        before = evaluate()  # ahead of `Run`, which puts a checkpoint's weights in place of the first ones
        run = Run(model, source, config, world, steps=source.steps, evaluate=evaluate, identity=known)
        if world.is_main:
            tokenizer.save(config.out / checkpoint.TOKENIZER)
            say(start.describe())
            say(summary(data, held_out, source.steps, config))
            if run.step:
                say(f"goes on after step {run.step}")
        run.fit()
    if world.is_main:
        after = run.measured
        finish(config, {"val_loss_before": before.get("val_loss"), "val_loss": after.get("val_loss")})
        if after:
            say(
                f"held-out answers: {before['val_loss']:.3f} nats a token before, "
                f"{after['val_loss']:.3f} after"
            )
        say(f"written: {checkpoint.latest(config.out)}")


def read_held_out(config: SFTConfig, tokenizer: Tokenizer, sequence_len: int) -> Conversations | None:
    """The conversations of NAME.val.jsonl, None if there is no such file or nothing in it."""
    path = held_out_file(config.data)
    if not path.exists() or not path.stat().st_size:
        return None
    return read_conversations(path, tokenizer, sequence_len, config.on_bad_line)


def mean_loss(model: GPT, conversations: Conversations, config: SFTConfig, world: World) -> float:
    """Nats per token of the assistant's; the ranks share the work and get the same result."""
    sequence_len = model.config.sequence_len
    rows = plan(conversations, sequence_len, seed=0, epochs=1)  # the order changes only how sums are rounded
    total = torch.zeros(2, dtype=torch.float64, device=world.device)  # nats, and tokens
    with evaluating(model):
        for batch in batches(conversations, rows, sequence_len, config.device_batch_size, world):
            loss, count = model(**batch)
            total += torch.stack((loss.double(), count.double()))
    loss, count = world.sum(total).tolist()
    return float(loss / count)


def summary(data: Conversations, held_out: Conversations | None, steps: int, config: SFTConfig) -> str:
    """What is about to happen, and what was left out or cut."""
    text = (
        f"{len(data.examples):,} conversations, {data.supervised:,} tokens to learn, {config.epochs} epochs: "
        f"{steps} steps of {config.tokens_per_step:,} tokens; "
        f"{len(held_out.examples) if held_out else 0:,} conversations held out"
    )
    for part in (data, held_out):
        if not part:
            continue
        if part.cut or part.bad or part.unanswered:
            text += (
                f"\n{part.path}: {part.cut} conversations cut to the model's sequence_len, "
                f"{part.unanswered} without an answer and {part.bad.total()} bad lines left out"
            )
        if part.bad:
            text += f" ({tally(part.bad, _NAMED)})"
        if part.masked:
            text += f"\n{part.path}: {part.masked} answers are not learned, as they say themselves"
        if part.unread:
            text += f"\n{part.path}: nothing is done with {', '.join(sorted(part.unread)[:_NAMED])}"
    return text


def main() -> None:
    command(sft, SFTConfig, __doc__)


if __name__ == "__main__":
    main()
