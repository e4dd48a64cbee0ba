"""Documents into rows of `sequence_len`, so that every token is predicted exactly once.

A document is `<|endoftext|>`, its tokens, and `<|endoftext|>` again; each token but the first is predicted
from the one before it. `concat` strings the documents together, each end being the next one's beginning, and
cuts every `sequence_len`: only the last row is padded, but a row may begin anywhere. `best-fit` (Ding et al.
2024, arXiv 2404.10830) cuts only documents that are longer than a row, and puts the pieces, longest first,
each into the fullest row that still has room: fewer documents are cut, and rows may end in padding.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]
Packing = Literal["concat", "best-fit"]


class Rows(NamedTuple):
    """Packed rows: `ids` and the `targets` they predict, (n, sequence_len); of each the first `filled` count.

    `documents` are in them, of which `cut` do not lie in one row.
    """

    ids: Tokens
    targets: Tokens
    filled: NDArray[np.int64]
    documents: int
    cut: int


def pack(documents: Sequence[Tokens], endoftext: int, sequence_len: int, how: Packing = "concat") -> Rows:
    """Pack the ids of `documents`, which have one dtype, the result's; no documents, no rows."""
    lengths = np.array([len(document) + 1 for document in documents], np.int64)
    begins = np.cumsum(lengths) - lengths
    used = int(lengths.sum())
    dtype = documents[0].dtype if documents else np.uint32
    # Longer than what is used, so that the last row and its targets can be read from it; its end is padding.
    stream = np.full(used + sequence_len, endoftext, dtype)
    for document, begin in zip(documents, begins.tolist(), strict=True):
        stream[begin + 1 : begin + 1 + len(document)] = document
    # Of each document: the rows it fills alone, and what is left for a row it shares.
    whole, rest = np.divmod(lengths, sequence_len)
    shared: list[list[tuple[int, int]]] = []
    if how == "concat":
        starts = np.arange(0, used, sequence_len)
        cut = begins // sequence_len != (begins + lengths - 1) // sequence_len
    else:
        # Number of each such row in its document: 0, 1, 0, 0, 1, 2 for documents of 2, 1 and 3 of them.
        number = np.arange(whole.sum()) - np.repeat(np.cumsum(whole) - whole, whole)
        starts = np.repeat(begins, whole) + number * sequence_len
        pieces = np.flatnonzero(rest)
        order = pieces[np.argsort(-rest[pieces], kind="stable")]
        ends = begins + whole * sequence_len
        fitted = best_fit(order.tolist(), rest.tolist(), sequence_len)
        shared = [[(int(ends[piece]), int(rest[piece])) for piece in row] for row in fitted]
        cut = lengths > sequence_len
    ids, targets = np.full((2, len(starts) + len(shared), sequence_len), endoftext, dtype)
    places = starts[:, None] + np.arange(sequence_len)
    ids[: len(starts)], targets[: len(starts)] = stream[places], stream[places + 1]
    filled = np.full(len(ids), sequence_len)
    filled[: len(starts)] = np.minimum(sequence_len, used - starts)
    for row, fitting in enumerate(shared, len(starts)):
        at = 0
        for begin, length in fitting:
            ids[row, at : at + length] = stream[begin : begin + length]
            targets[row, at : at + length] = stream[begin + 1 : begin + length + 1]
            at += length
        filled[row] = at
    return Rows(ids, targets, filled, len(documents), int(cut.sum()))


def best_fit(order: Sequence[int], lengths: Sequence[int], room: int) -> list[list[int]]:
    """The pieces in each row of `room`, taken in `order`, each into the fullest row it fits in.

    `lengths` are those of all pieces, none above `room`.
    """
    rows: list[list[int]] = []
    # What is left of a row, and its number; sorted, so that the fullest that fits is found by bisection.
    free: list[tuple[int, int]] = []
    for piece in order:
        place = bisect_left(free, (lengths[piece], -1))
        left, row = free.pop(place) if place < len(free) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        insort(free, (left - lengths[piece], row))
    return rows


def segments(ids: Tokens, targets: Tokens, endoftext: int) -> NDArray[np.int64]:
    """The number (n, T) of the document that each position belongs to, within its row; for masks."""
    # A piece that is no document's beginning follows a target that it does not begin with.
    begins = (ids[:, 1:] == endoftext) | (ids[:, 1:] != targets[:, :-1])
    numbers = np.zeros(ids.shape, np.int64)
    np.cumsum(begins, axis=1, out=numbers[:, 1:])
    return numbers
