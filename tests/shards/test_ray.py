"""Batch jobs on a Ray cluster of two nodes on this machine: the same corpus as without."""

import os
import subprocess
import sys

import pytest

from shards.batch.dedup import Dedup
from shards.batch.job import run
from shards.batch.stages import Map
from shards.reader import verify
from tests.shards.conftest import write_corpus
from tests.shards.test_batch import FUNCTIONS, ROOT, files_of, numbers_in, text_of
from tests.shards.test_batch_dedup import document
from tests.shards.test_holdout import prose

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
from shards.batch.dedup import Dedup
from shards.batch.job import run
from shards.batch.stages import Map

corpus, out, what = sys.argv[1:]
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
if what == "kill":
    while not [*Path(out, "parts").glob("*.json")]:
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(**node)
thread.join()
print("rows", *ended)
if what == "dedup":
    run(Dedup(corpus), Path(out + "-unique"), cluster.address)
ray.shutdown()
cluster.shutdown()
"""


def check(tmp_path, what, documents):
    made = [document(n, f"{text_of(n)} {prose(n % 20, 40)}") for n in range(documents)]
    write_corpus(tmp_path / "in", made, commits=12)
    run(Map(tmp_path / "in", f"{FUNCTIONS}:slow"), tmp_path / "local")
    command = [sys.executable, "-c", CLUSTER, str(tmp_path / "in"), str(tmp_path / "out"), what]
    quiet = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}  # or it tells the world
    with (tmp_path / "log").open("wb") as log:
        subprocess.run(command, cwd=ROOT, env=quiet, stdout=log, stderr=log, timeout=500, check=True)
    assert f"rows {documents}" in (tmp_path / "log").read_text()
    assert files_of(tmp_path / "out") == files_of(tmp_path / "local")
    assert numbers_in(tmp_path / "out") == numbers_in(tmp_path / "local")
    assert not list(verify(tmp_path / "out"))


@pytest.mark.long
def test_a_cluster_makes_the_same_corpus(tmp_path):
    check(tmp_path, "", 240)


@pytest.mark.release
@pytest.mark.timeout(900)
def test_a_cluster_drops_the_same_duplicates(tmp_path):
    """Three minutes for 240 documents: some two hundred small steps of the cluster's, one after the other."""
    check(tmp_path, "dedup", 240)
    run(Dedup(tmp_path / "in"), tmp_path / "local-unique")
    assert files_of(tmp_path / "out-unique") == files_of(tmp_path / "local-unique")
    assert len(numbers_in(tmp_path / "local-unique")) < 240


@pytest.mark.release
def test_a_node_is_killed_and_another_comes(tmp_path):
    check(tmp_path, "kill", 12_000)
