"""Child processes that do not outlive their parent, not even by SIGKILL; locks; the heartbeat of a loop."""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import BinaryIO

# Of <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
# Off Linux: how long a child may outlive its parent.
_WATCH_SECONDS = 1.0
_PARENT = "TINYLM_PARENT"
_HEARTBEAT = "TINYLM_HEARTBEAT"


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
    watch_parent(signum, parent)


def watch_parent(signum: int, parent: int) -> None:
    """Send this process `signum` within a second of the end of its parent, from a thread: anywhere.

    For whom a thread has made that ends before its process, as those of an engine may.
    """

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


def become(lock_path: str, argv: list[str]) -> None:
    """Turn this process into `argv`, holding the file `lock_path` ("-": none) while that program runs.

    Exits with code 75 (EX_TEMPFAIL) if another process holds it. Where the kernel watches no parents the
    watchdog would not outlive exec: there the program is a child, and this process stands in for it.
    """
    die_with_parent(parent=int(os.environ.pop(_PARENT, 0)))
    if lock_path != "-":
        held = lock(Path(lock_path))
        if held is None:
            sys.exit(os.EX_TEMPFAIL)
        os.set_inheritable(held.fileno(), True)
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


def lock(path: Path) -> BinaryIO | None:
    """The file at `path`, locked until it is closed and made if need be; None if another process has it.

    The lock goes with the process, however that ends. What the file holds stays: it may be what the process
    writes. Raises OSError if the file cannot be opened.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Child:
    """`serve(pipe, *args)` in a process of its own, at the other end of `pipe`.

    It dies with us, and leaves Ctrl-C to us. With `megabytes`, what it writes to may not take more memory
    than that (Linux): an allocation beyond is a MemoryError there. `serve` and `args` are pickled. With
    `template`, a module, it is forked from a process that has imported that, all such children of ours from
    one: in 10 ms, where to import the libraries of an extractor takes 0.7 s.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[..., None],
        *args: object,
        megabytes: int | None = None,
        template: str = "",
    ) -> None:
        self._name, self._args, self._template = name, (serve, megabytes, *args), template
        self.start()

    def start(self) -> None:
        """Begin, again after `end` or after it failed: raises OSError if the system has no process for us."""
        context: ForkServerContext | SpawnContext = get_context("spawn")
        if self._template:
            context = get_context("forkserver")
            # A child runs our main module again, so what that imports is imported before, too.
            main = getattr(sys.modules["__main__"], "__spec__", None)
            context.set_forkserver_preload(["__main__", self._template, *([main.name] if main else [])])
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, name=self._name, args=(theirs, *self._args), daemon=True
        )
        try:
            self._process.start()
        except BaseException as error:
            self.pipe.close()
            if isinstance(error, EOFError):  # what should have forked it died of that
                raise OSError(errno.EAGAIN, "no process could be started") from error
            raise
        finally:
            theirs.close()  # or we would never read the end of a pipe whose process died

    def end(self) -> None:
        """Kill it; a second time changes nothing."""
        if self.pipe.closed:
            return
        self._process.kill()
        self._process.join()
        self._process.close()
        self.pipe.close()


def _serve(pipe: Connection, serve: Callable[..., None], megabytes: int | None, *args: object) -> None:
    die_with_parent()
    ignore_interrupts()
    if megabytes and sys.platform == "linux":
        # RLIMIT_DATA, not RLIMIT_AS: what libraries reserve and never touch does no harm.
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
    serve(pipe, *args)


def beat() -> None:
    """Touch the file that `TINYLM_HEARTBEAT` names; without the variable nobody is watching.

    Called where a loop has just turned, never by a timer, so that the file's age says whether the loop still
    does its work. `find FILE -mmin -2 | grep -q .` then costs nothing; a Python that looked would cost a
    second.
    """
    if path := os.environ.get(_HEARTBEAT):
        with suppress(OSError):  # a full disk stops no loop; that the file grows old is for who watches it
            Path(path).touch()


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2:])
