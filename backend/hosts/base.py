"""A host can do one thing: start a command and give its stdin and stdout."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """A running command on the host. `read` and `write` may be called from two threads at once."""

    def read(self, limit: int) -> bytes:
        """Up to `limit` bytes of the command's output, as soon as there are any; b"" at its end."""

    def write(self, data: bytes) -> None:
        """Sends all of `data` to the command's stdin. Raises OSError when the command is gone."""

    def errors(self) -> str:
        """What the command (or the proxy in front of it) said on stderr so far, for messages."""

    def close(self) -> None:
        """Ends the command; returns at once and may be called twice."""


class Host(Protocol):
    """Where commands run."""

    @property
    def name(self) -> str:
        """What to call it on the screen."""

    def start(self, command: str) -> Channel:
        """Starts `command` through the host's login shell.

        Raises:
            HostError: it cannot be reached or refuses; the message says which part and what to do.
        """
