"""Ports on the loopback for daemons that cannot be told to take any free one."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

# Below Linux's range for outgoing connections, so that none of those can take a port between two starts of a daemon,
# and below 20000, from where on the processes of a job choose one to meet at.
_RANGE = range(10000, 20000)


class PortLease:
    """A free port that no other test run on this machine takes until `release()` or the end of this process."""

    def __init__(self) -> None:
        """Raises RuntimeError when no port is free."""
        folder = Path(tempfile.gettempdir()) / f"llama-tui-ports-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        for port in random.sample(_RANGE, 200):
            lock = (folder / str(port)).open("w")
            if _locked(lock) and _free(port):
                self.port, self._lock = port, lock
                return
            lock.close()
        raise RuntimeError(f"no free port between {_RANGE.start} and {_RANGE.stop} on 127.0.0.1")

    def release(self) -> None:
        """Give the port back."""
        self._lock.close()


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def listening(port: int) -> bool:
    """Whether something accepts connections on the port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
