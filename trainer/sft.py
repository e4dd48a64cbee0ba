"""Supervised fine-tuning: a pretrained model and conversations in, a model that answers out.

    torchrun --nproc-per-node 2 -m trainer.sft --data chat.jsonl --init-from runs/model --out runs/chat

The loss is that of the assistant's tokens alone, their sum divided by their number over all ranks and
micro-batches, so a short answer counts no more a token than a long one. Conversations in NAME.val.jsonl are
scored before and after (evaluation.json). The run's folder is like pretraining's, and so is going on: the
same command continues a run that was killed, with the same losses, and says so when there is nothing to do.
"""

import json
from dataclasses import replace
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from torch.distributed.elastic.multiprocessing.errors import record

from tinylm.config import layers
from tinylm.errors import exit_on_error
from tinylm.files import replacing
from trainer.config import SFTConfig
from trainer.evaluate import evaluating
from trainer.interop.start import Start, check_length, fingerprint
from trainer.model.model import GPT
from trainer.post.chat import held_out_file
from trainer.post.conversations import (
    Conversations,
    ConversationSource,
    batches,
    check_origin,
    digest,
    plan,
    read_conversations,
)
from trainer.run import checkpoint
from trainer.run.distributed import World, connect, speaks
from trainer.run.loop import Run
from trainer.run.preflight import check
from trainer.tokenizer import Tokenizer

EVALUATION = "evaluation.json"


def sft(config: SFTConfig) -> None:
    """Fine-tune to the end, or say that it is done; raises a `TinylmError` for what the user can mend."""
    if finished(config):
        if speaks():
            print(f"{config.out}: finished; start another run with another --out")
        return
    start = Start.at(config.init_from)
    check_length(config, start)
    sequence_len = config.sequence_len or start.shape.sequence_len
    check(config, replace(start.shape, sequence_len=sequence_len), steps=1)
    with connect(config.timeout_seconds) as world:
        model, tokenizer = start.load(sequence_len, world.device), start.tokenizer
        data = read_conversations(config.data, tokenizer, sequence_len, config.on_bad_line)
        held_out = read_held_out(config, tokenizer, sequence_len)
        source = ConversationSource(data, sequence_len, config, world, origin(config))

        def evaluate() -> dict[str, Any]:
            return {"val_loss": mean_loss(model, held_out, config, world)} if held_out else {}

        before = evaluate()
        run = Run(model, source, config, world, steps=source.steps, evaluate=evaluate)
        if world.is_main:
            _prepare(config, tokenizer)
            print(start.describe())
            print(summary(data, held_out, source.steps, config))
            if run.step:
                print(f"goes on after step {run.step}")
        run.fit()
    if world.is_main:
        _finish(config, before, run.measured)


def finished(config: SFTConfig) -> bool:
    """Whether `config.out` holds this run, complete.

    Raises `CheckpointError` if it holds one of other settings, `DataError` if a complete one of other data or
    first weights.
    """
    state = checkpoint.last_state(config)
    if state is None or state["step"] < state["steps"] or not (config.out / EVALUATION).exists():
        return False
    check_origin(state["data"]["origin"], origin(config))
    return True


def origin(config: SFTConfig) -> dict[str, str]:
    """What decides the course of a run besides its settings: the digests of its data and first weights."""
    return {"data": digest(config.data), "init_from": fingerprint(config.init_from)}


def read_held_out(config: SFTConfig, tokenizer: Tokenizer, sequence_len: int) -> Conversations | None:
    """The conversations of NAME.val.jsonl, None if there is no such file or nothing in it."""
    path = held_out_file(config.data)
    if not path.exists() or not path.stat().st_size:
        return None
    return read_conversations(path, tokenizer, sequence_len, config.on_bad_line)


def mean_loss(model: GPT, conversations: Conversations, config: SFTConfig, world: World) -> float:
    """Nats per token of the assistant's; the ranks share the work and get the same result."""
    sequence_len = model.config.sequence_len
    rows = plan(conversations, sequence_len, seed=0, epochs=1)
    total = torch.zeros(2, dtype=torch.float64, device=world.device)
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
        if part and (part.cut or part.bad_lines or part.unanswered):
            text += (
                f"\n{part.path}: {part.cut} conversations cut to the model's sequence_len, "
                f"{part.unanswered} without an answer and {part.bad_lines} bad lines left out"
            )
    return text


def _prepare(config: SFTConfig, tokenizer: Tokenizer) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(config.out / checkpoint.TOKENIZER)


def _finish(config: SFTConfig, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Write evaluation.json and print it."""
    result: dict[str, Any] = {"val_loss_before": before.get("val_loss"), "val_loss": after.get("val_loss")}
    with replacing(config.out / EVALUATION) as temporary:
        temporary.write_text(json.dumps(result, indent=1))
    if after:
        print(
            f"held-out answers: {before['val_loss']:.3f} nats a token before, {after['val_loss']:.3f} after"
        )
    print(f"written: {checkpoint.latest(config.out)}")


@record  # torchrun shows the traceback of the rank that failed first
def main() -> None:
    with exit_on_error():
        app = App(name="python -m trainer.sft", help=__doc__, config=layers(sft=SFTConfig))
        app.default(_command)
        app()


def _command(config: Annotated[SFTConfig, Parameter(name="*")] = SFTConfig()) -> None:
    sft(config)


if __name__ == "__main__":
    main()
