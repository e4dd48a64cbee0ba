"""The places text is read from, each pinned as it was when the run began, and its share of the rows.

`shards` is the first, `mix` names the others; each is a corpus with its manifest, or other Parquet. A corpus
may grow, and files may come to a folder, while a run goes on that does not see them: the snapshots lie in the
run's folder, that of `shards` in it and that of the n-th of `mix` in mix-n/.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from shards import foreign as parquet
from shards.foreign import Listing, ParquetReader
from shards.manifest import FILE_NAME, Manifest, is_corpus
from shards.reader import Reader, RowGroup, ShardReader
from tinylm.errors import ConfigError
from trainer.config import PretrainConfig
from trainer.data.batch import DataError

# Characters of one text that a sample may hold, an eighth of pretraining's: half or double is no other sample
# where texts are shorter, but a text of 100 MB would be all of it, and take as long as that.
_LONGEST = 1_000_000


class Source(NamedTuple):
    """Text, and the share of all rows that are of it."""

    place: Path | str
    reader: Reader
    share: float = 1.0

    @property
    def held_out(self) -> ShardReader | None:
        """What the corpus keeps from training; None for other Parquet, which keeps nothing."""
        if not isinstance(self.reader, ShardReader):
            return None
        return ShardReader(self.place, self.reader.manifest, "held_out")


def open_sources(config: PretrainConfig) -> list[Source]:
    """All sources of a run as they are pinned in `config.out`, which `pin_sources` did before."""
    found = []
    for (place, share), folder in zip(config.sources, _folders(config), strict=True):
        listing = Listing.load(folder)
        reader = ParquetReader(place, listing) if listing else ShardReader(place, Manifest.load(folder))
        found.append(Source(place, reader, share))
    return found


def identity_of_sources(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Number, snapshots and shares of a run's sources by the names of their settings: shards, mix[0], …"""
    names = ["shards", *(f"mix[{number}]" for number in range(len(sources) - 1))]
    return {"sources": len(sources)} | {
        f"{name}.{field}": source[field]
        for name, source in zip(names, sources, strict=True)
        for field in ("manifest", "share")
    }


def pin_sources(config: PretrainConfig, *, begun: bool = False) -> None:
    """Write down in `config.out` what lies at each place now, unless the run has `begun` on what lay there.

    Raises ShardError if that is nothing to read, `ConfigError` if text that came to a corpus may nearly stand
    on both sides of its split, `DataError` if a corpus is another one than the run began on.
    """
    for (place, _), folder in zip(config.sources, _folders(config), strict=True):
        if begun:
            if is_corpus(place):
                _check_pin(place, folder)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for name in (FILE_NAME, parquet.FILE_NAME):  # of a start that came to no checkpoint
            (folder / name).unlink(missing_ok=True)
        if not is_corpus(place):
            Listing.of(place).save(folder)
            continue
        current = Manifest.load(place)
        if not current.held_out_is_current:
            raise ConfigError(
                f"{place} grew since its held-out text was compared with the rest: "
                f"`tinylm shards hold-out {place}` first"
            )
        current.save(folder)


def sample(sources: Sequence[Source], most_bytes: int, seed: int) -> Iterator[str]:
    """Training texts up to about `most_bytes`, of each source its share: row groups in a random order.

    Of a text that is very long its beginning.
    """
    for source in sources:
        # In any order, as only the first of them are read: text of all of the source, not of its beginning.
        groups = list(source.reader.row_groups)
        Random(seed).shuffle(groups)
        yield from _first(source.reader, groups, most_bytes * source.share)


def _first(reader: Reader, groups: Sequence[RowGroup], left: float) -> Iterator[str]:
    for group in groups:
        for text in reader.texts(group):
            yield (text := text[:_LONGEST])
            left -= len(text.encode())
            if left <= 0:
                return


def _folders(config: PretrainConfig) -> list[Path]:
    return [config.out, *(config.out / f"mix-{number}" for number in range(1, len(config.sources)))]


def _check_pin(place: Path | str, folder: Path) -> None:
    """A corpus may have grown since a run began; raise `DataError` if it is another one."""
    current, pinned = Manifest.load(place), Manifest.load(folder)
    there = {(shard.name, shard.sha256) for shard in current.shards}
    for shard in pinned.shards:
        if (shard.name, shard.sha256) not in there:
            raise DataError(
                f"{folder} is pinned to manifest {pinned.fingerprint[:12]}, whose {shard.name} is not in "
                f"{place} (manifest {current.fingerprint[:12]}): give it its own shards back, "
                "or start anew with another --out"
            )
