"""Reddit's API replayed as it was recorded, and its archive: each submission counts once."""

import base64
import gzip
import io
import json
import tarfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import PurePath
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import prawcore.rate_limit
import prawcore.sessions
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.config import CrawlConfig
from crawler.errors import NetworkForbidden, SeedError
from crawler.fetch.client import AskError
from crawler.seeds.config import RedditConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.reddit import live_seeds
from crawler.seeds.seed import Progress
from tests.conftest import reply

KEY = {"client_id": "id", "client_secret": "secret"}
DAY = 86_400


@pytest.fixture(scope="module")
def cassettes(request):
    """Recorded exchanges by the name of praw's test."""
    path = request.getfixturevalue("dumps") / "praw-cassettes.tar.zst"
    found = {}
    with zstd.open(path) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        for member in archive:
            if "/cassettes/" in member.name and member.name.endswith(".json"):
                name = PurePath(member.name).stem
                found[name] = json.load(archive.extractfile(member))["interactions"]
    return found


def body_of(response):
    body = response["body"]
    data = body["string"].encode() if "string" in body else base64.b64decode(body["base64_string"])
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


@pytest.fixture
def played(site):
    """A server that plays recorded exchanges: of each path its answers in order, then an empty listing."""

    def play(exchanges):
        answers = defaultdict(list)
        for each in exchanges:
            parts = urlsplit(each["request"]["uri"])
            answers[parts.path].append(each["response"])

        def answer(handler):
            left = answers[urlsplit(handler.path).path]
            if not left:
                reply(
                    200,
                    json.dumps({"kind": "Listing", "data": {"children": []}}),
                    Content_Type="application/json",
                )(handler)
                return
            response = left.pop(0)
            kept = (
                "x-ratelimit-remaining",
                "x-ratelimit-reset",
                "x-ratelimit-used",
                "location",
                "retry-after",
            )
            headers = {
                name.replace("-", "_"): values[0]
                for name, values in response["headers"].items()
                if name.lower() in kept
            }
            reply(response["status"]["code"], body_of(response), Content_Type="application/json", **headers)(
                handler
            )

        site.on("reddit.test", "*", answer)

    return play


def found(site, names, config, ledger, *, rounds=None, **settings):
    """What a road finds: of a stream, after so many looks. Sleeps are told, not slept."""
    resolve = (f"reddit.test=127.0.0.1:{site.port}",)
    crawl = CrawlConfig(allowed_networks=(f"127.0.0.1/32:{site.port}",), resolve=resolve, timeout=5.0)
    progress, slept, seeds = Progress(), [], []
    urls = dict.fromkeys(("reddit_url", "oauth_url"), f"http://reddit.test:{site.port}")
    more = KEY | urls | settings if config.road != "archive" else {}
    for number, batch in enumerate(
        live_seeds(names, config, crawl, ledger, progress, sleep=slept.append, **more)
    ):
        seeds += batch.seeds
        if rounds == number + 1:
            break
    return seeds, progress, slept


def test_what_reddit_lists_becomes_seeds_once(played, site, cassettes):
    config = RedditConfig(road="top", least_votes=0)
    with Ledger(":memory:") as ledger:
        for known in (0, 100):
            played(cassettes["TestSubredditListings.test_top"])
            seeds, progress, _ = found(site, ["askreddit"], config, ledger)
            assert progress.read == 100
            assert progress.dropped["known"] == known
            assert progress.dropped.total() + len(seeds) == 100  # each is of another page
    assert {hit.path.partition("?")[0] for hit in site.hits} == {"/api/v1/access_token", "/r/askreddit/top"}


def test_a_recorded_stream_is_read_and_nothing_of_it_twice(played, site, cassettes):
    recorded = cassettes["TestSubredditStreams.test_submissions"]
    played(recorded)
    with Ledger(":memory:") as ledger:
        seeds, progress, slept = found(site, ["all"], RedditConfig(road="stream"), ledger, rounds=3)
        looks = [each for each in recorded if "/new" in each["request"]["uri"]]
        named = {
            child["data"]["id"]
            for each in looks
            for child in json.loads(body_of(each["response"]))["data"]["children"]
        }
        counted = [row[0] for row in ledger.db.execute("select id from submissions")]
        assert set(counted) <= named
        assert progress.read == len(seeds) + progress.dropped.total() >= 100
        assert len(counted) == progress.read - progress.dropped["known"]
        assert len(slept) == 2


