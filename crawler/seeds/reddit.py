"""Reddit as it is now: its own API for who has a key, and Arctic Shift's archive for who has not.

Since November 2025 Reddit gives new keys only to whom it approves, so the dumps are the main road. Every
request goes through the crawl's guarded client.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import praw
import prawcore
import requests

from crawler.config import CrawlConfig
from crawler.errors import SeedError
from crawler.fetch.client import Answered, AskError, Client
from crawler.seeds.config import RedditConfig
from crawler.seeds.dumps import Post, Submission, is_no_text, post_of_fields
from crawler.seeds.karma import seeds_of_posts
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Batch, Progress, Seed
from crawler.urls import address
from tinylm.terminal import say

_REFUSED = (
    "Reddit refuses ({}). client_id and client_secret of an application are needed, in praw.ini or as the "
    "variables praw_client_id and praw_client_secret; since November 2025 new ones need Reddit's approval "
    "(https://support.reddithelp.com, Responsible Builder Policy). Without, read the public dumps: "
    "`tinylm seed reddit RS_2026-01.zst`, or their archive: --road archive"
)
# Of one listing: Reddit has no more.
_LISTED = 1000
# Of the archive at once, posts that become seeds together: some 20 MB.
_TOGETHER = 100_000
_PAGE = 100
# Seconds between two questions to the archive, which one person pays for, and of the first rest when a server
# refuses; that doubles each time. So often it is asked.
_PACE, _REST, _TRIES = 1.0, 5.0, 6
# Who asks for more is obeyed by going away.
_LONGEST_REST = 600.0
# Seconds between looks for what is new: doubled while nothing is.
_SHORTEST_LOOK, _LONGEST_LOOK = 2.0, 64.0
# The archive has the scores of posts that are older than 36 hours.
_SETTLED_SECONDS = 1.5 * 86400
_FIELDS = frozenset(Submission.__struct_encode_fields__) | {"id"}
_TABLE = "table if not exists submissions (id text primary key) without rowid"
# Also all, a+b, reddit.com, u_somebody.
_NAME = re.compile(r"(?:/?r/)?([\w.+-]+)/?")
_TIME = re.compile(r"[0-9]{1,11}(\.[0-9]*)?")

T = TypeVar("T")
Ask = Callable[..., Answered]
Sleep = Callable[[float], object]


def live_seeds(
    subreddits: list[str],
    config: RedditConfig,
    crawl: CrawlConfig,
    ledger: Ledger,
    progress: Progress,
    *,
    sleep: Sleep = time.sleep,
    **settings: Any,
) -> Iterator[Batch]:
    """Seeds of submissions in `subreddits`, by the road that `config` says; each counts once.

    `settings` are praw's. Raises SeedError if Reddit refuses, or for what is no subreddit's name, AskError if
    nobody can be asked.
    """
    named = [_NAME.fullmatch(name) for name in subreddits]
    if None in named:
        raise SeedError(
            f"{subreddits[named.index(None)]!r} is no name of a subreddit, as science or r/science"
        )
    subreddits = [name[1] for name in named if name]
    # What goes to a file counts for that alone: a temporary table hides the one of the crawl.
    ledger.db.execute(f"create {'' if ledger.resumes else 'temp '}{_TABLE}")
    with Client.sync(crawl) as ask:
        if config.road == "archive":
            for name in subreddits:
                yield from _archived(name, config, ask, ledger, progress, sleep)
            return
        with _as_seed_errors():
            reddit = praw.Reddit(
                check_for_updates=False,
                user_agent=crawl.user_agent or "tinylm",
                requestor_kwargs={"session": _Session(ask, sleep)},
                **settings,
            )
            reddit.read_only = True
            if config.road == "stream":
                yield from _stream(reddit.subreddit("+".join(subreddits)), config, ledger, progress, sleep)
                return
            for name in subreddits:
                listed = reddit.subreddit(name).top(time_filter=config.top_of, limit=_LISTED)
                posts, ids = _new(map(_plain, listed), config, ledger, progress)
                yield from seeds_of_posts(posts, ids, config, ledger, progress)
                with ledger.transaction():
                    _count(ids, ledger)


def _stream(
    subreddit: Any, config: RedditConfig, ledger: Ledger, progress: Progress, sleep: Sleep
) -> Iterator[Batch]:
    """New submissions as they come: a look goes back to those of the last, however many came since.

    Not only to one that is known: another road may have found it, and what a moderator let through late
    stands among known ones.
    """
    look, job = _SHORTEST_LOOK, f"stream {str(subreddit).lower()}"
    newest = float(ledger.position(job) or 0)
    while True:
        fresh: list[dict[str, Any]] = []
        times: list[float] = []
        for submission in subreddit.new(limit=_LISTED):
            times.append(float(submission.created_utc))
            if not _is_known(submission.id, ledger):
                fresh.append(_plain(submission))
            if len(times) % _PAGE == 0 and times[-1] < newest:
                break
        if newest and times and times[-1] > newest:
            say(
                f"r/{subreddit}: more was new than Reddit lists ({len(times):,}); --road archive has all of "
                "it in 36 hours",
                file=sys.stderr,
            )
        posts, ids = _new(iter(reversed(fresh)), config, ledger, progress)
        # Nobody had time to vote: that somebody posted it is one vote, and no label.
        yield Batch(
            [Seed(url, 1.0, f"reddit:{post.subreddit}", 0.0) for post in posts if (url := address(post.url))]
        )
        newest = max([newest, *times])
        with ledger.transaction():
            _count(ids, ledger)
            ledger.settle(job, str(newest))
        look = _SHORTEST_LOOK if fresh else min(2 * look, _LONGEST_LOOK)
        sleep(look)


def _archived(
    subreddit: str, config: RedditConfig, ask: Ask, ledger: Ledger, progress: Progress, sleep: Sleep
) -> Iterator[Batch]:
    """The posts of a subreddit since it was read last, in the order of their time, many at a time."""
    # With another beginning it is another job: what both find counts once.
    job = f"archive {subreddit.lower()} {config.after}"
    before = int(time.time() - _SETTLED_SECONDS)
    after = int(ledger.position(job) or config.after)
    progress.unit = "posts"
    while True:
        found: list[dict[str, Any]] = []
        start, more = after, True
        while more and len(found) < _TOGETHER:
            params = {"subreddit": subreddit, "after": after, "before": before, "limit": _PAGE, "sort": "asc"}
            url, words = f"{config.archive}/api/posts/search", {k: str(v) for k, v in params.items()}
            page = _asked(ask, url, partial(_posts_of, progress), sleep, params=words)
            of = page[0].get("subreddit") if page else None  # as posts spell it, and so their seeds
            ledger.spend(f"reddit:{of or subreddit}", "requests")
            known = {each.get("id") for each in found[-_PAGE:]}
            came = [each for each in page if each.get("id") not in known]
            found += came
            progress.done += len(came)
            more = bool(came) or len(page) >= _PAGE
            # One second again: posts of one second may stand on both sides of a page's end. Of one that has
            # more than a page, the rest cannot be asked for.
            after = max(
                [after + (more and not came), *(int(float(each["created_utc"])) - 1 for each in came)]
            )
            sleep(_PACE)
        posts, ids = _new(iter(found), config, ledger, progress)
        yield from seeds_of_posts(posts, [subreddit, str(start), *ids], config, ledger, progress)
        with ledger.transaction():
            _count(ids, ledger)
            ledger.settle(job, str(after))
        if not more:
            return


def _asked(ask: Ask, url: str, read: Callable[[Answered], T], sleep: Sleep, **how: Any) -> T:
    """What `read` makes of the answer of `url`, which is asked for again, later each time, while none comes
    or the server is busy, or `read` raises ValueError, KeyError or TypeError. Raises AskError in the end.
    """
    rest, why, place = _REST, "", url.partition("?")[0]
    for number in range(_TRIES):
        if number:
            sleep(rest)
            rest = min(2 * rest, _LONGEST_REST)
        try:
            answer = ask(url, **how)
            if answer.status != 429 and answer.status < 500:
                return read(answer)
        except (AskError, ValueError, KeyError, TypeError) as error:
            why = str(error)[:200]
            continue
        why, rest = f"status {answer.status}", max(rest, answer.retry_after)
        if answer.retry_after > _LONGEST_REST:
            why = f"it wants to be left alone for {answer.retry_after:,.0f} s"
            break
    raise AskError(f"{place} gives nothing ({why}); the same command goes on from here")


def _whole(answer: Answered) -> Answered:
    """An answer of Reddit. Raises ValueError if it says that all is well, and is no JSON."""
    if answer.status == 200:
        json.loads(answer.body)
    return answer


def _posts_of(progress: Progress, answer: Answered) -> list[dict[str, Any]]:
    """A page of the archive. Raises SeedError if it never will be one, ValueError or KeyError if it may."""
    if answer.status in (400, 404):
        said = answer.body[:200].decode(errors="replace")
        raise SeedError(f"{answer.url} refuses ({answer.status}): {said}")
    if answer.status != 200:  # 422 is its word for "slow down"
        raise ValueError(f"status {answer.status}")
    page = list(json.loads(answer.body)["data"])
    good = [each for each in page if isinstance(each, dict) and _TIME.fullmatch(str(each.get("created_utc")))]
    if page and not good:
        raise ValueError("no post has a time")
    progress.dropped["bad_line"] += len(page) - len(good)
    return good


def _plain(submission: Any) -> dict[str, Any]:
    """The fields of one of praw's submissions as a dump has them, with the time of now."""
    fields = {name: value for name, value in vars(submission).items() if name in _FIELDS}
    for name in ("subreddit", "author"):
        fields[name] = str(fields.get(name) or "")
    return fields | {"retrieved_on": time.time()}


