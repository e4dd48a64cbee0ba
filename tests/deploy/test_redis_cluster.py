"""The command line on a cluster of servers, as the docs have it: `--redis-url redis+cluster://HOST:PORT`."""

import subprocess
import sys

import pytest

from shards.manifest import Manifest
from tests.conftest import article, reply
from tests.crawler.driving import redis_cluster
from tinylm.errors import Exit


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield ["--redis-url", url, "--partitions", "3"]


def tell(*words):
    argv = [sys.executable, "-m", "deploy.cli.app", *map(str, words)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_crawl_runs_on_a_cluster_and_can_be_looked_at_and_told(cluster, site, tmp_path):
    hosts = [f"{name}.test" for name in "abcd"]
    for host in hosts:
        site.on(host, "/", reply(200, article(f"front page of {host}")))
    of_it = [*cluster, "--data", tmp_path]
    resolve = [part for host in hosts for part in ("--resolve", f"{host}=127.0.0.1:{site.port}")]
    code, said = tell(
        "crawl", *(f"http://{host}/" for host in hosts), *of_it, *resolve, "--allowed-networks",
        f"127.0.0.1/32:{site.port}", "--delay", "0.01", "--disk-reserve-gigabytes", "0", "--workers", "1",
    )  # fmt: skip
    # Four front pages are too much alike to be kept.
    assert (code, "done: nothing left to fetch" in said) == (Exit.NOTHING_KEPT, True), said
    manifest = Manifest.load(tmp_path / "shards")
    assert manifest.rows + sum(manifest.dropped.values()) == 4
    code, said = tell("status", *of_it)
    assert (code, "Nothing left to fetch" in said) == (0, True), said
    assert tell("frontier", "pause", "A.test.", *of_it) == (0, "paused a.test: 0 queued URLs\n")
    code, said = tell("frontier", "take-down", "b.test", *of_it)
    assert (code, said.split(" (")[0]) == (0, "b.test hits nothing now")
    assert tell("seed", "http://c.test/more", *of_it)[1].startswith("1 seeds given")


def test_a_cluster_that_does_not_answer_is_one_clear_error():
    code, said = tell("status", "--redis-url", "redis+cluster://127.0.0.1:1")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(
        "error: redis_url = 'redis+cluster://127.0.0.1:1': Redis Cluster cannot be connected"
    )
