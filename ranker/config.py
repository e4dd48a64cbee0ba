"""Settings of the walker."""

from dataclasses import dataclass

from cyclopts import Parameter

from tinylm.config import require, require_positive, require_within

# The quality model a crawl trains itself.
ONLINE = "online"
# What DCLM's classifier calls what is good.
GOOD_LABEL = "__label__hq"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class WalkConfig:
    """How pages are judged and how they become shards."""

    policy: str = "tinylm"
    """What decides which page is next."""
    quality: str = ONLINE
    """What says how good a text is: `online`, the model a crawl trains itself, or the path of another: a
    fastText classifier (.bin, .ftz), or a training run or checkpoint, whose bits per byte count. `tinylm
    frontier quality` changes it while the crawl runs."""
    quality_label: str = GOOD_LABEL
    """The label whose probability counts, of a fastText classifier."""
    languages: tuple[str, ...] = ("en",)
    """Languages kept, as ISO 639 codes; empty keeps all."""
    language_score: float = 0.65
    """Least probability of the language (FineWeb's threshold)."""
    obey_opt_out: bool = True
    """Leave out pages that say they are not for training (noai, noindex, ai-train=no); all is recorded."""
    shard_seconds: float = 300.0
    """A shard is committed after this time at the latest, so that a crash costs little."""
    row_group_rows: int = 256
    """Documents in a row group: what a reader holds at once."""
    held_out: float = 0.05
    """Share of the text, by whole hosts, that no model trains on."""

    def __post_init__(self) -> None:
        require_positive(self, "shard_seconds", "row_group_rows")
        require_within(self, 0, 1, "held_out", "language_score")
        require(self, "held_out", 0 < self.held_out < 0.5, "a share above 0 and below 0.5")