@pytest.fixture
def naps(monkeypatch):
    """What praw itself would sleep."""
    slept = []
    for module in (prawcore.rate_limit, prawcore.sessions):
        clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic, monotonic_ns=time.monotonic_ns)
        monkeypatch.setattr(module, "time", clock)
    return slept


RECORDED_FAULTS = {  # of recorded exchanges, the status, and what a user is told
    "TestSubredditQuarantine.test_opt_in": (403, SeedError, "Reddit refuses"),
    "TestSubreddit.test_traffic__not_public": (404, SeedError, "no such subreddit"),
    "TestSubreddit.test_sticky": (302, SeedError, "no such subreddit"),
    "TestModNotes.test_delete_note__all_notes": (500, AskError, r"gives nothing \(status 500\)"),
    "TestReddit.test_bad_request_without_json_text_plain_response": (400, AskError, "gives no submissions"),
    "TestSubredditStylesheet.test_upload__too_large": (413, AskError, "gives no submissions"),
}


@pytest.mark.parametrize("name", RECORDED_FAULTS)
def test_recorded_faults_are_one_error_each(played, site, cassettes, naps, name):
    status, error, says = RECORDED_FAULTS[name]
    fault = next(each for each in cassettes[name] if each["response"]["status"]["code"] == status)
    there = {"uri": "https://oauth.reddit.com/r/science/top"}
    played([{"request": there, "response": fault["response"]}] * 6)
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger, pytest.raises(error, match=says):
        found(site, ["science"], RedditConfig(road="top"), ledger)
    assert len([hit for hit in site.hits if hit.path.startswith("/r/")]) == (6 if status == 500 else 1)
    assert naps == []


def test_rate_limits_are_obeyed_and_what_is_said_of_them_may_be_nonsense(site, naps):
    first = listing(submission(0), after="t3_p0")
    limits = {"X_Ratelimit_Remaining": "0", "X_Ratelimit_Used": "600", "X_Ratelimit_Reset": "77"}
    pages = [(first, limits), (listing(submission(1)), {"X_Ratelimit_Remaining": "soon"})]
    site.on("reddit.test", "/api/v1/access_token", TOKEN)

    def top(handler):
        text, headers = pages.pop(0)
        reply(200, text, Content_Type="application/json", **headers)(handler)

    site.on("reddit.test", "*", top)
    with Ledger(":memory:") as ledger, pytest.raises(AskError, match="Reddit's answer cannot be read"):
        found(site, ["science"], RedditConfig(road="top"), ledger)
    assert [round(seconds) for seconds in naps] == [77]
    site.on("reddit.test", "*", reply(429, "{}", Retry_After="9"))
    with (
        Ledger(":memory:") as ledger,
        pytest.raises(AskError, match=r"\(status 429\); the same command goes on"),
    ):
        found(site, ["science"], RedditConfig(road="top"), ledger)


def listing(*posts, after=None):
    children = [{"kind": "t3", "data": post} for post in posts]
    return json.dumps({"kind": "Listing", "data": {"children": children, "after": after}})


def submission(number, url=None, **fields):
    known = {"subreddit": "science", "author": "x", "is_self": False, "over_18": False, "score": 1}
    named = {"id": f"p{number}", "name": f"t3_p{number}", "url": url or f"http://a{number}.example/"}
    return known | named | {"created_utc": time.time() - 60} | fields


_TOKEN = {"access_token": "t", "token_type": "bearer", "expires_in": 3600, "scope": "*"}
TOKEN = reply(200, json.dumps(_TOKEN), Content_Type="application/json")


