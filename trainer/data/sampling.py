"""Sampling by a column: how many times each document is read in each epoch.

A document's weight is its number to the power `sample_power`, scaled so that the mean over the training
documents is 1, and an epoch as long as without; it is at most 4, since up to four readings are worth nearly
as much as new text (Muennighoff et al. 2023, arXiv 2305.16264), and what that takes from the highest goes to
all others in proportion. A document of weight w is read, in any n epochs in a row, n w times, rounded up or
down: a hash of its id says where it begins. So it is a pure function of (numbers, seed, epoch, id).
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.columns import read_column
from shards.reader import RowGroup, ShardReader
from tinylm.errors import TinylmError

# Weight of a document at most, whatever its number: up to four readings are worth nearly as much as new text
# (arXiv 2305.16264).
MOST_READINGS = 4
# Weights are whole multiples of 1 / _UNIT, so that no rounding can differ between machines or epochs. What
# weighs less than half of it, one reading in two million epochs, is never read.
_UNIT = 1 << 20


class SamplingError(TinylmError):
    """Numbers that nothing can be sampled by."""


class Sampling:
    """Says of each training document how often it is read; 8 bytes a document."""

    def __init__(self, reader: ShardReader, column: str, power: float, seed: int) -> None:
        found = read_column(reader, column)
        numbers = np.concatenate([*found.values.values(), np.zeros(0)])
        trained_on = ~np.isnan(numbers)
        if (numbers[trained_on] < 0).any():
            raise SamplingError(
                f"{found.source} is {np.nanmin(numbers)} for a document: must not be negative"
            )
        if not (numbers[trained_on] > 0).any():
            raise SamplingError(f"{found.source} is 0 for every training document")
        weights = np.zeros(numbers.size)
        weights[trained_on] = weigh(numbers[trained_on], power)
        self._seed = seed
        self._weights: dict[RowGroup, NDArray[np.int64]] = {}
        begin = 0
        for group in found.values:
            self._weights[group] = np.rint(weights[begin : begin + group.rows] * _UNIT).astype(np.int64)
            begin += group.rows
        self.fingerprint = hashlib.sha256(numbers.tobytes()).hexdigest()
        self.description = (
            f"documents are read in proportion to {found.source}: {(weights >= MOST_READINGS).sum():,} of "
            f"{trained_on.sum():,} {MOST_READINGS} times an epoch, the most there is; "
            f"{(weights[trained_on] == 0).sum():,} never"
        )

    def readings(self, group: RowGroup, document: dict[str, Any], epoch: int) -> int:
        """How often `document` (with its `row` and `id`) is read in this epoch."""
        digest = hashlib.blake2b(f"{self._seed}/{document['id']}".encode(), digest_size=8).digest()
        # How far the document is in its next reading when epoch 0 begins.
        begins = int.from_bytes(digest, "little") % _UNIT
        weight = int(self._weights[group][document["row"]])
        return ((epoch + 1) * weight + begins) // _UNIT - (epoch * weight + begins) // _UNIT

    def reads_none_of(self, group: RowGroup) -> bool:
        """Whether no document of a row group is ever read."""
        return not self._weights[group].any()


def weigh(numbers: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Weights (n,) in proportion to numbers ** power, with mean 1 and at most MOST_READINGS.

    If fewer than 1 in MOST_READINGS is above 0, all of those have the highest weight and the mean is below 1.
    Numbers above 0 are within a factor of 1e300 of each other: a float's range ends soon after.
    """
    # By the largest first: a power of a large number would be beyond a float.
    raw = (numbers / numbers.max()) ** power
    falling = np.sort(raw[raw > 0])[::-1]
    highest = np.arange(falling.size)  # so many have the most, the others share what is left
    rest = np.cumsum(falling[::-1])[::-1]
    with np.errstate(over="ignore"):
        scale = (raw.size - MOST_READINGS * highest) / rest
        fits = (scale > 0) & (scale * falling <= MOST_READINGS)
    if not fits.any():
        return np.where(raw > 0, float(MOST_READINGS), 0.0)
    weights: NDArray[np.float64] = np.minimum(MOST_READINGS, raw * scale[fits.argmax()])
    return weights
