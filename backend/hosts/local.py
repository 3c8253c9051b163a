"""This machine as a host."""

from __future__ import annotations

import collections
import os
import subprocess
import threading

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.base import Channel
from llama_tui.backend.hosts.environment import child_environment

_STDERR_LINES = 50


class LocalChannel:
    """A subprocess's pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._said: collections.deque[str] = collections.deque(maxlen=_STDERR_LINES)
        threading.Thread(target=self._drain, name="agent stderr", daemon=True).start()

    def read(self, limit: int) -> bytes:
        assert self._process.stdout is not None
        return os.read(self._process.stdout.fileno(), limit)

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def errors(self) -> str:
        return "".join(self._said).strip()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        # Reaped on a thread of its own: closing must not wait for a process that hangs in a system call.
        threading.Thread(target=self._process.wait, daemon=True).start()

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode("utf-8", "replace"))


class LocalHost:
    """Starts commands on this machine."""

    name = "this machine"

    def start(self, command: str) -> Channel:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=child_environment(),
                # Ctrl-C in the terminal is for the UI, not for the agent behind it.
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"Could not start a shell on this machine: {error.strerror}") from None
        return LocalChannel(process)
