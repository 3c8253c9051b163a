"""A host over SSH: one connection, kept for all that is started."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.base import Channel
from llama_tui.backend.hosts.paramiko_import import import_paramiko
from llama_tui.backend.hosts.ssh_ask import Ask, Nobody, printable
from llama_tui.backend.hosts.ssh_config import route
from llama_tui.backend.hosts.ssh_shell import remote_command

if TYPE_CHECKING:
    import paramiko

    from llama_tui.backend.hosts.ssh_auth import Secrets
    from llama_tui.backend.hosts.ssh_transport import Connection

# The agent speaks every five seconds: what was silent for longer at its end was cut off, not closed.
SUSPECT_AFTER = 10.0
WRITE_TIMEOUT = 15.0
_SAID_BYTES = 16 * 1024


class SshChannel:
    """A command on the other side of a connection."""

    def __init__(self, channel: paramiko.Channel, connection: Connection) -> None:
        self._channel = channel
        self._connection = connection
        self._said: collections.deque[bytes] = collections.deque(maxlen=64)
        # Nobody may wait for ever for a window that a dead host never opens.
        channel.settimeout(WRITE_TIMEOUT)
        threading.Thread(target=self._drain, name="ssh stderr", daemon=True).start()

    def read(self, limit: int) -> bytes:
        while True:
            try:
                data = self._channel.recv(limit)
            except TimeoutError:
                continue
            if not data:
                self._connection.release(self._channel)
            return data

    def write(self, data: bytes) -> None:
        import paramiko

        rest = memoryview(data)
        while rest:
            try:
                sent = self._channel.send(bytes(rest[: 64 * 1024]))
            except (paramiko.SSHException, EOFError) as error:
                raise ConnectionError(str(error) or "the connection ended") from None
            # paramiko drops what is written to a dead connection without a word.
            if not sent or not self._connection.alive:
                raise ConnectionError("the command has ended")
            rest = rest[sent:]

    def errors(self) -> str:
        said = b"".join(self._said)[-_SAID_BYTES:].decode("utf-8", "replace")
        return "\n".join(part for part in (printable(said).strip(), self._connection.said()) if part)

    def close(self) -> None:
        self._connection.release(self._channel)
        dead = self._connection.silence > SUSPECT_AFTER and not self._channel.eof_received
        # Saying goodbye may wait for a network that is not there any more.
        end = self._connection.close if dead else self._channel.close
        threading.Thread(target=_quietly, args=(end,), name="ssh close", daemon=True).start()

    def _drain(self) -> None:
        while True:
            try:
                data = self._channel.recv_stderr(4096)
            except TimeoutError:
                continue
            if not data:
                return
            self._said.append(data)


def _quietly(end: Callable[[], None]) -> None:
    # The connection may end while we say goodbye on it.
    with contextlib.suppress(EOFError, OSError):
        end()


class SshHost:
    """Starts commands on a host of the ssh config.

    Args:
        alias: a name of the config, or `[user@]host`.
        ask: asks a person for what is needed, on the thread that calls `start` or one of paramiko's; without it, nobody is.
        config_file: in place of ~/.ssh/config and the system's.
        as_user: continue as this user, through `sudo -iu`.
    """

    def __init__(
        self,
        alias: str,
        ask: Ask | None = None,
        config_file: Path | None = None,
        as_user: str | None = None,
    ) -> None:
        self.name = alias
        self._ask: Ask = ask or Nobody()
        self._config_file = config_file
        self._as_user = as_user
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._accepted: set[tuple[str, bytes]] = set()
        self._secrets: Secrets | None = None

    def start(self, command: str) -> Channel:
        """Starts `command` on the connection that stands, or on a new one.

        Raises:
            HostError: which hop failed and why; it may pass.
            NeedsYou: a setting, a host key or the login needs a person: trying again by itself is no use.
        """
        line, script = remote_command(command, self._as_user)
        with self._lock:
            channel = self._on_standing(line, script)
            if channel is not None:
                return channel
            connection = self._connect()
            try:
                channel = SshChannel(connection.open(line, script), connection)
            except HostError:
                connection.close()
                raise
            self._connections.append(connection)
            return channel

    def close(self) -> None:
        """Ends all connections and forgets what was typed. The host can be used again."""
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.close()
        self._secrets = None

    def _on_standing(self, line: str, script: bytes) -> SshChannel | None:
        for connection in list(self._connections):
            try:
                # One in use hears from its agent every few seconds.
                lost = connection.in_use and connection.silence > SUSPECT_AFTER
                if connection.alive and not lost:
                    return SshChannel(connection.open(line, script), connection)
            except HostError:
                # Full or stuck. If nothing of ours runs on it, it is of no use any more.
                if connection.in_use and connection.alive:
                    continue
            connection.close()
            self._connections.remove(connection)
        return None

    def _connect(self) -> Connection:
        import_paramiko()
        from llama_tui.backend.hosts.ssh_auth import Secrets
        from llama_tui.backend.hosts.ssh_transport import Connection

        hops = route(self.name, self._config_file)
        self._secrets = self._secrets or Secrets()
        connection = Connection()
        connection.reach(hops, self._ask, self._secrets, self._accepted)
        return connection
