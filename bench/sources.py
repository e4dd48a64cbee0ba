"""What a bandit over sources is worth: good tokens per fetch, beside an equal split and the best fixed one.

    python -m bench.sources [--quick] [--out FILE]

Four providers of known yield, made of real hosts (42,000 pages of documentation and blogs): each gives pages
of its own hosts as seeds, which lead to what they link to. One has hosts of long prose, one of stubs and
pages of other languages, one is mixed, and one is the best until it runs dry. A step draws ten seeds of one;
each costs up to five fetches, itself and four of its links; a page met before brings nothing. Rewards come in
lumps, five steps later, as with shards. The best fixed split is that of all splits in tenths, in hindsight.

And what it saves to know before one knocks: of 400 hosts on loopback 45 % are alive and in English, 35 % in
another language, 10 % refuse and 10 % are dead (English is 45 % of Common Crawl; the rest is assumed). They
are probed without and with a Host Index that knows four of five, and is wrong in a share of them.
"""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from backports import zstd
from cyclopts import App
from numpy.typing import NDArray
from rich.progress import track

from bench.report import report
from crawler.config import CrawlConfig
from crawler.seeds.config import HostsConfig
from crawler.seeds.hosts import seeds_of_hosts
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress
from ranker.bandit import Bandit

DATA = Path(__file__).parents[2] / "shared" / "data" / "web"
SEEDS, LINKS, LATE, STEPS = 10, 4, 5, 100
PROVIDERS = ("prose", "stubs", "mixed", "dry")
HOSTS, KNOWN, WRONG = 400, 0.8, (0.0, 0.05, 0.2)
KINDS = {"english": 0.45, "other": 0.35, "refuses": 0.1, "dead": 0.1}
app = App()


class Web:
    """Pages by number: what each is worth in tokens, and where it leads."""

    def __init__(self) -> None:
        with zstd.open(DATA / "pages.tsv.zst") as stream:
            options = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
            pages = pyarrow.csv.read_csv(stream, parse_options=options)
        edges = pq.read_table(DATA / "edges.parquet")
        ids = pages["id"].to_numpy()
        number = np.full(int(ids.max()) + 1, -1)
        number[ids] = np.arange(len(ids))
        english = np.array(pages["kind"].to_pylist()) != "nonenglish"
        self.tokens = np.where(english, np.minimum(pages["prose_chars"].to_numpy(), 20_000) / 4, 0.0)
        self.hosts = np.array(pages["host"].to_pylist())
        source, target = number[edges["src"].to_numpy()], number[edges["dst"].to_numpy()]
        known = (source >= 0) & (target >= 0)
        order = np.argsort(source[known], kind="stable")
        self.targets = target[known][order]
        self.starts = np.searchsorted(source[known][order], np.arange(len(ids) + 1))

    def providers(self) -> dict[str, NDArray[np.int64]]:
        """The pages that each gives."""
        names = np.unique(self.hosts)
        worth = {name: self.tokens[self.hosts == name].mean() for name in names}
        ranked = sorted(names, key=lambda name: worth[name])
        third = len(ranked) // 3
        pages = {
            "prose": np.flatnonzero(np.isin(self.hosts, ranked[third : 2 * third])),
            "stubs": np.flatnonzero(np.isin(self.hosts, ranked[:third]) | (self.tokens == 0)),
            "mixed": np.arange(len(self.hosts)),
        }
        best = np.flatnonzero(np.isin(self.hosts, ranked[2 * third :]))
        return pages | {"dry": best[np.argsort(-self.tokens[best])][:600]}


def run(web: Web, order: Any, seed: int, steps: int) -> float:
    """Good tokens per fetch of a run whose provider `order(step, totals)` says."""
    random = np.random.default_rng(seed)
    providers = web.providers()
    queues = {name: list(random.permutation(pages)) for name, pages in providers.items()}
    met: set[int] = set()
    totals = dict.fromkeys(providers, (0.0, 0.0))
    shown = [dict(totals)]
    for step in range(steps):
        name = order(step, shown[max(0, len(shown) - 1 - len(shown) % LATE)])
        cost, brought = 0.0, 0.0
        for _ in range(SEEDS):
            if not queues[name]:  # it gives what it gave before
                queues[name] = list(random.permutation(providers[name]))
            page = int(queues[name].pop())
            links = web.targets[web.starts[page] : web.starts[page + 1]]
            chosen = (
                random.choice(links, min(LINKS, len(links)), replace=False).tolist() if len(links) else []
            )
            for each in [page, *chosen]:
                cost += 1
                brought += 0.0 if each in met else float(web.tokens[each])
                met.add(each)
        before = totals[name]
        totals[name] = before[0] + cost, before[1] + brought
        shown.append(dict(totals))
    fetches, tokens = (sum(of[index] for of in totals.values()) for index in (0, 1))
    return tokens / fetches


def by_bandit(seed: int) -> Any:
    bandit = Bandit(PROVIDERS, np.random.default_rng(seed))

    def order(_: int, totals: dict[str, tuple[float, float]]) -> str:
        bandit.look(totals)
        return bandit.choose(PROVIDERS)

    return order


def by_split(shares: tuple[float, ...]) -> Any:
    """Steps in turn, so that each has its share of any beginning."""
    given = np.zeros(len(shares))

    def order(step: int, _: Any) -> str:
        name = int(np.argmax(np.array(shares) * (step + 1) - given))
        given[name] += 1
        return PROVIDERS[name]

    return order


