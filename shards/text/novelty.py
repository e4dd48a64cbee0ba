"""`Novelty`: how much of a text no earlier one had, remembered in about a hundred bytes a text.

Two questions, one pass. Is a text nearly one that was there before: LSHBloom (Khan et al. 2024), MinHash
bands in a Bloom filter instead of an index, 14 bands of 8 as FineWeb has them. A pair is found with
probability 1 - (1 - s**8)**14 for an overlap (Jaccard) of s:

    s      0.5    0.6    0.7    0.72   0.8    0.9    0.95
    found  0.053  0.211  0.565  0.655  0.924  0.9996 1

and a text like no other is taken for one with a probability below 0.0002 for each part the index has
grown by. And
if it is not: which share of its 5-grams is new, by a Bloom filter of a sixteenth of all 5-grams, chosen by
their hashes (DCLM's BFF has all of them). That counts what many pages have in common, licences and menus,
which a comparison of pairs does not see.

Memory: 42 bytes a text for the first and about 66 for the second at 700 words; with what the newest part
of the filters still holds free, 110 to 220 MB for a million texts.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.text.minhash import bands, minhash, mixed, shingles
from shards.text.parts import joined, part_of
from shards.text.signals import Signals

BANDS, ROWS = 14, 8
_BITS_OF_A_BAND, _BITS_OF_A_SHINGLE = 24, 12
_SAMPLED = np.uint64((1 << 64) // 16)
_FIRST_BITS = 1 << 22

Keys = NDArray[np.uint64]


class Sketch(NamedTuple):
    """What is remembered of a text."""

    bands: Keys
    """Shape (14,)."""
    sample: Keys
    """Hashes of a sixteenth of its 5-grams."""


def sketch(signals: Signals) -> Sketch:
    """The sketch of a text; about 0.2 ms for 700 words whose hashes are known."""
    grams = shingles(signals.hashes)
    return Sketch(bands(minhash(grams), BANDS, ROWS), grams[grams < _SAMPLED])


class Novelty:
    """The texts so far."""

    def __init__(self) -> None:
        self._bands = Bloom(_BITS_OF_A_BAND)
        self._grams = Bloom(_BITS_OF_A_SHINGLE)

    def near_duplicate(self, of: Sketch) -> bool:
        """Whether some text that was added is nearly the same."""
        return bool(self._bands.has(of.bands).any())

    def new_share(self, of: Sketch) -> float:
        """Estimated share of the text's 5-grams that no added text has; 1 if it is too short to say."""
        return 1 - float(self._grams.has(of.sample).mean()) if len(of.sample) else 1.0

    def add(self, of: Sketch) -> None:
        """Remember a text."""
        self._bands.add(of.bands)
        self._grams.add(of.sample)

    @property
    def nbytes(self) -> int:
        """Memory of the filters."""
        return self._bands.nbytes + self._grams.nbytes

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        return joined({"bands": self._bands.state(), "grams": self._grams.state()})

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for owner, bloom in (("bands", self._bands), ("grams", self._grams)):
            bloom.restore(part_of(state, owner))


class Bloom:
    """A Bloom filter that grows: full, it is joined by one of twice its size (Almeida et al. 2007).

    `bits` a key give each part a false-positive rate of 2**(-bits * ln 2) when it is full: 1e-5 for 24, 0.003
    for 12.
    """

    def __init__(self, bits: int, first: int = _FIRST_BITS) -> None:
        self._bits = bits
        self._steps = np.arange(round(bits * math.log(2)), dtype=np.uint64)
        self._parts = [np.zeros(first // 8, dtype=np.uint8)]
        self._free = first // bits

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """For each key whether it was added, as far as is known: shape (keys,)."""
        spots = self._spots(keys)
        found = np.zeros(len(keys), dtype=np.bool_)
        for part in self._parts:
            byte, bit = _within(spots, part)
            found |= (part[byte] & bit != 0).all(axis=1)
        return found

    def add(self, keys: Keys) -> None:
        if self._free <= 0:
            self._parts.append(np.zeros(2 * len(self._parts[-1]), dtype=np.uint8))
            self._free = 8 * len(self._parts[-1]) // self._bits
        byte, bit = _within(self._spots(keys), self._parts[-1])
        np.bitwise_or.at(self._parts[-1], byte, bit)
        self._free -= len(keys)

    def _spots(self, keys: Keys) -> Keys:
        """Where a key's bits are, before the size of a part is known: (keys, bits of a key).

        Two hashes make them all (Kirsch & Mitzenmacher 2006).
        """
        spots: Keys = keys[:, None] + self._steps * (mixed(keys) | np.uint64(1))[:, None]
        return spots

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        return {"free": self._free, **{str(number): part for number, part in enumerate(self._parts)}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._free = int(state["free"])
        self._parts = [np.array(state[str(number)]) for number in range(len(state) - 1)]


def _within(spots: Keys, part: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Byte and bit of each spot in a part."""
    spots = spots & np.uint64(8 * len(part) - 1)
    byte = (spots >> np.uint64(3)).astype(np.int64)
    return byte, np.left_shift(np.uint8(1), (spots & np.uint64(7)).astype(np.uint8))
