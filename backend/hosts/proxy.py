"""The bytes below SSH: our own socket, our own ProxyCommand, and what both have in common.

paramiko's ProxyCommand ignores the end of its process, burns a core when it dies and loses what it said; its sockets
wait for Nagle's algorithm. Hence our own.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from typing import Protocol

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.environment import child_environment
from llama_tui.backend.hosts.ssh_ask import NeedsYou, printable
from llama_tui.backend.hosts.ssh_config import HostConfig

STALLED_AFTER = 15.0
_SAID_LINES = 30
# Once its pipe is closed it ends at once; on a busy machine that takes a moment to be seen.
_ENDED_WITHIN = 2.0
_LAST_WORDS_WITHIN = 1.0
_FIRST_ADDRESS_TIMEOUT = 8.0


class Pipe(Protocol):
    """What SSH runs over: a socket, a proxy's process or a channel of another connection."""

    def send(self, data: bytes, /) -> int: ...

    def recv(self, limit: int, /) -> bytes: ...

    def settimeout(self, seconds: float | None, /) -> None: ...

    def close(self) -> None: ...


class Wire:
    """A pipe that paramiko can be given, and that knows when it last heard something.

    paramiko tries a write again for ever while nobody takes the bytes, with all its locks held. After STALLED_AFTER
    seconds without one byte of progress ours fails.
    """

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._stuck_since: float | None = None
        self._closed = False
        self.heard = time.monotonic()

    def send(self, data: bytes) -> int:
        try:
            sent = self._pipe.send(data)
        except TimeoutError:
            now = time.monotonic()
            self._stuck_since = self._stuck_since or now
            if now - self._stuck_since > STALLED_AFTER:
                raise ConnectionError("nothing was taken for too long") from None
            raise
        self._stuck_since = None
        return sent

    def recv(self, limit: int) -> bytes:
        data = self._pipe.recv(limit)
        self.heard = time.monotonic()
        return data

    def settimeout(self, seconds: float | None) -> None:
        self._pipe.settimeout(seconds)

    @property
    def silence(self) -> float:
        """Seconds since the other end was last heard of."""
        return time.monotonic() - self.heard

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._pipe.close()


