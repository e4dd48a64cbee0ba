"""Child processes that do not outlive their parent, not even when the parent is killed with SIGKILL."""

import ctypes
import fcntl
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_WATCH_SECONDS = 1.0
_PARENT = "TINYLM_PARENT"


def die_with_parent(signum: int = signal.SIGTERM, *, parent: int | None = None) -> None:
    """Ask the kernel to send this process `signum` when its parent dies (Linux; a watchdog thread elsewhere).

    Call it first thing in the child. If `parent` (its process id; default: whoever is the parent at the call)
    is already gone, the process ends at once. On Linux the end of the thread that made the child counts too.
    """
    parent = parent or os.getppid()
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:
            os.kill(os.getpid(), signum)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os.kill(os.getpid(), signum)

    threading.Thread(target=watch, daemon=True, name="parent-watchdog").start()


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which stops its children in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start(
    argv: list[str], *, log: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `argv` as a child that dies with us, out of reach of Ctrl-C; it appends to `log`, or prints."""
    with ExitStack() as stack:
        output = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log.open("ab"))
        return subprocess.Popen(
            [sys.executable, "-m", "tinylm.processes", "-", *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**(os.environ if env is None else env), _PARENT: str(os.getpid())},
            start_new_session=True,
        )


def stop(processes: Iterable[subprocess.Popen[bytes]], *, patience: float = 30.0) -> None:
    """Ask all to end (SIGTERM), wait, and kill those that do not."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    give_up = time.monotonic() + patience
    for process in running:
        try:
            process.wait(max(0.1, give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def become(lock: str, argv: list[str]) -> None:
    """Turn this process into `argv`, holding the file `lock` for as long as that program runs ("-": none).

    Exits with code 75 (EX_TEMPFAIL) if another process holds it. Where the kernel watches no parents the
    watchdog would not outlive exec: there the program is a child, and this process stands in for it.
    """
    die_with_parent(parent=int(os.environ.pop(_PARENT, 0)))
    if lock != "-":
        _hold(lock)
    if platform.system() == "Linux":
        os.execv(argv[0], argv)
    sys.exit(_stand_in_for(argv))


def _stand_in_for(argv: list[str]) -> int:
    """Run `argv`, pass on what asks this process to end, and return its exit code (128 + n for signal n)."""
    program = subprocess.Popen(argv, close_fds=False)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda received, _: program.send_signal(received))
    code = program.wait()
    return code if code >= 0 else 128 - code


def _hold(lock: str) -> None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(os.EX_TEMPFAIL)
    os.set_inheritable(descriptor, True)


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2:])
