"""`tinylm`: the command line. Heavy libraries are imported by the command that needs them, not by --help."""

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

import tinylm
from crawler.config import CrawlConfig, FrontierConfig
from ranker.config import WalkConfig
from tinylm.config import in_force, layers
from tinylm.errors import exit_on_error
from trainer.config import InstructionsConfig, PretrainConfig, SFTConfig

_CRAWL = layers(frontier=FrontierConfig, crawl=CrawlConfig, walk=WalkConfig)
_SECTIONS: dict[str, type] = {
    "frontier": FrontierConfig,
    "crawl": CrawlConfig,
    "walk": WalkConfig,
    "pretrain": PretrainConfig,
    "instructions": InstructionsConfig,
    "sft": SFTConfig,
}

app = App(
    name="tinylm",
    version=tinylm.__version__,
    help="From a list of seeds to a language model you can talk to.",
    help_epilogue=(
        "Settings: a flag wins over the environment (TINYLM_CRAWL_PAGES=500), that over tinylm.toml ([crawl] "
        "pages = 500; another file: TINYLM_CONFIG), that over the default. `tinylm config` shows them. "
        "Training: `torchrun -m trainer.pretrain --help`, `torchrun -m trainer.sft --help`."
    ),
)


@app.command
def demo(data: Path = Path("runs/demo")) -> None:
    """Seeds to chat in one go, on a web made of the documentation installed on this machine.

    Nothing leaves loopback. Stop it at any point; started again, it goes on.

    Parameters
    ----------
    data
        Directory for everything it makes.
    """
    from deploy.demo.run import run

    run(data)