def connect_tcp(config: HostConfig) -> socket.socket:
    """A connection to the host itself: every address that its name has is tried.

    Raises:
        HostError: with the reason for each address.
    """
    family = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}.get(config.address_family, socket.AF_UNSPEC)
    try:
        found = socket.getaddrinfo(config.hostname, config.port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise _unknown_name(config, error) from None
    failed: list[tuple[str, OSError]] = []
    for number, (kind, _, _, _, address) in enumerate(found, 1):
        # The last address gets all the time there is; the others must not eat it up.
        timeout = config.connect_timeout
        if number < len(found):
            timeout = min(timeout, _FIRST_ADDRESS_TIMEOUT)
        try:
            return _connected(kind, address, config.bind_address, timeout)
        except OSError as error:
            failed.append((str(address[0]), error))
    raise _unreachable(config, failed)


def _connected(
    kind: int, address: tuple[object, ...], bind_address: str | None, timeout: float
) -> socket.socket:
    connection = socket.socket(kind, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        if bind_address is not None:
            connection.bind((bind_address, 0))
        connection.connect(address)
        # Keystrokes and JSON lines are small; waiting to fill a packet made each call five times slower.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        connection.close()
        raise
    return connection


def _unknown_name(config: HostConfig, error: Exception) -> HostError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return HostError(
            f"The name {config.hostname} could not be looked up: {why}", "Is this machine on the network?"
        )
    if config.alias == config.hostname:
        hint = f"{config.alias} is not in your ~/.ssh/config either. Is it spelled right?"
    else:
        hint = "Check HostName in your ~/.ssh/config, or whether a VPN has to be up."
    return HostError(f"The name {config.hostname} is not known: {why}", hint)


def _unreachable(config: HostConfig, failed: list[tuple[str, OSError]]) -> HostError:
    reasons = [f"{address}: {_reason(error)}" for address, error in failed]
    text = f"{config.hostname} cannot be reached at port {config.port}: {'; '.join(reasons)}"
    if failed and all(isinstance(error, ConnectionRefusedError) for _, error in failed):
        return HostError(
            text, "The machine is there but no SSH server answers. Is the port right? Is it booting?"
        )
    return HostError(text, "Is the machine up, and is a VPN, a bastion (ProxyJump) or a ProxyCommand needed?")


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer (timed out)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or str(error)


class ProxyCommand:
    """A ProxyCommand's process as a pipe.

    Two socket pairs, since with one the end of the process would hide behind the other copies of its descriptor.

    Raises:
        HostError: it cannot be started.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self._said: collections.deque[str] = collections.deque(maxlen=_SAID_LINES)
        self._to, stdin = socket.socketpair()
        self._from, stdout = socket.socketpair()
        # Like OpenSSH: the user's own shell, replaced by the command.
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {command}"],
                stdin=stdin.fileno(),
                stdout=stdout.fileno(),
                stderr=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,
            )
        except OSError as error:
            self._shut()
            raise HostError(f"ProxyCommand cannot be started with {shell}: {error.strerror}") from None
        finally:
            stdin.close()
            stdout.close()
        self._listener = threading.Thread(target=self._listen, name="proxy stderr", daemon=True)
        self._listener.start()
        threading.Thread(target=self._wait, name="proxy", daemon=True).start()

    def send(self, data: bytes) -> int:
        return self._to.send(data)

    def recv(self, limit: int) -> bytes:
        return self._from.recv(limit)

    def settimeout(self, seconds: float | None) -> None:
        self._to.settimeout(seconds)
        self._from.settimeout(seconds)

    def close(self) -> None:
        """Ends the process and all it started; returns at once and may be called twice."""
        self._shut()
        # Once it has ended, its number may belong to somebody else; _wait has seen to its children.
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            threading.Thread(target=self._kill, name="proxy end", daemon=True).start()

    def said(self) -> str:
        """What it said on stderr so far."""
        return printable("".join(self._said)).strip()

    def ended(self, patience: float) -> int | None:
        """Its exit code (negative: a signal), or None when it still runs after `patience` seconds."""
        try:
            code = self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        # Its last words may still be on their way; a child that holds stderr must not hold us.
        self._listener.join(_LAST_WORDS_WITHIN)
        return code

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                self._said.append(line.decode("utf-8", "replace"))

    def _wait(self) -> None:
        self._process.wait()
        # A child of it may live on and hold the pipe open: what it has sent is still read, then comes the end.
        self._signal(signal.SIGTERM)
        for end in (self._from, self._to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _kill(self) -> None:
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _shut(self) -> None:
        self._to.close()
        self._from.close()


def proxy_failure(proxy: ProxyCommand, alias: str) -> HostError:
    """What to say when a connection through `proxy` did not come about."""
    said, code = proxy.said(), proxy.ended(_ENDED_WITHIN)
    said = proxy.said() or said
    state = "still runs, but no SSH server answers behind it" if code is None else f"ended (exit code {code})"
    text = f"The ProxyCommand of {alias} {state}" + (f". It said:\n{said}" if said else f": {proxy.command}")
    for sign, hint, waits_for_person in _KNOWN_WORDS:
        if sign.lower() in said.lower():
            return (NeedsYou if waits_for_person else HostError)(text, hint)
    return HostError(text, "Run it by hand (`ssh -v` shows it) to see what it needs.")


_LOGIN = (
    "Sign in to AWS again (`aws sso login`), check with `aws sts get-caller-identity`, then connect again."
)
# (what it says, what to do, whether only a person can mend it)
_KNOWN_WORDS = (
    (
        "TargetNotConnected",
        "The node is booting, or was replaced and has another instance id now. It often passes within minutes; "
        "if not, run easy-ssh.sh again.",
        False,
    ),
    ("ExpiredToken", _LOGIN, True),
    ("Token has expired", _LOGIN, True),
    ("Error loading SSO Token", _LOGIN, True),
    ("Unable to locate credentials", _LOGIN, True),
    ("SessionManagerPlugin is not found", "Install AWS's session-manager-plugin on this machine.", True),
    ("AccessDenied", "Your AWS role may not open sessions to this node: ask your administrator.", True),
    ("command not found", "Install that program on this machine, or name it with its full path.", True),
    (": not found", "Install that program on this machine, or name it with its full path.", True),
)