class Host(BaseHTTPRequestHandler):
    """The hosts: what one is stands first in its name."""

    def do_GET(self) -> None:
        kind = self.headers["Host"].partition("-")[0]
        robots = "User-agent: *\nDisallow: /\n" if kind == "refuses" else ""
        page = {
            "english": "<p>This is a page in plain English that says what it is about, and why. " * 5,
            "other": "<p>Diese Seite ist auf Deutsch geschrieben und sagt, worum es darin geht. " * 5,
        }
        body = (robots if self.path == "/robots.txt" else page.get(kind, "")).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing of it."""


@contextmanager
def serving() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def host_index(names: list[str], wrong: float, path: Path) -> None:
    """What a crawl of the month before says of most of these hosts; some are another kind since."""
    random = np.random.default_rng(1)
    rows = []
    for name in names:
        known, changed = random.random(2)
        kind = name.partition("-")[0] if changed >= wrong else str(random.choice(list(KINDS)))
        alive = kind in ("english", "other")
        row: dict[str, Any] = dict.fromkeys(
            ("fetch_200", "fetch_4xx", "fetch_5xx", "robots_200", "robots_gone"), 0
        )
        row |= {"fetch_200": 20 * alive, "fetch_5xx": 5 * (kind == "dead"), "robots_200": int(alive)}
        row |= {"robots_4xx": 3 * (kind == "refuses"), "robots_5xx": 0, "hcrank10": 3.0}
        row |= {"fetch_200_lote_pct": 99 if kind == "other" else 1}
        if known < KNOWN:
            rows.append(row | {"surt_host_name": ",".join(reversed(name.split(".")))})
    pq.write_table(pa.Table.from_pylist(rows), path)


def probed(names: list[str], port: int, known: tuple[Path, ...], directory: Path) -> tuple[int, set[str]]:
    """Probes that were sent, and hosts that were found. Time does not pass: only its order counts."""
    at = {name: port if not name.startswith("dead") else 1 for name in names}
    crawl = CrawlConfig(
        allowed_networks=("127.0.0.1/32",), resolve=tuple(f"{name}=127.0.0.1:{at[name]}" for name in names)
    )
    (directory / "list.txt").write_text("\n".join(names))
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += max(0.0, seconds)
        await asyncio.sleep(0)

    config = HostsConfig(probe=True, known=known)
    clock = (lambda: now[0], sleep)
    with Ledger(":memory:") as ledger:
        lists, languages = [str(directory / "list.txt")], ["en"]
        batches = seeds_of_hosts(lists, config, crawl, languages, directory, ledger, Progress(), clock)
        found = {seed.url.split("/")[2] for batch in batches for seed in batch.seeds}
        return int(sum(of["probes"] for of in ledger.spent().values())), found


def knowing() -> dict[str, dict[str, float]]:
    """By share of the index that is wrong: probes saved, live hosts found of all, and seeds that are none."""
    random = np.random.default_rng(0)
    kinds = random.choice(list(KINDS), HOSTS, p=list(KINDS.values()))
    names = [f"{kind}-{number}.example" for number, kind in enumerate(kinds)]
    figures = {}
    with serving() as port, TemporaryDirectory() as place:
        directory = Path(place)
        usual, live = probed(names, port, (), directory)
        for wrong in WRONG:
            host_index(names, wrong, directory / "index.parquet")
            sent, found = probed(names, port, (directory / "index.parquet",), directory)
            figures[f"{wrong:g}"] = {
                "saved": 1 - sent / usual,
                "live_found": len(found & live) / len(live),
                "false_seeds": len(found - live) / len(found),
            }
    return figures


@app.default
def main(*, quick: bool = False, out: Path | None = None) -> None:
    """Measure."""
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: its pages are what the providers give")
    web, seeds, steps = Web(), range(6 if quick else 30), STEPS
    parts = 4 if quick else 10
    splits = [s for s in itertools.product(range(parts + 1), repeat=4) if sum(s) == parts]
    found: dict[str, list[float]] = {
        "bandit": [run(web, by_bandit(seed), seed, steps) for seed in track(seeds, "bandit")],
        "equal": [run(web, by_split((0.25,) * 4), seed, steps) for seed in seeds],
    }
    fixed = {
        split: [run(web, by_split(tuple(n / parts for n in split)), seed, steps) for seed in seeds[:5]]
        for split in track(splits, "splits")
    }
    best = max(fixed, key=lambda split: sum(fixed[split]))
    found["best_fixed"] = [run(web, by_split(tuple(n / parts for n in best)), seed, steps) for seed in seeds]
    regret = 1 - np.array(found["bandit"]) / np.array(found["best_fixed"])
    of_equal = 1 - np.array(found["equal"]) / np.array(found["best_fixed"])
    error = 1.96 * regret.std(ddof=1) / np.sqrt(len(regret))
    for name, values in found.items():
        print(f"{name:<11} {np.mean(values):>7,.0f} good tokens per fetch")
    print(f"best fixed split: {dict(zip(PROVIDERS, (n / parts for n in best), strict=True))}")
    print(f"regret of the bandit {regret.mean():.3f} ± {error:.3f}, of an equal split {of_equal.mean():.3f}")
    known = knowing()
    for wrong, of in known.items():
        print(
            f"of what is known {float(wrong):3.0%} is wrong: {of['saved']:.0%} of the probes saved, "
            f"{of['live_found']:.1%} of the live hosts found, {of['false_seeds']:.1%} of the seeds are none"
        )
    figures = {
        "probes_saved": known["0"]["saved"],  # where as many live hosts are found
        "probes": known,
        "tokens_per_fetch": {name: float(np.mean(values)) for name, values in found.items()},
        "regret": float(regret.mean()),
        "regret_error": float(error),
        "regret_equal": float(of_equal.mean()),
        "quick": int(quick),
    }
    report(figures, out, "numpy")


if __name__ == "__main__":
    app()
