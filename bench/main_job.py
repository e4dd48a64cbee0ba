"""The main job as a user runs it: seeds to chat in a fresh directory, its time, its manners, its model.

There is no peer beside it: nothing else goes from seeds to chat. The model stands beside n-grams and xz.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from bench.report import report
from deploy.demo.audit import audit
from deploy.demo.hosts import build_hosts
from deploy.demo.sites import Web, discover
from shards.manifest import Manifest
from tinylm.files import read_json

_DELAY = 0.1

app = App(name="python -m bench.main_job", help=__doc__)


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Run the demo once and print what came of it; the last line is JSON.

    Parameters
    ----------
    quick
        Do not start the finished demo a second time.
    out
        File that gets the JSON too.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "demo"
        seconds = _demo(data)
        again = None if quick else _demo(data)
        found = {"seconds": seconds, "seconds_again": again, **_figures(data)}
    report(found | {"quick": quick}, out, "torch")


def _demo(data: Path) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "deploy.cli.app", "demo", "--data", str(data)], check=True)
    return round(time.monotonic() - began, 1)


def _figures(data: Path) -> dict[str, Any]:
    manifest = Manifest.load(data / "shards")
    evaluation = read_json(data / "pretrain" / "evaluation.json")
    seen = audit(data / "web" / "access.log", build_hosts(Web(discover())), delay=_DELAY)
    return {
        "documents": manifest.rows,
        "text_bytes": manifest.text_bytes,
        "fetches": seen.requests,
        "against_robots": seen.forbidden,
        "too_early": seen.too_early,
        "before_retry_after": seen.before_retry_after,
        "trap_share": round(seen.trap_share, 4),
        "training_tokens": evaluation["tokens"],
        "val_bpb": round(evaluation["val_bpb"], 3),
        **{f"bpb_{name}": round(bits, 3) for name, bits in evaluation["baselines"].items()},
    }


if __name__ == "__main__":
    app()
