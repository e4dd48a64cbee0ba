"""How good is the model: bits per byte of text it has never seen.

Unlike a loss per token, bits per byte compare models with different tokenizers, and with `trainer.baselines`.
Bytes are counted on the text itself, never on what tokens decode to. Scoring 100 kB takes about a third of
the time of training on it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from shards.reader import ShardReader
from trainer.model.model import GPT, IGNORE
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

_ROWS_AT_ONCE = 16


def held_out_texts(reader: ShardReader, most_bytes: int) -> list[str]:
    """Up to `most_bytes` of the text `reader` reads, an even share of each row group; [] if there is none."""
    groups = sorted((reader.texts(group) for group in reader.row_groups), key=_size)
    chosen: list[str] = []
    for number, texts in enumerate(groups):
        share = (most_bytes - _size(chosen)) // (len(groups) - number)
        chosen += _head(texts, share)
    return chosen


def _size(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _head(texts: Sequence[str], most_bytes: int) -> list[str]:
    """The first `most_bytes` of texts, the last of them cut between two characters."""
    taken = []
    for text in texts:
        head = text.encode()[:most_bytes].decode(errors="ignore")
        if not head:
            break
        taken.append(head)
        most_bytes -= len(head.encode())
    return taken


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """The model as it is used and not as it is trained, which differ with batch norm; without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def bits_per_byte(
    model: GPT, tokenizer: Tokenizer, texts: Sequence[str], world: World | None = None
) -> float:
    """Bits the model needs for a byte of `texts`, each text read alone, in windows of `sequence_len` tokens.

    Every token is predicted once, the first from `<|endoftext|>`; a window knows nothing of the one before
    it. The ranks of `world` share the work and get the same result; they must be called with the same texts.
    """
    world = world or World()
    rows = torch.cat(
        [_windows(tokenizer.encode(text), tokenizer, model.config.sequence_len) for text in texts]
    )
    nats = torch.zeros((), dtype=torch.float64, device=world.device)
    with evaluating(model):
        for start in range(world.rank * _ROWS_AT_ONCE, len(rows), world.size * _ROWS_AT_ONCE):
            batch = rows[start : start + _ROWS_AT_ONCE].to(world.device)
            loss, _ = model(batch[:, :-1].clamp(min=0), batch[:, 1:])
            nats += loss
    return float(world.sum(nats)) / math.log(2) / _size(texts)


def _windows(tokens: Sequence[int], tokenizer: Tokenizer, length: int) -> Tensor:
    """Rows (n, length + 1): the targets of a row are its tokens from the second on, `IGNORE` past the end."""
    count = -(-len(tokens) // length)
    padding = [IGNORE] * (count * length - len(tokens))
    row = torch.tensor([tokenizer.endoftext, *tokens, *padding])
    return row.unfold(0, length + 1, length)[:count] if count else row.new_empty((0, length + 1))
