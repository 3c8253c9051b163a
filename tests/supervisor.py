"""Run one daemon so that neither it nor anything it started can outlive the test run.

`Daemon` starts this file as a small process of its own, which starts the daemon. It is a child subreaper: whatever
the daemon forks off, detached or not, stays below it in the process tree and is killed with it. It ends the tree as
soon as its standard input closes, which the kernel does for it when the test run is killed.
"""

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERMINATE, KILL = b"T", b"K"


def descendants(pid: int) -> list[int]:
    """Every process below `pid` now, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def send_signal(pid: int, number: int) -> None:
    """Signal a process that may have ended by itself already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Daemon:
    """A supervised daemon; `log` gets its output. Use `close()` or leave it to the end of this process."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        remove: Path | None = None,
    ) -> None:
        """`user`: run as this user (root only). `remove`: a directory to delete when the tree has ended."""
        options = ["--log", str(log)]
        options += ["--user", user] if user else []
        options += ["--remove", str(remove)] if remove else []
        self.log = log
        self.exit_code: int | None = None
        self._buffer = b""
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *options, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=dict(env) if env is not None else None,
            start_new_session=True,
        )
        first = self._read_line(60)
        if not first.startswith("pid "):
            self.close()
            raise RuntimeError(f"could not start {argv[0]}: {first or 'no answer'}; see {log}")
        self.pid = int(first.split()[1])

    def _read_line(self, timeout: float) -> str:
        """The next line of the supervisor; empty at its end or after `timeout` seconds."""
        assert self._supervisor.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._supervisor.stdout], [], [], left)[0]:
                return ""
            data = os.read(self._supervisor.stdout.fileno(), 4096)
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def wait(self, timeout: float) -> int | None:
        """Wait for the daemon itself; its exit code (negative: signal), or None when it still runs."""
        if self.exit_code is None:
            line = self._read_line(timeout)
            if line.startswith("exit "):
                self.exit_code = int(line.split()[1])
        return self.exit_code

    @property
    def running(self) -> bool:
        """Whether the daemon itself still runs."""
        return self._supervisor.poll() is None and self.wait(0) is None

    def _order(self, order: bytes) -> None:
        assert self._supervisor.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._supervisor.stdin.write(order)

    def terminate(self, timeout: float = 15) -> None:
        """SIGTERM to the daemon alone, and wait for it; what it started runs on.

        Raises TimeoutError when it does not end within `timeout` seconds.
        """
        self._order(TERMINATE)
        if self.wait(timeout) is None:
            raise TimeoutError(f"process {self.pid} ignored SIGTERM for {timeout:g} s; see {self.log}")

    def kill(self) -> None:
        """SIGKILL to the daemon alone, and wait for it; what it started runs on."""
        self._order(KILL)
        self.wait(60)

    def signal(self, number: int) -> None:
        """Any signal to the daemon alone, for example SIGSTOP to make it hang."""
        if self.running:
            send_signal(self.pid, number)

    def descendants(self) -> list[int]:
        """Every process the daemon started, directly or not, that still runs; without the daemon."""
        return [pid for pid in descendants(self._supervisor.pid) if pid != self.pid]

    def close(self) -> None:
        """Kill the daemon and everything it started."""
        for pipe in (self._supervisor.stdin, self._supervisor.stdout):
            if pipe is not None:
                pipe.close()
        self._supervisor.wait(60)
        self.exit_code = self.exit_code if self.exit_code is not None else -signal.SIGKILL


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


class _Tree:
    """The daemon and what it started, seen from the supervisor, which is their reaper."""

    def __init__(self, daemon: int) -> None:
        self.daemon = daemon
        self.daemon_runs = True

    def reap(self) -> bool:
        """Collect what has ended and report the daemon's own end; False when no child is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.daemon:
                    self.daemon_runs = False
                    with contextlib.suppress(BrokenPipeError):
                        os.write(1, f"exit {os.waitstatus_to_exitcode(status)}\n".encode())
        except ChildProcessError:
            return False

    def kill(self) -> None:
        """Until none is left: a process may fork between the look at the tree and the signal."""
        while self.reap():
            for pid in descendants(os.getpid()):
                send_signal(pid, signal.SIGKILL)
            time.sleep(0.005)

    def follow_orders(self, wake: int) -> None:
        """Obey standard input until it closes; `wake` is readable when a child has ended."""
        while True:
            ready, _, _ = select.select([0, wake], [], [])
            if wake in ready:
                os.read(wake, 4096)
                self.reap()
            if 0 in ready:
                orders = os.read(0, 1)
                if not orders:
                    return
                if self.daemon_runs:
                    send_signal(self.daemon, signal.SIGTERM if orders == TERMINATE else signal.SIGKILL)


def main() -> None:
    """The supervising process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--user")
    parser.add_argument("--remove")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    with Path(options.log).open("ab") as log:
        # A supervisor that is itself killed takes at least the daemon with it.
        daemon = subprocess.Popen(
            options.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=options.user,
            group=options.user,
            extra_groups=[] if options.user else None,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    os.write(1, f"pid {daemon.pid}\n".encode())
    tree = _Tree(daemon.pid)
    tree.follow_orders(wake)
    tree.kill()
    if options.remove:
        shutil.rmtree(options.remove, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
