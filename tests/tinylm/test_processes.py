"""Children: they die with a killed parent, hold their lock, and are stopped even if they will not listen."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tinylm.processes import Child, start, stop

PARENT = """
import sys
from pathlib import Path
from tinylm.processes import start
child = start([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
if sys.argv[2] == "wait":
    child.wait()
"""
SLEEP = "import time; time.sleep(600)"
TELL = "import os; print('up', os.getpid(), 'TINYLM_PARENT' in os.environ, flush=True); "


def gone(pid):
    """Whether the process ended (a zombie has; nobody may be there to reap it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def until(check):
    """Wait for `check`; the limit only ends a test that has failed."""
    give_up = time.monotonic() + 60
    while not check():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def run_parent(code, then, **popen):
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, code, then], stdout=subprocess.PIPE, text=True, **popen
    )


def test_a_child_dies_with_its_parent_even_by_sigkill():
    parent = run_parent(TELL + SLEEP, "wait")
    child = int(parent.stdout.readline())
    assert parent.stdout.readline().startswith("up")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: gone(child))
    parent.stdout.close()


def test_a_child_whose_parent_was_gone_before_it_came_up_ends_at_once():
    for _ in range(3):
        parent = run_parent(SLEEP, "leave")
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        until(lambda child=child: gone(child))
        parent.stdout.close()


def test_a_child_writes_to_its_log_and_does_not_inherit_its_parents_number(tmp_path):
    log = tmp_path / "logs" / "child.log"
    for _ in range(2):
        child = start([sys.executable, "-c", TELL], log=log, env=dict(os.environ))
        assert child.wait() == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("up ") and line.endswith(" False") for line in lines)


def test_a_child_is_out_of_reach_of_ctrl_c():
    child = start([sys.executable, "-c", SLEEP])
    assert os.getpgid(child.pid) != os.getpgid(0)
    stop([child])


def become(lock, code):
    return subprocess.Popen(
        [sys.executable, "-m", "tinylm.processes", str(lock), sys.executable, "-c", code],
        stdout=subprocess.PIPE,
    )


def test_the_lock_is_held_by_the_program_that_was_started_and_by_one_at_a_time(tmp_path):
    lock = tmp_path / "lock"
    first = become(lock, TELL + SLEEP)
    assert first.stdout.readline().startswith(f"up {first.pid}".encode())
    second = become(lock, TELL)
    assert second.wait() == os.EX_TEMPFAIL
    assert second.stdout.read() == b""
    stop([first])
    third = become(lock, TELL)
    assert third.wait() == 0
    for process in (first, second, third):
        process.stdout.close()


def test_stop_kills_what_ignores_sigterm_and_asks_the_rest_first():
    stubborn = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True);" + SLEEP
    )
    polite = textwrap.dedent("""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print("up", flush=True)
        time.sleep(600)
    """)
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for code in (stubborn, polite)
    ]
    for child in children:
        assert child.stdout.readline() == b"up\n"
    stop(children, patience=0.5)
    assert children[0].returncode == -signal.SIGKILL
    assert children[1].returncode in (7, -signal.SIGKILL)
    for child in children:
        child.stdout.close()


def test_stop_does_not_mind_those_that_ended():
    child = start([sys.executable, "-c", ""])
    child.wait()
    stop([child])
    assert child.returncode == 0


ELSEWHERE = """
import platform, sys
platform.system = lambda: "Darwin"
from tinylm.processes import become
become("-", [sys.executable, "-c", sys.argv[1]])
"""


def become_elsewhere(code):
    """What `become` does where the kernel does not watch parents."""
    return [sys.executable, "-c", ELSEWHERE, code]


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(7)", 7), ("import os; os.abort()", 134)])
def test_off_linux_the_exit_code_is_that_of_the_program(code, expected):
    assert subprocess.run(become_elsewhere(code), check=False).returncode == expected


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_off_linux_a_signal_reaches_the_program(signum):
    polite = (
        f"import signal, sys, time; signal.signal({int(signum)}, lambda *_: sys.exit(7)); "
        "print('up', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(become_elsewhere(polite), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signum)
        assert process.wait(60) == 7


def test_off_linux_the_program_dies_with_the_parent_of_its_stand_in():
    parent = """
import subprocess, sys
subprocess.Popen(sys.argv[1:]).wait()
"""
    argv = [sys.executable, "-c", parent, *become_elsewhere(TELL + SLEEP)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        program = int(process.stdout.readline().split()[1])
        process.kill()
        until(lambda: gone(program))


def test_an_extraction_child_ignores_interrupts():
    code = (
        "import os, signal; from tinylm.processes import ignore_interrupts; "
        "ignore_interrupts(); os.kill(os.getpid(), signal.SIGINT)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_parents_death_signal_survives_the_change_of_program():
    """`become` ends in exec; the kernel keeps the request for programs that gain no rights."""
    parent = run_parent(
        TELL + "import signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(0)); " + SLEEP, "wait"
    )
    child = int(parent.stdout.readline())
    parent.stdout.readline()
    assert int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]) == parent.pid
    parent.kill()
    parent.wait()
    until(lambda: gone(child))
    parent.stdout.close()


def echo(pipe):
    pipe.send(pipe.recv())


def test_a_child_that_could_not_be_started_can_be_later():
    """Wherever descriptors ran out on the way, nothing half begun is left."""
    child = Child("echo", echo)
    child.end()
    before, failures = resource.getrlimit(resource.RLIMIT_NOFILE), 0
    try:
        for limit in range(3, before[0]):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
            try:
                child.start()
                break
            except OSError:
                failures += 1
                assert child.pipe.closed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert failures > 3
    child.pipe.send("heard")
    assert child.pipe.recv() == "heard"
    child.end()
