"""Other people's suites and dumps, where they are: `TINYLM_TEST_DATA`, or `../shared/data` beside the checkout."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from backports import zstd

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
