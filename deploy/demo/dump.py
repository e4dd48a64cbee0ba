"""A month of Reddit submissions that link to the local web, in the format of the public dumps.

One JSON object a line in a zstd frame with a 2 GB window, as the files named RS_YYYY-MM.zst have it, with
what makes those hard to read: posts without a link, removed ones, crossposts, advertisements, addresses that
are none, tracking parameters, scores taken seconds after posting, and a line that is not JSON.

The scores are drawn here and know nothing of a crawler's idea of quality: what a page earns grows with the
number of packages that require its package, with the length of its README and with the subreddit, and falls
with its depth; the rest is luck with a heavy tail. About 40,000 posts a second.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from backports import zstd

from deploy.demo.hosts import CALENDAR, MIRROR, REDIRECTS
from deploy.demo.sites import Site, Web
from tinylm.files import replacing

Post: TypeAlias = dict[str, Any]

# 2 GB: a reader that does not ask for as much refuses the file, as with the public dumps.
_WINDOW_LOG = 31
# 2024-01-01 UTC.
_MONTH_BEGINS = 1_704_067_200
_DAY_SECONDS = 86_400
_MONTH_SECONDS = 31 * _DAY_SECONDS
# Of the Pareto law of the luck: the mean exists (above 1), the variance does not (below 2).
_TAIL_INDEX = 1.2
# How much a vote in each counts, as a factor of the score.
_SUBREDDITS = {"programming": 1.0, "Python": 0.5, "MachineLearning": 0.5, "learnpython": 0.25, "coding": 0.1}
_TRACKING = ("utm_source=reddit", "utm_source=share&utm_medium=web2x", "fbclid=IwAR0x", "ref=hn")
_MALFORMED = ("http://", "htp:/python.test", "http://[::1", "http://exa mple.test/", "javascript:void(0)", "")
# Per cent of the posts.
_KINDS = {
    "plain": 70,
    "tracked": 8,
    "fragment": 2,
    "taken early": 4,
    "self post": 6,
    "adult": 2,
    "removed": 3,
    "crosspost": 3,
    "advertisement": 1,
    "malformed": 1,
}


class _Target(NamedTuple):
    """A page that may be posted: how likely it is picked, and the appeal its score is drawn from."""

    url: str
    title: str
    weight: float
    appeal: float


def write_dump(path: Path, sites: Sequence[Site], posts: int = 20_000) -> None:
    """Write `posts` submissions (and one broken line) about the pages of `sites`.

    The file is complete or absent; the same sites and number give the same lines.
    """
    rng = random.Random(0)
    targets = sorted(_targets(sites), key=lambda target: target.url)
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.compression_level: 3, parameter.window_log: _WINDOW_LOG}
    broken = rng.randrange(posts)
    with replacing(path) as temporary, zstd.open(temporary, "wb", options=options) as file:
        for number, post in enumerate(_posts(targets, posts, rng)):
            line = json.dumps(post, separators=(",", ":")).encode()
            file.write(line + b"\n")
            if number == broken:
                file.write(line[: len(line) // 2] + b"\n")


def _targets(sites: Sequence[Site]) -> Iterator[_Target]:
    dependents = Web(sites).dependents
    for site in sites:
        appeal = math.sqrt(1 + dependents[site.host]) * math.log1p(len(site.readme) / 200)
        home = f"http://{site.host}/"
        yield _Target(home, f"{site.title}: {site.summary}", 20 * appeal, appeal)
        yield _Target(f"{home}modindex.html", f"All of {site.title}", 0.5, 0.1)
        for module in site.modules:
            share = appeal / (1 + module.count("."))
            yield _Target(f"{home}{module}.html", f"{module} explained", share, share / 2)
            yield _Target(f"{home}src/{module}.html", f"The source of {module}", share / 10, share / 20)
    for host, path in ((CALENDAR, "2024/01/01.html?view=week"), (MIRROR, ""), (REDIRECTS, "moved")):
        yield _Target(f"http://{host}/{path}", "look at this", 10.0, 0.02)


def _posts(targets: Sequence[_Target], posts: int, rng: random.Random) -> Iterator[Post]:
    """The posts in order of time, most of them links, some of every kind in `_KINDS`."""
    weights = list(accumulate(target.weight for target in targets))
    times = sorted(rng.randrange(_MONTH_SECONDS) for _ in range(posts))
    kinds = rng.choices(list(_KINDS), list(_KINDS.values()), k=posts)
    picked = rng.choices(targets, cum_weights=weights, k=posts)
    for number, (target, kind) in enumerate(zip(picked, kinds, strict=True)):
        post = _link_post(number, target, _MONTH_BEGINS + times[number], rng)
        _disguise(post, kind, rng)
        yield post


def _link_post(number: int, target: _Target, created: int, rng: random.Random) -> Post:
    subreddit = rng.choice(list(_SUBREDDITS))
    # In hexadecimal, which is base 36 too, as the public dumps have it.
    name = f"{0x100000000 + number:x}"
    score = int(target.appeal * _SUBREDDITS[subreddit] * rng.paretovariate(_TAIL_INDEX))
    return {
        "id": name,
        "author": f"user{rng.randrange(5000)}",
        "created_utc": created,
        "domain": target.url.split("/")[2],
        "is_self": False,
        "num_comments": int(score * rng.random()),
        "over_18": False,
        "permalink": f"/r/{subreddit}/comments/{name}/",
        "retrieved_on": created + rng.randrange(2 * _DAY_SECONDS, 40 * _DAY_SECONDS),
        "score": score,
        "selftext": "",
        "subreddit": subreddit,
        "title": target.title,
        "url": target.url,
    }


def _disguise(post: Post, kind: str, rng: random.Random) -> None:
    """Make a link post one of `_KINDS`."""
    match kind:
        case "tracked":
            post["url"] += ("&" if "?" in post["url"] else "?") + rng.choice(_TRACKING)
        case "fragment":
            post["url"] += "#comments"
        # The dump met the post seconds after it was made: its score says nothing.
        case "taken early":
            retrieved = post["created_utc"] + rng.randrange(1, 60)
            post |= {"score": 1, "num_comments": 0, "retrieved_on": retrieved}
        case "self post":
            text = f"Has anyone read {post['url']}? I would like to know what you think of it."
            address = f"https://www.reddit.com{post['permalink']}"
            post |= {"is_self": True, "selftext": text, "url": address, "domain": f"self.{post['subreddit']}"}
        case "adult":
            post["over_18"] = True
        case "removed":
            post |= {"author": "[deleted]", "selftext": "[removed]", "removed_by_category": "moderator"}
        # The link is the parent's; the post itself points at the parent's page on Reddit.
        case "crosspost":
            name = f"a{post['id']}"
            permalink = f"/r/opensource/comments/{name}/"
            parent = {**post, "id": name, "subreddit": "opensource", "permalink": permalink}
            post |= {"crosspost_parent": f"t3_{name}", "crosspost_parent_list": [parent]}
            post |= {"url": f"https://www.reddit.com{permalink}", "domain": "reddit.com"}
        case "advertisement":
            post["promoted"] = True
        case "malformed":
            post["url"] = rng.choice(_MALFORMED)
