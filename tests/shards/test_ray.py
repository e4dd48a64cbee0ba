"""Batch jobs on a Ray cluster of two nodes on this machine: the same corpus as without."""

import os
import subprocess
import sys

import pytest

from shards.batch.job import run
from shards.batch.stages import Map
from shards.reader import verify
from tests.shards.conftest import make_document, write_corpus
from tests.shards.test_batch import FUNCTIONS, ROOT, files_of, numbers_in, text_of

pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

# A process of its own, since a process has one engine for good. With "kill" one of the nodes goes as soon as
# a part is done, and another comes. Ray talks to this machine by its own address: none of it leaves it.
CLUSTER = f"""
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from shards.batch.job import run
from shards.batch.stages import Map

corpus, out, kill = sys.argv[1:]
node = dict(num_cpus=1, object_store_memory=100 << 20)
cluster = Cluster(initialize_head=True, head_node_args=node)
second = cluster.add_node(**node)
ray.init(cluster.address, log_to_driver=False)
ended = []

def work():
    done = []
    ended.append(run(Map(corpus, "{FUNCTIONS}:slow"), Path(out), cluster.address, done.append).rows)

thread = threading.Thread(target=work)
thread.start()
if kill == "kill":
    while not [*Path(out, "parts").glob("*.json")]:
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(**node)
thread.join()
print("rows", *ended)
ray.shutdown()
cluster.shutdown()
"""


def check(tmp_path, kill, documents):
    made = [make_document(n, host=f"h{n % 5}.example", text=text_of(n)) for n in range(documents)]
    write_corpus(tmp_path / "in", made, commits=12)
    run(Map(tmp_path / "in", f"{FUNCTIONS}:slow"), tmp_path / "local")
    command = [sys.executable, "-c", CLUSTER, str(tmp_path / "in"), str(tmp_path / "out"), kill]
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}  # or it tells the world
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command, cwd=ROOT, env=quiet, stdout=log, stderr=log, timeout=200, check=True)
    assert f"rows {documents}" in (tmp_path / "log").read_text()
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")
    assert numbers_in(tmp_path / "out") == numbers_in(tmp_path / "local")
    assert not list(verify(tmp_path / "out"))


@pytest.mark.long
def test_a_cluster_makes_the_same_corpus(tmp_path):
    check(tmp_path, "", 240)


@pytest.mark.release
def test_a_node_is_killed_and_another_comes(tmp_path):
    check(tmp_path, "kill", 12_000)
