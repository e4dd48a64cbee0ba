"""Settings of the walker."""

from dataclasses import dataclass
from difflib import get_close_matches

from cyclopts import Parameter

from tinylm.config import listed, require, require_positive, require_within

# The quality model a crawl trains itself.
ONLINE = "online"
# What DCLM's classifier calls what is good.
GOOD_LABEL = "__label__hq"
# What the identifier knows (fastText's lid.176), here so that a setting is checked without loading it.
_CODES = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs "
    "cv cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr "
    "hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc "
    "lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa "
    "pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg "
    "th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh "
)
LANGUAGES = _CODES.split()


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
    """Languages kept, as ISO 639 codes, several with commas between; empty keeps all. Rules that look for
    English words hold for each of them so far (docs/quality.md)."""
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
        object.__setattr__(self, "languages", tuple(code.lower() for code in listed(self.languages)))
        for code in self.languages:
            near = [code[:2]] if code[:2] in LANGUAGES else get_close_matches(code, LANGUAGES, 4, 0.4)
            named = f"; near it: {', '.join(near)}" if near else ""
            rule = f"{code!r} is no code of a language that can be told, such as en, de or zh{named}"
            require(self, "languages", code in LANGUAGES, rule)
        require_positive(self, "shard_seconds", "row_group_rows")
        require_within(self, 0, 1, "held_out", "language_score")
        require(self, "held_out", 0 < self.held_out < 0.5, "a share above 0 and below 0.5")