def test_a_stream_loses_and_repeats_none_however_many_come_at_once(site):
    """Reddit shows a hundred at a time: 350 between two looks are four pages."""
    there, looks = [submission(n) for n in range(5)], []

    def new(handler):
        query = parse_qs(urlsplit(handler.path).query)
        newest = list(reversed(there))
        start = next((n + 1 for n, each in enumerate(newest) if [each["name"]] == query.get("after")), 0)
        page = newest[start : start + 100]
        more = page[-1]["name"] if start + 100 < len(newest) else None
        looks.append(start)
        reply(200, listing(*page, after=more), Content_Type="application/json")(handler)
        if start == 0 and looks.count(0) == 1:
            there.extend(submission(n) for n in range(5, 355))

    site.on("reddit.test", "*", new)
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        seeds, _, slept = found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=4)
    assert [seed.url for seed in seeds] == [f"http://a{n}.example/" for n in range(355)]
    assert {(seed.prior, seed.precision, seed.source) for seed in seeds} == {(1.0, 0.0, "reddit:science")}
    assert slept == [2, 2, 4]  # longer while nothing is new


def newest_of(there):
    """Reddit's listing of what is new, a hundred at a time and a thousand at most."""

    def new(handler):
        query = parse_qs(urlsplit(handler.path).query)
        newest = there[:-1001:-1]
        start = next((n + 1 for n, each in enumerate(newest) if [each["name"]] == query.get("after")), 0)
        page = newest[start : start + 100]
        more = page[-1]["name"] if start + 100 < len(newest) else None
        reply(200, listing(*page, after=more), Content_Type="application/json")(handler)

    return new


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bursts=st.lists(st.sampled_from([0, 1, 3, 99, 100, 101, 250, 900]), min_size=1, max_size=4),
    data=st.data(),
)
def test_a_stream_finds_each_submission_once_whatever_else_found_some_of_them(site, bursts, data):
    """Also where another road knew some, a moderator let one through late, and the stream began anew."""
    there, streamed, known = [], [], set()
    site.on("reddit.test", "*", newest_of(there))
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        for burst in bursts:
            first = len(there)
            came = [submission(n, created_utc=1e9 + n) for n in range(first, first + burst)]
            if there:
                late = submission(f"late{first}", created_utc=there[-1]["created_utc"] - 0.5)
                there.insert(len(there) - 1, late)
            there += came
            if came:  # as `top` does
                top = data.draw(st.sampled_from(came))
                ledger.db.execute("create table if not exists submissions (id text primary key)")
                ledger.db.execute("insert or ignore into submissions values (?)", (top["id"],))
                known.add(top["id"])
            seeds, _, _ = found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=2)
            streamed += [seed.url for seed in seeds]
    assert sorted(streamed) == sorted(each["url"] for each in there if each["id"] not in known)


def test_a_stream_says_what_reddit_no_longer_lists(site, capsys):
    there = [submission(n, created_utc=1e9 + n) for n in range(5)]
    site.on("reddit.test", "*", newest_of(there))
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=2)
        there += [submission(n, created_utc=1e9 + n) for n in range(5, 1200)]
        seeds, _, _ = found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=2)
        assert len(seeds) == 1000
        assert "--road archive" in capsys.readouterr().err
        found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=1)
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("road", ["top", "stream"])
def test_reddit_that_is_busy_or_away_is_asked_again_when_it_says(site, road):
    faults = [
        reply(429, "", Retry_After="7"),
        reply(503, "<html>"),
        reply(200, "<html>"),
    ]

    def answer(handler):
        (faults.pop(0) if faults else newest_of([submission(0, score=9)]))(handler)

    site.on("reddit.test", "*", answer)
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        config = RedditConfig(road=road, least_votes=0)
        seeds, _, slept = found(site, ["science"], config, ledger, rounds=1)
        assert len(seeds) == 1
        assert slept[:3] == [7, 14, 28]
        faults += [reply(429, "", Retry_After="86400")]
        with pytest.raises(AskError, match=r"86,400 s.*the same command"):
            found(site, ["science"], config, ledger)


