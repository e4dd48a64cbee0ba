"""Which texts are nearly the same, and how much of a text is new, from about a hundred bytes a text.

A text is the set of its word 5-grams, its shingles. Its MinHash signature (Broder 1997) holds, of each of 128
permutations, the least value that it gives to a shingle: two signatures agree in the share of their values in
which the sets overlap (Jaccard), give or take 0.044. Signatures are looked up by bands, runs of their values:
two texts of overlap s share at least one of `count` bands of `rows` values with probability
1 - (1 - s**rows)**count.

`Novelty` asks two questions of a text while a crawl runs. Is it nearly one that was there before: LSHBloom
(Khan et al. 2024), bands in a Bloom filter instead of an index. And if not, which share of its shingles is
new: a Bloom filter of a sixteenth of them, chosen by their hashes (DCLM's BFF has all of them). That counts
what many pages have in common, licences and menus, which a comparison of pairs does not see.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shards.text.signals import Signals

SHINGLE = 5
PERMUTATIONS = 128
# "Near" has two meanings, each (bands, rows of a band). How likely a pair with overlap s shares a band:
#   s          0.3    0.5    0.6    0.7     0.8    0.9     0.95
#   SEEN       0.001  0.053  0.211  0.565   0.924  0.9996  1
#   HELD_OUT   0.229  0.873  0.988  0.9998  1      1       1
# While a crawl runs, one band in common is enough: no signature is kept to verify it by. Its bands are long,
# as in FineWeb: of texts that differ by half few are lost, and of those with 0.7 in common half stay.
SEEN = 14, 8
# Of held-out text and training nothing may be missed: the bands are short, and what shares one is near if the
# signatures, kept for the held-out side, agree in this share of their values.
HELD_OUT, OVERLAP = (32, 4), 0.7

# Time for 700 words whose hashes are known: 0.1 ms for a signature, 0.2 for a sketch. Memory of `Novelty`:
# 42 bytes a text for the bands and about 66 for the shingles of 700 words; with what is free in the newest
# part of the filters, 110 to 220 MB for a million texts.
# Bits of a filter for each key. 1e-5 of the bands that were not added are found all the same, so less than
# 0.0002 of new texts by one of their 14; with half the bits that would be 4 %.
_BITS_OF_A_BAND = 24
# 0.003 of the new shingles count as known, which is less than the error of the sample.
_BITS_OF_A_SHINGLE = 12
# Shingles with hashes below are sampled: 44 of a text of 700 words, so a share of 0.5 is known to 0.08.
_SAMPLED = np.uint64((1 << 64) // 16)
# Of a new filter: half a megabyte, full with 175,000 bands or 350,000 shingles.
_FIRST_BITS = 1 << 22
# Shingles permuted at once: 1 MB of numbers, which stays in the processor's cache.
_BLOCK = 2048
# Any seed would do, but filters that were saved know only keys of this one.
_numbers = np.random.default_rng(5381)
_scale = _numbers.integers(0, 1 << 32, size=(PERMUTATIONS, 1), dtype=np.uint32) | np.uint32(1)
_offset = _numbers.integers(0, 1 << 32, size=(PERMUTATIONS, 1), dtype=np.uint32)
_of_word = _numbers.integers(0, 1 << 64, size=SHINGLE, dtype=np.uint64) | np.uint64(1)
_of_value = _numbers.integers(0, 1 << 64, size=PERMUTATIONS, dtype=np.uint64) | np.uint64(1)

Keys = NDArray[np.uint64]
Signature = NDArray[np.uint32]


def mixed(numbers: Keys) -> Keys:
    """Each of `numbers` as another one, every bit of which depends on all of its bits (splitmix64's end)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def shingles(words: NDArray[np.uint32]) -> Keys:
    """The 5-grams of a text, hashed, in order; `words`: a hash of each word. Of fewer words it is one.

    Shape (max(1, words - 4),).
    """
    padded = np.zeros(max(SHINGLE, len(words)), dtype=np.uint64)
    padded[: len(words)] = words
    padded += np.uint64(1)
    count = len(padded) - SHINGLE + 1
    grams = padded[:count] * _of_word[0]
    for n in range(1, SHINGLE):
        grams += padded[n : n + count] * _of_word[n]
    return mixed(grams)


def signature(text: str) -> Signature:
    """MinHash of a text: shape (128,)."""
    return minhash(shingles(Signals(text).hashes))


def minhash(of: Keys) -> Signature:
    """MinHash of a set of at least one shingle: shape (128,)."""
    # Affine maps modulo 2**32 with an odd factor, which numpy does many at a time, are permutations enough:
    # the hashes under them are well mixed.
    hashes = of.astype(np.uint32)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(hashes), _BLOCK):
        permuted = _scale * hashes[start : start + _BLOCK]
        permuted += _offset
        np.minimum(least, permuted.min(axis=1), out=least)
    return least


def bands(of: Signature, count: int, rows: int) -> Keys:
    """The first `count * rows` values of signatures (..., 128) as `count` keys: shape (..., count)."""
    values = of[..., : count * rows].reshape(*of.shape[:-1], count, rows) * _of_value[:rows]
    return mixed(values.sum(axis=-1) + np.arange(count, dtype=np.uint64))


class Sketch(NamedTuple):
    """What is remembered of a text."""

    bands: Keys
    """Shape (14,)."""
    sample: Keys
    """Hashes of a sixteenth of its shingles."""


def sketch(signals: Signals) -> Sketch:
    """The sketch of a text."""
    grams = shingles(signals.hashes)
    return Sketch(bands(minhash(grams), *SEEN), grams[grams < _SAMPLED])


class Novelty:
    """The texts so far."""

    def __init__(self) -> None:
        self._bands = Bloom(_BITS_OF_A_BAND)
        self._grams = Bloom(_BITS_OF_A_SHINGLE)

    def near_duplicate(self, of: Sketch) -> bool:
        """Whether some text that was added is nearly the same."""
        return bool(self._bands.has(of.bands).any())

    def new_share(self, of: Sketch) -> float:
        """Estimated share of the text's shingles that no added text has; 1 if it is too short to say."""
        return 1 - float(self._grams.has(of.sample).mean()) if len(of.sample) else 1.0

    def add(self, of: Sketch) -> None:
        """Remember a text."""
        self._bands.add(of.bands)
        self._grams.add(of.sample)

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        parts = {"bands": self._bands.state(), "grams": self._grams.state()}
        return {f"{owner}.{name}": array for owner, part in parts.items() for name, array in part.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for owner, bloom in (("bands.", self._bands), ("grams.", self._grams)):
            bloom.restore({name.removeprefix(owner): state[name] for name in state if name.startswith(owner)})


class Bloom:
    """A Bloom filter that grows: full, it is joined by one of twice its size (Almeida et al. 2007).

    `bits` a key give each part a false-positive rate of 2**(-bits * ln 2) when it is full.
    """

    def __init__(self, bits: int, first: int = _FIRST_BITS) -> None:
        self._bits = bits
        # As many hashes of a key as make a full part's rate least.
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
