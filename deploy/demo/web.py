"""`python -m deploy.demo.web`: serve the local web until SIGTERM."""

from typing import Annotated

from cyclopts import App, Parameter

from deploy.demo.server import LocalWebConfig, run
from tinylm.errors import exit_on_error

app = App(
    name="python -m deploy.demo.web", help="Serve the documentation on this machine as a web on loopback."
)


@app.default
def main(config: Annotated[LocalWebConfig, Parameter(name="*")] = LocalWebConfig()) -> None:  # noqa: B008 (frozen)
    """Serve the documentation on this machine as a web on loopback."""
    with exit_on_error():
        run(config)


if __name__ == "__main__":
    app()