def _new(
    found: Iterator[dict[str, Any]], config: RedditConfig, ledger: Ledger, progress: Progress
) -> tuple[list[Post], list[str]]:
    """The posts among submissions that were not counted before, and the names of all of these."""
    posts, ids, not_text = [], list[str](), is_no_text(config.media_hosts)
    for fields in found:
        progress.read += 1
        name = str(fields.pop("id", ""))
        if _is_known(name, ledger):
            progress.dropped["known"] += 1
            continue
        ids.append(name)
        post = post_of_fields(fields, not_text)
        if isinstance(post, str):
            progress.dropped[post] += 1
        else:
            posts.append(post)
    return posts, ids


def _is_known(name: str, ledger: Ledger) -> bool:
    return bool(ledger.db.execute("select 1 from submissions where id = ?", (name,)).fetchone())


def _count(ids: list[str], ledger: Ledger) -> None:
    ledger.db.executemany("insert or ignore into submissions values (?)", ((name,) for name in ids))


@contextmanager
def _as_seed_errors() -> Iterator[None]:
    """Say what Reddit asks for where it refuses, and which other roads there are."""
    try:
        yield
    except (praw.exceptions.MissingRequiredAttributeException, prawcore.OAuthException) as error:
        raise SeedError(_REFUSED.format(str(error).partition("\n")[0])) from error
    except prawcore.RequestException as error:
        raise AskError(f"Reddit cannot be asked: {error.original_exception}") from error
    except (prawcore.NotFound, prawcore.Redirect) as error:
        raise SeedError(f"Reddit has no such subreddit, or it is private ({error})") from error
    except prawcore.ResponseException as error:
        if error.response.status_code in (401, 403):
            of_key = "access_token" in error.response.url
            private = "" if of_key else "; or the subreddit is private or quarantined"
            raise SeedError(_REFUSED.format(f"{error}{private}")) from error
        raise AskError(f"Reddit gives no submissions: {error}") from error
    except (prawcore.PrawcoreException, praw.exceptions.PRAWException) as error:
        raise AskError(f"Reddit gives no submissions: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:  # praw trusts what it reads
        raise AskError(f"Reddit's answer cannot be read: {error!r}") from error


class _Session:
    """What praw uses of `requests.Session`, by the guarded client, and with more patience."""

    def __init__(self, ask: Ask, sleep: Sleep) -> None:
        self._ask, self._sleep = ask, sleep
        self.headers: dict[str, str] = {}

    def request(self, method: str, url: str, *, timeout: float, **given: Any) -> requests.Response:
        given.pop("allow_redirects", None)
        headers = {**self.headers, **(given.pop("headers", None) or {})}
        made = requests.Request(method, url, headers=headers, **given).prepare()
        body = made.body.encode() if isinstance(made.body, str) else made.body
        sent = {name: value for name, value in made.headers.items() if name != "Content-Length"}
        how = {"method": method, "headers": sent, "data": body, "timeout": timeout}
        answer = _asked(self._ask, str(made.url), _whole, self._sleep, **how)
        response = requests.Response()
        response.status_code, response.url = answer.status, answer.url
        response.headers.update(answer.headers)
        response._content = answer.body
        return response

    def close(self) -> None:
        """Nothing is held here."""