def test_a_token_that_expired_is_asked_for_anew(site):
    faults = [reply(401, '{"message": "Unauthorized", "error": 401}')]

    def answer(handler):
        (faults.pop() if faults else newest_of([submission(0, score=9)]))(handler)

    site.on("reddit.test", "*", answer)
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        seeds, _, _ = found(site, ["science"], RedditConfig(road="top", least_votes=0), ledger)
    assert len(seeds) == 1
    assert [hit.path for hit in site.hits].count("/api/v1/access_token") == 2


def test_who_has_used_up_what_reddit_grants_waits_for_its_next_window(site, monkeypatch):
    waited = []
    clock = SimpleNamespace(sleep=waited.append, monotonic_ns=lambda: 0)
    monkeypatch.setattr("prawcore.rate_limit.time", clock)
    headers = {"x_ratelimit_remaining": "0", "x_ratelimit_used": "600", "x_ratelimit_reset": "123"}
    body = listing(submission(0))
    site.on("reddit.test", "*", reply(200, body, Content_Type="application/json", **headers))
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger:
        found(site, ["science"], RedditConfig(road="stream"), ledger, rounds=3)
    assert waited == [123, 123]


def test_a_quarantined_subreddit_is_not_taken_for_a_bad_key_alone(site, cassettes):
    [recorded] = [
        each["response"]
        for each in cassettes["TestSubredditQuarantine.test_opt_in"]
        if each["response"]["status"]["code"] == 403
    ]
    site.on("reddit.test", "*", reply(403, body_of(recorded), Content_Type="application/json"))
    site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger, pytest.raises(SeedError, match=r"private or quarantined"):
        found(site, ["ferguson"], RedditConfig(road="top"), ledger)


@pytest.mark.parametrize("name", ["science/new", "https://reddit.com/r/science", "RS 1", ""])
def test_what_is_no_name_of_a_subreddit_is_not_asked_for(site, name):
    with Ledger(":memory:") as ledger, pytest.raises(SeedError, match="subreddit"):
        found(site, [name], archive(site), ledger)
    assert site.hits == []


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (401, '{"message": "Unauthorized", "error": 401}', SeedError, "Reddit refuses .*approval.*dumps"),
        (403, "<html>blocked</html>", SeedError, "Reddit refuses"),
        (200, '{"error": "invalid_grant"}', SeedError, "Reddit refuses .*invalid_grant"),
        (404, "{}", SeedError, "no such subreddit"),
    ],
)
def test_who_is_refused_is_told_what_reddit_asks_for_and_of_the_dumps(site, status, body, error, says):
    site.on("reddit.test", "*", reply(status, body, Content_Type="application/json"))
    if status == 404:
        site.on("reddit.test", "/api/v1/access_token", TOKEN)
    with Ledger(":memory:") as ledger, pytest.raises(error, match=says):
        found(site, ["science"], RedditConfig(road="top"), ledger)


