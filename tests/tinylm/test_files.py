"""One process writes a place at a time, and leaves nothing of a try that failed."""

import os
import subprocess
import sys

import pytest

from tinylm.errors import FileError
from tinylm.files import alone

HOLD = """
import sys, time
from pathlib import Path
from tinylm.files import alone
with alone(Path(sys.argv[1]), Path(sys.argv[1]) / "lock"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_who_comes_second_is_told_who_is_there_and_a_killed_process_holds_nothing(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(FileError, match=f"out: process {first.pid} is writing here"),
            alone(out, out / "lock"),
        ):
            pass
        first.kill()
        first.wait()
        with alone(out, out / "lock"):
            assert (out / "lock").read_text() == str(os.getpid())
    assert not [*out.iterdir()]


def test_a_lock_that_its_holder_removed_is_no_lock(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    path.touch()
    opened = []

    def late(path, lock=sys.modules["tinylm.files"].lock):
        held = lock(path)
        if not opened:
            path.unlink()  # as the one that held it does, after we opened it
        opened.append(held)
        return held

    monkeypatch.setattr("tinylm.files.lock", late)
    with alone(tmp_path, path):
        assert len(opened) == 2
        assert os.path.samestat(os.fstat(opened[1].fileno()), path.stat())


def test_folders_made_for_what_failed_go_again_unless_something_is_in_them(tmp_path):
    def fail(path):
        with alone(path, path.parent / "lock"):
            raise FileError("no")

    with pytest.raises(FileError):
        fail(tmp_path / "some" / "where" / "out")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "kept").mkdir()
    with pytest.raises(FileError):
        fail(tmp_path / "kept" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
