"""Reddit as it is now: its own API for who has a key, and Arctic Shift's archive for who has not.

Since November 2025 Reddit gives new keys only to whom it approves, so the dumps are the main road. Every
request goes through the crawl's guarded client.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
# Seconds between two questions to the archive, which one person pays for, and of the first rest when it
# refuses; that doubles each time. So often it is asked.
_PACE, _REST, _TRIES = 1.0, 5.0, 6
_LONGEST_REST = 600.0
# Seconds between looks for what is new: doubled while nothing is.
_SHORTEST_LOOK, _LONGEST_LOOK = 2.0, 64.0
# The archive has the scores of posts that are older than 36 hours.
_SETTLED_SECONDS = 1.5 * 86400
_FIELDS = frozenset(Submission.__struct_encode_fields__) | {"id"}
_TABLE = "create table if not exists submissions (id text primary key) without rowid"

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

    `settings` are praw's. Raises SeedError if Reddit refuses, AskError if nobody can be asked.
    """
    ledger.db.execute(_TABLE)
    with Client.sync(crawl) as ask:
        if config.road == "archive":
            for name in subreddits:
                yield from _archived(name, config, ask, ledger, progress, sleep)
            return
        with _as_seed_errors():
            reddit = praw.Reddit(
                check_for_updates=False,
                user_agent=crawl.user_agent or "tinylm",
                requestor_kwargs={"session": _Session(ask)},
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
                _count(ids, ledger)


def _stream(
    subreddit: Any, config: RedditConfig, ledger: Ledger, progress: Progress, sleep: Sleep
) -> Iterator[Batch]:
    """New submissions as they come: a look goes back to what is known, however many came since the last."""
    look = _SHORTEST_LOOK
    while True:
        fresh: list[dict[str, Any]] = []
        for submission in subreddit.new(limit=_LISTED):
            if _is_known(submission.id, ledger):
                break
            fresh.append(_plain(submission))
        posts, ids = _new(iter(reversed(fresh)), config, ledger, progress)
        # Nobody had time to vote: that somebody posted it is one vote, and no label.
        yield Batch(
            [Seed(url, 1.0, f"reddit:{post.subreddit}", 0.0) for post in posts if (url := address(post.url))]
        )
        _count(ids, ledger)
        look = _SHORTEST_LOOK if fresh else min(2 * look, _LONGEST_LOOK)
        sleep(look)


def _archived(
    subreddit: str, config: RedditConfig, ask: Ask, ledger: Ledger, progress: Progress, sleep: Sleep
) -> Iterator[Batch]:
    """The posts of a subreddit since it was read last, in the order of their time, many at a time."""
    job, before = f"archive {subreddit.lower()}", int(time.time() - _SETTLED_SECONDS)
    after = int(ledger.position(job) or config.after)
    progress.unit = "posts"
    while True:
        found: list[dict[str, Any]] = []
        start, more = after, True
        while more and len(found) < _TOGETHER:
            params = {"subreddit": subreddit, "after": after, "before": before, "limit": _PAGE, "sort": "asc"}
            page = _asked(ask, config.archive, {name: str(value) for name, value in params.items()}, sleep)
            known = {each.get("id") for each in found[-_PAGE:]}
            came = [each for each in page if each.get("id") not in known]
            found += came
            progress.done += len(came)
            more = bool(came)
            # One second again: posts of one second may stand on both sides of a page's end.
            after = max([after, *(int(each["created_utc"]) - 1 for each in came)])
            sleep(_PACE)
        posts, ids = _new(iter(found), config, ledger, progress)
        yield from seeds_of_posts(posts, [subreddit, str(start), *ids], config, ledger, progress)
        _count(ids, ledger)
        ledger.settle(job, str(after))
        if not more:
            return


def _asked(ask: Ask, base: str, params: dict[str, str], sleep: Sleep) -> list[dict[str, Any]]:
    """A page of the archive; one that is refused, broken or no JSON is asked for again, later each time."""
    rest, why = _REST, ""
    for _ in range(_TRIES):
        try:
            answer = ask(f"{base}/api/posts/search", params=params)
            if answer.status == 200:
                page = json.loads(answer.body)["data"]
                return [each for each in page if isinstance(each, dict) and float(each.get("created_utc", 0))]
            why = f"status {answer.status}"
            rest = min(max(rest, answer.retry_after), _LONGEST_REST)
        except (AskError, ValueError, KeyError, TypeError) as error:
            why = str(error)[:200]
        sleep(rest)
        rest = min(2 * rest, _LONGEST_REST)
    raise AskError(f"{base} gives no posts ({why}); the same command goes on from here")


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
    except prawcore.TooManyRequests as error:
        raise AskError("Reddit wants no more questions for now; the same command goes on later") from error
    except (prawcore.NotFound, prawcore.Redirect) as error:
        raise SeedError(f"Reddit has no such subreddit, or it is private ({error})") from error
    except prawcore.ResponseException as error:
        if error.response.status_code in (401, 403):
            raise SeedError(_REFUSED.format(error)) from error
        raise AskError(f"Reddit gives no submissions: {error}") from error
    except (prawcore.PrawcoreException, praw.exceptions.PRAWException) as error:
        raise AskError(f"Reddit gives no submissions: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:  # praw trusts what it reads
        raise AskError(f"Reddit's answer cannot be read: {error!r}") from error


class _Session:
    """What praw uses of `requests.Session`, by the guarded client."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.headers: dict[str, str] = {}

    def request(self, method: str, url: str, *, timeout: float, **given: Any) -> requests.Response:
        given.pop("allow_redirects", None)
        headers = {**self.headers, **(given.pop("headers", None) or {})}
        made = requests.Request(method, url, headers=headers, **given).prepare()
        body = made.body.encode() if isinstance(made.body, str) else made.body
        sent = {name: value for name, value in made.headers.items() if name != "Content-Length"}
        answer = self._ask(str(made.url), method=method, headers=sent, data=body, timeout=timeout)
        response = requests.Response()
        response.status_code, response.url = answer.status, answer.url
        response.headers.update(answer.headers)
        response._content = answer.body
        return response

    def close(self) -> None:
        """Nothing is held here."""
