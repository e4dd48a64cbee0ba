"""`tinylm`: the command line. Heavy libraries are imported by the command that needs them, not by --help."""

from pathlib import Path
from typing import Any

from cyclopts import App

import tinylm
from crawler.config import CrawlPlace
from deploy.cli import crawl, model
from deploy.sources import seed as sources
from tinylm.config import in_force, layers, whole, without_password
from tinylm.errors import exit_on_error

app = App(
    name="tinylm",
    version=tinylm.__version__,
    suppress_keyboard_interrupt=False,  # or Ctrl-C would end here, before `exit_on_error` says what it means
    help="From a list of seeds to a language model you can talk to.",
    help_epilogue=(
        "Settings: a flag wins over the environment (TINYLM_CRAWL_PAGES=500), that over tinylm.toml ([crawl] "
        "pages = 500; another file: TINYLM_CONFIG), that over what the same crawl was given before and has "
        "written down in its directory, that over the default. `tinylm config` shows them. "
        "Training: `torchrun -m trainer.pretrain --help`, `torchrun -m trainer.sft --help`."
    ),
    config=whole,
)
# "*": these commands stand directly under `tinylm`. Those given as text need pyarrow or numpy: their modules
# are imported when they are called, so that --help stays fast.
app.command(crawl.app, name="*")
app.command(model.app, name="*")
app.command(sources.app, name="seed")
app.command(
    "deploy.sources.read:app",
    name="read",
    help="Bring pages from archives to a crawl's corpus, without a request.",
)
app.command(
    "deploy.cli.frontier:app", name="frontier", help="Look after a running crawl: what waits, and why."
)
app.command("deploy.cli.shards:app", name="shards", help="Look after a corpus.")
app.command(
    "deploy.cli.why:why",
    name="why",
    help="What URL promised, when it was fetched or why it waits, what it was worth; of a host as well.",
    config=layers(frontier=CrawlPlace),
)
app.command(
    "deploy.sources.show:sources",
    name="sources",
    help="Which source pays: good tokens per fetch, per query and per unit billed.",
    config=layers(frontier=CrawlPlace),
)
app.command(
    "deploy.cli.simulate:simulate",
    name="simulate",
    help="Crawl a recorded web in memory under several policies, and say how near each comes to an oracle.",
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


@app.command
def config(*, data: Path | None = None) -> None:
    """Every setting in force here and now, and where its value came from.

    Parameters
    ----------
    data
        Directory of the crawl whose settings are asked for.
    """
    from rich.table import Table

    from deploy.console import Console

    table = Table("section", "setting", "value", "from")
    for section, name, value, source in in_force(*(["--data", str(data)] if data else [])):
        shown = without_password(str(value))
        table.add_row(section, name, shown, source, style=None if source == "default" else "bold")
    Console().print(table)


def main(argv: list[str] | None = None) -> Any:
    """The entry point."""
    with exit_on_error():
        return app(argv)


if __name__ == "__main__":
    main()