def test_without_a_key_nobody_is_asked(site, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    with Ledger(":memory:") as ledger, pytest.raises(SeedError, match=r"Reddit refuses .*client_id"):
        found(site, ["science"], RedditConfig(road="top"), ledger, client_id=None)
    assert site.hits == []


def test_praw_goes_nowhere_but_through_the_guard(site, forbidden):
    there = f"http://127.0.0.1:{forbidden.port}"
    with Ledger(":memory:") as ledger, pytest.raises((NetworkForbidden, AskError)):
        found(site, ["science"], RedditConfig(road="top"), ledger, reddit_url=there, oauth_url=there)
    assert forbidden.connections == 0


# The archive


def archive_of(site, posts, faults=()):
    """Arctic Shift's search over `posts`; the first questions get the answers `faults` instead."""
    faults = list(faults)

    def search(handler):
        query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
        if faults:
            faults.pop(0)(handler)
            return
        within = [p for p in posts if int(query["after"]) < p["created_utc"] < int(query["before"])]
        page = sorted(within, key=lambda post: post["created_utc"])[: int(query["limit"])]
        reply(200, json.dumps({"data": page}), Content_Type="application/json")(handler)

    site.on("reddit.test", "*", search)


def old(number, score=9):
    """Two posts of each second, and of one as many as make two pages."""
    second = number // 2 if not 100 <= number < 190 else 50
    return submission(number, score=score, created_utc=1_600_000_000 + second, retrieved_on=1_600_200_000)


def archive(site):
    return RedditConfig(road="archive", least_votes=0, archive=f"http://reddit.test:{site.port}")


def test_the_archive_is_read_to_its_end_and_goes_on_there(site):
    posts = [old(n) for n in range(400)]
    archive_of(site, posts[:300])
    with Ledger(":memory:") as ledger:
        seeds, _, slept = found(site, ["science"], archive(site), ledger)
        assert {seed.url for seed in seeds} == {f"http://a{n}.example/" for n in range(300)}
        assert len(seeds) == 300
        assert {seed.source for seed in seeds} == {"reddit:science"}
        assert set(slept) == {1.0}
        assert ledger.spent() == {"reddit:science": {"requests": len(site.hits)}}
        assert found(site, ["science"], archive(site), ledger)[0] == []
        archive_of(site, posts)
        later, _, _ = found(site, ["science"], archive(site), ledger)
    assert {seed.url for seed in later} == {f"http://a{n}.example/" for n in range(300, 400)}


def test_an_archive_that_refuses_breaks_or_says_nonsense_is_asked_again_later_each_time(site):
    nothing = [
        reply(429, "", Retry_After="40"), reply(422), reply(200, "<html>"), reply(200, '{"data": null}'),
        reply(200, '{"data": [null, {"created_utc": "x"}]}'),
    ]  # fmt: skip
    archive_of(site, [old(n) for n in range(3)], nothing)
    with Ledger(":memory:") as ledger:
        seeds, _, slept = found(site, ["science"], archive(site), ledger)
        assert len(seeds) == 3
        assert slept[:5] == [40, 80, 160, 320, 600]
        archive_of(site, [], [reply(400, '{"data": null, "error": "no such subreddit"}')])
        with pytest.raises(SeedError, match=r"no such subreddit"):
            found(site, ["science"], archive(site), ledger)
        archive_of(site, [], [reply(503)] * 6)
        with pytest.raises(
            AskError, match=r"gives nothing \(status 503\); the same command goes on from here"
        ):
            found(site, ["science"], archive(site), ledger)


def test_more_posts_in_a_second_than_the_archive_shows_do_not_end_it(site):
    same = [submission(n, score=9, created_utc=1_600_000_000) for n in range(150)]
    archive_of(site, [*same, submission(999, score=9, created_utc=1_600_000_007)])
    with Ledger(":memory:") as ledger:
        seeds, _, _ = found(site, ["science"], archive(site), ledger)
    assert "http://a999.example/" in {seed.url for seed in seeds}


def test_what_went_to_a_file_is_still_new_to_a_crawl_and_to_the_next_file(site, tmp_path):
    archive_of(site, [old(n) for n in range(20)])
    for resumes in (False, True, False):
        with Ledger(tmp_path / "sources.sqlite", resumes=resumes) as ledger:
            assert len(found(site, ["r/science"], archive(site), ledger)[0]) == 20
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        assert found(site, ["science"], archive(site), ledger)[0] == []


def test_an_earlier_beginning_is_read_although_later_posts_are_known(site):
    archive_of(site, [old(n) for n in range(20)])
    with Ledger(":memory:") as ledger:
        late = replace(archive(site), after=1_600_000_005)
        some, _, _ = found(site, ["science"], late, ledger)
        more, _, _ = found(site, ["science"], archive(site), ledger)
    assert len(some) == 8
    assert len(some) + len(more) == 20


def test_a_post_without_a_time_costs_itself_alone(site):
    bad = [None, {"id": "x", "created_utc": "x"}, old(1) | {"created_utc": "1600000000.5"}]
    archive_of(site, [old(0)], [reply(200, json.dumps({"data": bad}), Content_Type="application/json")])
    with Ledger(":memory:") as ledger:
        seeds, progress, _ = found(site, ["science"], archive(site), ledger)
    assert {seed.url for seed in seeds} == {"http://a0.example/", "http://a1.example/"}
    assert progress.dropped["bad_line"] == 2