@app.command(config=_CRAWL)
def crawl(
    seeds: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006 (cyclopts copies)
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Crawl from SEEDS on this machine: server, workers and walker, until a limit is reached.

    Each seed is a URL, a file of URLs, or a dump of Reddit submissions (.zst, .xz, .ndjson). Without seeds a
    crawl goes on where it stopped.
    """
    from crawler.seeds.read import read_seeds
    from deploy.crawl import Crawl
    from deploy.status import show_crawl

    found = [seed for given in seeds for seed in read_seeds(given)]
    reason = Crawl(frontier, crawl, walk).run(found, show_crawl)
    print(f"done: {reason}; the corpus is in {frontier.shards}")


@app.command(config=layers(frontier=FrontierConfig))
def seed(seeds: list[str], *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Give SEEDS (URLs, files of URLs, Reddit dumps) to a crawl, running or not."""
    from crawler.seeds.read import read_seeds
    from deploy.crawl import open_frontier

    found = [seed for given in seeds for seed in read_seeds(given)]
    with open_frontier(frontier) as opened:
        print(f"{opened.put_seeds(found):,} seeds given to crawl {frontier.crawl_id!r}")


@app.command(config=layers(frontier=FrontierConfig, crawl=CrawlConfig))
def begin(
    seeds: Annotated[list[str], Parameter(env_var="TINYLM_SEEDS", negative=())] = [],  # noqa: B006
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Set the rules and limits of a crawl whose workers run elsewhere, and give it SEEDS.

    Seeds it has had count once; they may also be in the variable TINYLM_SEEDS. Hours count from now; a crawl
    that reached a limit goes on when it is set higher.
    """
    from crawler.seeds.read import read_seeds
    from deploy.crawl import begin as begin_crawl
    from deploy.crawl import open_frontier

    crawl.check_user_agent()
    found = [seed for given in seeds for seed in read_seeds(given)]
    with open_frontier(frontier) as opened:
        given = begin_crawl(opened, frontier, crawl, found)
    print(f"crawl {frontier.crawl_id!r}: {given:,} seeds given; stops at {crawl.pages:,} pages")


@app.command(config=_CRAWL)
def worker(
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Fetch what the frontier leases, until SIGTERM. Start as many as you like, anywhere.

    If nobody has set the crawl's limits yet, this sets them. At a limit it waits for a higher one. Of the
    walker's settings it heeds the languages: what is in another, or hardly text at all, is not extracted.
    """
    from crawler.fetch.robots import product_token
    from crawler.fetch.worker import run
    from crawler.read.extract import Extractor
    from crawler.read.screen import Wanted
    from deploy.crawl import limits_from_now, open_frontier
    from tinylm.log import setup

    setup("worker")
    crawl.check_user_agent()
    crawl.check_lease(frontier.lease_seconds)
    with open_frontier(frontier) as opened:
        opened.set_limits_if_none(limits_from_now(crawl))
        wanted = Wanted(walk.languages, walk.language_score) if crawl.prescreen else None
        run(opened, crawl, Extractor(wanted, product_token(crawl.user_agent)))


@app.command(config=_CRAWL)
def walk(
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Judge fetched pages, steer the frontier and write shards, until SIGTERM; then commit and end."""
    from deploy.crawl import open_frontier
    from deploy.walk import run
    from tinylm.log import setup

    setup("walk")
    with open_frontier(frontier) as opened:
        run(opened, frontier, crawl, walk)


@app.command(config=layers(frontier=FrontierConfig))
def server(*, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Run the embedded server of a data directory in the foreground, for workers in other shells."""
    from crawler.frontier.server import EmbeddedServer

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with EmbeddedServer(frontier.data / "redis", memory=frontier.memory) as embedded:
        print(f"--redis-url {embedded.url}", flush=True)
        signal.pause()


@app.command(config=layers(frontier=FrontierConfig))
def status(*, frontier: FrontierConfig = FrontierConfig()) -> None:
    """What the crawl has done, what it is doing, and why nothing is ready if nothing is."""
    from rich.console import Console

    from deploy.crawl import attach
    from deploy.status import CrawlDisplay

    attached = attach(frontier)
    Console().print(CrawlDisplay(attached).table())
    if reason := attached.reached():
        print(f"stopped: {reason}")


app.command(
    "deploy.cli.frontier:app", name="frontier", help="Look after a running crawl: what waits, and why."
)


shards = app.command(App(name="shards", help="Look after a corpus."))


@shards.command(name="list")
def list_shards(directory: Path) -> None:
    """The shards of DIRECTORY, its size, and what is held out."""
    from deploy.cli.shards import describe

    describe(directory)


@shards.command
def verify(directory: Path) -> None:
    """Compare every file of DIRECTORY with what was committed; exit 1 if one differs."""
    from shards.reader import verify as find_damage

    damage = list(find_damage(directory))
    for name, what in damage:
        print(f"{directory / name}: {what}", file=sys.stderr)
    if damage:
        sys.exit(1)
    print(f"{directory}: every file is as it was committed")


@shards.command(config=layers(walk=WalkConfig))
def hold_out(directory: Path, *, walk: WalkConfig = WalkConfig()) -> None:
    """Choose the hosts whose text no model trains on, once for a corpus."""
    from shards.holdout import hold_out as choose

    held_out = choose(directory, walk.held_out)
    print(f"held out: {', '.join(held_out.hosts)}; {len(held_out.excluded)} near-duplicates on neither side")


@shards.command(config=layers(frontier=FrontierConfig))
def take_down(directory: Path, *what: str, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Never give WHAT, hosts and URLs, from the corpus in DIRECTORY again; a crawl does not fetch them again.

    While a crawl writes to DIRECTORY its frontier is told, and the walker's next commit has it.
    """
    from deploy.cli.shards import take_down as take_down_from

    print(f"taken down: {take_down_from(directory, list(what), frontier)}")


@shards.command
def purge(directory: Path) -> None:
    """Rewrite the shards of DIRECTORY without what was taken down. Not while a crawl writes there.

    Text, links and fetches go from the corpus; what was made from it (models, instruction data, WARC files)
    is not touched. Snapshots from before cannot be read any more.
    """
    from deploy.cli.shards import purge_taken_down

    documents, links, fetches = purge_taken_down(directory)
    print(f"{directory}: {documents:,} documents, {links:,} links and {fetches:,} logged fetches are gone")


@shards.command
def rank(directory: Path, *, top: int = 10) -> None:
    """PageRank and harmonic centrality of DIRECTORY's pages, hosts and domains, as columns beside its shards.

    Done once for a snapshot of the corpus: the second time it says so.

    Parameters
    ----------
    top
        How many of the best pages and hosts to print.
    """
    from deploy.cli.rank import run

    run(directory, top)


@shards.command
def show(directory: Path, *, url: str | None = None, limit: int = 3) -> None:
    """Print documents of DIRECTORY: the first LIMIT, or the one with this URL."""
    from deploy.cli.shards import print_documents

    print_documents(directory, url, limit)


@app.command(config=layers(frontier=FrontierConfig))
def why(url: str, directory: Path | None = None, *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """What URL promised and what that was made of, when it was fetched, and what the fetch was worth.

    Parameters
    ----------
    directory
        Of the corpus; by default that of the crawl in --data.
    """
    from deploy.cli.why import run
    from ranker.state import restored
    from shards.manifest import Manifest

    corpus = directory or frontier.shards
    run(corpus, url, restored if Manifest.load(corpus).state else None)


@app.command
def simulate(
    *,
    edges: Path | None = None,
    pages: Path | None = None,
    shards: Path | None = None,
    warc: list[Path] = [],  # noqa: B006
    worth: str | None = None,
    policy: Annotated[list[str], Parameter(consume_multiple=True)] = ["tinylm"],  # noqa: B006
    seeds: int = 20,
    draws: int = 8,
    start: str | None = None,
    budget: int = 10_000,
    delay: float | None = None,
    latency: float = 0.1,
    workers: int = 16,
    exploration: float = 0.0,
    seed: int = 0,
    json: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Crawl a recorded web in memory under several policies, and say how near each comes to an oracle.

    Parameters
    ----------
    edges
        The web as a Parquet file of links: src and dst, numbers of pages.
    pages
        With it, a table of pages, tab-separated or Parquet: id, url, and what the worth is made of.
    shards
        The web that a crawl of ours saw: its directory of shards.
    warc
        The web in WARC files, or directories of them.
    worth
        What fetching a page is worth: "pagerank" (of an edge list, its default), or an expression over the
        columns of the pages with numbers, 'words', + - * /, comparisons, min, max, where and log1p. Shards
        know what each fetch was worth; of a WARC it is the length of its text.
    policy
        Names of policies, separated by commas. Random order and the greedy oracle are always with them.
    seeds
        Pages drawn to start from.
    draws
        How often.
    start
        Instead: "hosts" for one page drawn of each host, or a file of URLs.
    budget
        Fetches.
    delay
        Seconds a host rests after a fetch: simulates time, and politeness with it.
    latency
        Seconds a fetch takes, in simulated time.
    workers
        Fetches at once, in simulated time.
    exploration
        Share of fetches drawn at random, as in a real crawl.
    seed
        The same seed draws the same.
    json
        File for the result.
    plot
        File for harvest curves and percent of oracle: .svg, .png or .pdf.
    """
    from deploy.cli import simulate as simulation
    from ranker.replay.experiment import Experiment, draw_starts, policies
    from ranker.replay.simulator import Clock

    web = simulation.read_web(edges, pages, shards, warc, worth)
    names = [name for given in policy for name in given.split(",") if name]
    if start in (None, "hosts"):
        starts = draw_starts(web, seeds, draws, seed, of_hosts=start == "hosts")
    else:
        starts = [simulation.read_starts(Path(start), web)] * draws
    result = simulation.compare(
        Experiment(
            web=web,
            policies=policies(names, web, budget),
            starts=starts,
            budget=budget,
            clock=Clock(delay=delay, latency=latency, workers=workers) if delay is not None else None,
            exploration=exploration,
        )
    )
    if json is not None:
        simulation.write_json(result, json)
    if plot is not None:
        simulation.plot(result, plot)


@app.command
def complete(
    prompt: str,
    *,
    run: Path = Path("runs/demo/pretrain"),
    max_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    speculate: int = 0,
    logprobs: int | None = None,
    weights: Literal["fp32", "fp16"] = "fp32",
) -> None:
    """Continue PROMPT with a trained model.

    Parameters
    ----------
    run
        Directory of a training run, or one of its checkpoints.
    max_tokens
        Most tokens to add.
    temperature
        0 always takes the likeliest token.
    top_k
        Choose among this many likeliest tokens; 0 for all.
    top_p
        Choose among the likeliest tokens that together reach this probability.
    min_p
        Choose among tokens at least this likely, in relation to the likeliest.
    seed
        The same seed gives the same text.
    stop
        End before this string; may be given several times.
    speculate
        Guess so many tokens ahead where the text repeats itself: the same text, sooner.
    logprobs
        Print a token a line with its probability, and with so many of the likeliest.
    weights
        fp16 is about twice as fast as fp32 where the model is larger than the processor's cache.
    """
    from deploy.cli.model import print_stream, print_tokens
    from trainer.generate import Generator

    generator = Generator.load(run, weights=weights)
    sampling: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k}
    sampling |= {"top_p": top_p, "min_p": min_p, "seed": seed, "stop": stop, "speculate": speculate}
    if logprobs is not None:
        print_tokens(generator.complete_tokens(prompt, logprobs, **sampling), generator.tokenizer)
        return
    print(prompt, end="")
    print_stream(generator.complete(prompt, **sampling))


@app.command
def chat(
    message: str | None = None,
    *,
    run: Path = Path("runs/demo/sft"),
    max_tokens: int = 192,
    temperature: float = 0.7,
    top_k: int = 50,
    seed: int | None = None,
) -> None:
    """Talk to a fine-tuned model; with MESSAGE, ask once and end.

    Parameters
    ----------
    run
        Directory of a fine-tuning run, or one of its checkpoints.
    """
    from deploy.cli.model import converse

    converse(run, message, max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed)


app.command("deploy.cli.export:app", name="export", help="A trained model for transformers or llama.cpp.")


@app.command(config=layers(frontier=FrontierConfig))
def dashboard(
    *,
    frontier: FrontierConfig = FrontierConfig(),
    runs: list[Path] = [],  # noqa: B006
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Show crawl and training live on one web page, now or once they begin.

    Parameters
    ----------
    runs
        Training runs to show (their directories).
    host
        Address to listen on.
    port
        Port to listen on.
    """
    from deploy.crawl import attach
    from deploy.dashboard.app import serve

    serve(partial(attach, frontier), frontier.shards, runs, host=host, port=port)


@app.command
def config() -> None:
    """Every setting in force here and now, and where its value came from."""
    from rich.console import Console
    from rich.table import Table

    table = Table("section", "setting", "value", "from")
    for section, name, value, source in in_force(**_SECTIONS):
        table.add_row(section, name, str(value), source, style=None if source == "default" else "bold")
    Console().print(table)


def main(argv: list[str] | None = None) -> Any:
    """The entry point."""
    with exit_on_error():
        return app(argv)


if __name__ == "__main__":
    main()
