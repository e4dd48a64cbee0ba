"""Posts a second and core from a dump of Reddit to the karma of its pages, beside the usual loop in Python.

    python -m bench.karma [--quick] [--out FILE]

The file has the shape of January 2026: the fields and types of that month's statistics, text of their mean
length, its shares of posts that are text (37 %), pictures and films on Reddit itself (34 %) and galleries
(13 %), crossposts in one of 25; the others are real links with real scores. It is zstd with a window of
2 GiB, as the dumps are. The usual loop is zstandard and json: a dictionary {link: sum of scores} of posts
that are neither text nor over 18. Ours makes canonical URLs, imputes, shrinks, and gives seeds. Each
contestant is a process of its own, in turns; its CPU time counts from the first byte to the last seed.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from backports import zstd
from rich.progress import track

from bench.report import report
from bench.submissions import drawn, schemas

DATA = Path(__file__).parents[2] / "shared" / "data" / "reddit"
MONTH = "RS_2026-01"
# Bytes of a post in that month, on average; of what is nested most posts have little, and the statistics do
# not say how many have it.
BYTES = 3900
TEMPLATES = 3000
WINDOW_LOG = 31
BAD = ('{"url": "http://cut.example', "", '{"score": 1}{', "[1]")


def make(path: Path, posts: int) -> int:
    """Write the dump; returns how many of its lines are none."""
    source = random.Random(0)
    kinds = schemas(DATA / "arctic-shift-schemas.tar.zst")[MONTH]
    with zstd.open(DATA / "top-posts-sample.ndjson.zst") as stream:
        links = [json.loads(line) for line in stream]
    templates = []
    for _ in track(range(TEMPLATES), "drawing posts"):
        post = drawn(source, kinds)
        parents = post.pop("crosspost_parent_list", [])
        for name in sorted(post, key=lambda name: -len(json.dumps(post[name]))):
            if len(json.dumps(post)) <= source.uniform(0.8, 1.2) * BYTES:
                break
            if isinstance(post[name], dict | list):
                del post[name]
        templates.append(post | ({"crosspost_parent_list": parents} if source.random() < 0.04 else {}))
    options: Any = {
        zstd.CompressionParameter.window_log: WINDOW_LOG,
        zstd.CompressionParameter.compression_level: 3,
    }
    bad = 0
    with zstd.open(path, "wb", options=options) as out:
        for number in track(range(posts), "writing the dump"):
            post = source.choice(templates) | one(source, source.choice(links), number)
            out.write(json.dumps(post, separators=(",", ":")).encode() + b"\n")
            if number % 100_000 == 7:
                bad += 1
                out.write(source.choice(BAD).encode() + b"\n")
    return bad


def one(source: random.Random, link: dict[str, Any], number: int) -> dict[str, Any]:
    """What makes it a post of its own: of text, a picture or film, a gallery, or a link."""
    fields = {name: link[name] for name in ("subreddit", "score", "title", "url", "domain")}
    fields |= {"id": f"{number:x}", "author": f"user{number % 99_991}", "over_18": source.random() < 0.2}
    fields |= {"is_self": False, "is_gallery": False, "promoted": False}
    kind = source.random()
    if kind < 0.37:
        here = f"https://www.reddit.com/r/x/{number}"
        return fields | {"is_self": True, "domain": f"self.{link['subreddit']}", "url": here}
    if kind < 0.71:
        return fields | {
            "domain": source.choice(("i.redd.it", "v.redd.it")),
            "url": f"https://i.redd.it/{number}",
        }
    if kind < 0.84:
        return fields | {
            "is_gallery": True,
            "domain": "reddit.com",
            "url": f"https://reddit.com/gallery/{number}",
        }
    return fields


def usual(path: Path) -> Callable[[], tuple[int, int]]:
    """The loop that people write: posts read, and lines that are none."""
    import zstandard

    def run() -> tuple[int, int]:
        karma: Counter[str] = Counter()
        posts = bad = 0
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        with path.open("rb") as raw, decompressor.stream_reader(raw) as stream:
            for line in io.BufferedReader(stream, 1 << 20):
                posts += 1
                try:
                    post = json.loads(line)
                    if not post["is_self"] and not post["over_18"]:
                        karma[post["url"]] += post["score"]
                except (ValueError, KeyError, TypeError):
                    bad += 1
        return posts, bad

    return run


def ours(path: Path) -> Callable[[], tuple[int, int]]:
    from crawler.seeds.config import RedditConfig
    from crawler.seeds.karma import seeds_of_dumps
    from crawler.seeds.ledger import Ledger
    from crawler.seeds.seed import Progress

    def run() -> tuple[int, int]:
        progress = Progress()
        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger") as ledger:
            place = Path(folder) / "karma.duckdb"
            for _ in seeds_of_dumps([path], RedditConfig(), place, ledger, progress):
                pass
        return progress.read, progress.dropped["bad_line"]

    return run


def measure(contestant: str, path: Path) -> dict[str, float]:
    """In a process of its own."""
    argv = [sys.executable, "-m", "bench.karma", "--contestant", contestant, "--file", str(path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--contestant", choices=("ours", "usual"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        run = {"ours": ours, "usual": usual}[arguments.contestant](arguments.file)
        before = time.process_time()
        posts, bad = run()
        cpu = time.process_time() - before
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"posts": posts, "bad": bad, "peak_rss_mb": peak, "cpu": cpu}))
        return
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: its statistics and its posts are what the dump is made of")
    posts, rounds = (60_000, 2) if arguments.quick else (400_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{MONTH}.zst"
        bad = make(path, posts)
        with zstd.open(path, options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}) as stream:
            size = sum(map(len, iter(lambda: stream.read(1 << 20), b"")))
        runs = [(measure("ours", path), measure("usual", path)) for _ in track(range(rounds), "measuring")]
        disk = path.stat().st_size
    of_ours, of_usual = ([run["posts"] / run["cpu"] for run in of] for of in zip(*runs, strict=True))
    ratio = median(a / b for a, b in zip(of_ours, of_usual, strict=True))
    # The window is as large as what was written through it, at most.
    window = min(size, 1 << WINDOW_LOG) / (1 << 20)
    peak = max(run["peak_rss_mb"] for run, _ in runs)
    assert {run["bad"] for run, _ in runs} == {bad}
    print(f"{posts:,} posts of {size / posts:,.0f} bytes, {disk / 1e6:,.0f} MB on disk")
    print(f"ours   {median(of_ours):>10,.0f} posts/s/core; at most {peak:,.0f} MB, {window:,.0f} of window")
    print(f"usual  {median(of_usual):>10,.0f} posts/s/core (zstandard, json)")
    print(f"ratio  {ratio:>10.2f} (goal 3)")
    figures = {
        "posts_per_core_s": median(of_ours),
        "ratio_python_loop": ratio,
        "peak_rss_mb": peak,
        "window_mb": window,
        "bad_lines": bad,
        "quick": int(arguments.quick),
    }
    report(figures, arguments.out, "backports.zstd", "zstandard", "msgspec", "duckdb")


if __name__ == "__main__":
    main()
