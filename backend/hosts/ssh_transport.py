"""One SSH connection, over as many hops as it takes. Imports paramiko, so it is imported when first needed."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import cast

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.known_hosts import KnownHosts
from llama_tui.backend.hosts.proxy import Pipe, ProxyCommand, Wire, connect_tcp, proxy_failure
from llama_tui.backend.hosts.ssh_ask import USE_OPENSSH, Ask, NeedsYou, printable
from llama_tui.backend.hosts.ssh_auth import Authenticator, Secrets
from llama_tui.backend.hosts.ssh_config import HostConfig

OPEN_TIMEOUT = 10.0
# A tunnel through AWS takes its time to come up.
PROXY_TIMEOUT = 45.0
# What may be on its way to us, in bytes. paramiko's 2 MiB are 17 s of a 1 Mbit/s link, for which a job's state would
# wait behind a log; these are one second of it, and still 5 Mbit/s at 200 ms.
WINDOW = 128 * 1024
_SLOT_IS_FREED_WITHIN = 3.0

# Without a handler, Python prints its records over the screen.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class _Transport(paramiko.Transport):
    """Keeps what the server says in parting, and offers host key algorithms in the order that known_hosts asks for."""

    def __init__(self, wire: Wire, known: KnownHosts) -> None:
        super().__init__(wire)  # type: ignore[arg-type]
        self._order = known.order(self._preferred_keys)  # type: ignore[attr-defined]
        self.parting = ""

    @property
    def preferred_keys(self) -> Sequence[str]:
        return self._order

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.parting = printable(message.get_text())


class Connection:
    """Transports one inside the other, the last of which leads to the host."""

    def __init__(self) -> None:
        self._transports: list[_Transport] = []
        self._wires: list[Wire] = []
        self._proxy: ProxyCommand | None = None
        self._open: set[paramiko.Channel] = set()

    @property
    def alive(self) -> bool:
        """Whether it stands, as far as is known: a silent network does not show here."""
        return bool(self._transports) and all(transport.is_active() for transport in self._transports)

    @property
    def silence(self) -> float:
        """Seconds since the host was last heard of."""
        return self._wires[-1].silence

    @property
    def in_use(self) -> bool:
        """Whether a channel of ours is open on it."""
        return bool(self._open)

    def said(self) -> str:
        """What the ProxyCommand, if there is one, said."""
        return self._proxy.said() if self._proxy is not None else ""

    def close(self) -> None:
        """Ends everything; returns at once."""
        for transport in reversed(self._transports):
            # Its timer would keep the program alive for seconds after a handshake that failed.
            transport.packetizer.complete_handshake()
            transport.close()
        for wire in reversed(self._wires):
            wire.close()

    def reach(
        self, hops: Sequence[HostConfig], ask: Ask, secrets: Secrets, accepted: set[tuple[str, bytes]]
    ) -> None:
        """Connects and logs in, hop by hop.

        Raises:
            HostError: which hop failed, and why.
            NeedsYou: the same, where trying again is no use.
        """
        try:
            for number, config in enumerate(hops, 1):
                try:
                    self._add_hop(config, ask, secrets, accepted)
                except HostError as error:
                    raise _told_apart(error, number, hops) from None
        except BaseException:
            self.close()
            raise

    def _add_hop(
        self, config: HostConfig, ask: Ask, secrets: Secrets, accepted: set[tuple[str, bytes]]
    ) -> None:
        wire = Wire(self._pipe(config))
        self._wires.append(wire)
        known = KnownHosts(config, accepted)
        transport = _Transport(wire, known)
        self._transports.append(transport)
        self._negotiate(transport, config)
        key = transport.get_remote_server_key()
        shown = getattr(key, "public_blob", None)
        known.verify(bytes(key.asbytes()), bytes(shown.key_blob) if shown is not None else None, ask)
        Authenticator(transport, config, ask, secrets, lambda: transport.parting).run()
        transport.set_keepalive(config.keepalive)

    def _pipe(self, config: HostConfig) -> Pipe:
        if self._transports:
            return self._forward(config)
        if config.proxy_command is not None:
            self._proxy = ProxyCommand(config.proxy_command)
            return self._proxy
        return connect_tcp(config)

    def _forward(self, config: HostConfig) -> Pipe:
        target = (config.hostname, config.port)
        try:
            channel = self._transports[-1].open_channel(
                "direct-tcpip", target, ("127.0.0.1", 0), timeout=config.connect_timeout
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise _not_forwarded(config, error) from None
        return cast(Pipe, channel)

    def _negotiate(self, transport: _Transport, config: HostConfig) -> None:
        timeout = max(config.connect_timeout, PROXY_TIMEOUT if self._proxy is not None else 0)
        transport.banner_timeout = transport.handshake_timeout = timeout
        try:
            transport.start_client(timeout=timeout)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._no_handshake(config, transport, error) from None
        # paramiko returns as if all were well when its time is up.
        if not transport.initial_kex_done:
            raise self._no_handshake(config, transport, TimeoutError())

    def _no_handshake(self, config: HostConfig, transport: _Transport, error: BaseException) -> HostError:
        if isinstance(error, IncompatiblePeer):
            return NeedsYou(
                f"{config.where} and we have no way to encrypt in common: {error}",
                USE_OPENSSH,
            )
        if self._proxy is not None and len(self._transports) == 1:
            return proxy_failure(self._proxy, config.alias)
        words = transport.parting or _plain_words(error)
        return HostError(
            f"{config.where} took the connection but did not answer as an SSH server: {words}",
            "Is the port right? A server that is starting, or full, does this too: try again in a minute.",
        )

    def open(self, line: str, script: bytes) -> paramiko.Channel:
        """A channel on which `line` runs and has got `script` on its stdin.

        Raises:
            HostError: the host opens no session, or starts no shell in it.
        """
        channel = self._session()
        try:
            with self._deadline():
                channel.exec_command(line)
                channel.sendall(script)
        except (paramiko.SSHException, EOFError, OSError) as error:
            channel.close()
            raise HostError(
                f"The host let us in but starts no shell: {_plain_words(error)}",
                "Log in by hand: is the account's login shell in order, and may it run commands?",
            ) from None
        self._open.add(channel)
        return channel

    def release(self, channel: paramiko.Channel) -> None:
        """The channel is of no more use; may be called twice."""
        self._open.discard(channel)

    def _session(self) -> paramiko.Channel:
        deadline = time.monotonic() + _SLOT_IS_FREED_WITHIN
        while True:
            try:
                return self._transports[-1].open_session(window_size=WINDOW, timeout=OPEN_TIMEOUT)
            except paramiko.ChannelException as error:
                # Where one session is the limit, the last one counts until its process has ended.
                if self.in_use or time.monotonic() > deadline:
                    raise HostError(
                        f"The host opens no further session on this connection ({error.text})",
                        "Close other sessions of yours there, or ask for a higher MaxSessions.",
                    ) from None
                time.sleep(0.1)
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise HostError(f"The connection does not answer: {_plain_words(error)}") from None

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """paramiko waits for ever for a shell: after a while the connection is closed under it."""
        timer = threading.Timer(2 * OPEN_TIMEOUT, self.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _told_apart(error: HostError, number: int, hops: Sequence[HostConfig]) -> HostError:
    """The same error with the hop that it is about, and what in that hop's settings may be behind it."""
    config = hops[number - 1]
    message, hint = error.message, error.hint
    if len(hops) > 1:
        message = f"Hop {number} of {len(hops)} ({config.alias}): {message}"
    if config.not_honoured:
        hint = f"{hint} Its settings have {', '.join(config.not_honoured)}, which we cannot follow. {USE_OPENSSH}"
    return type(error)(message, hint.strip())


def _not_forwarded(config: HostConfig, error: BaseException) -> HostError:
    target = f"{config.hostname}:{config.port}"
    if isinstance(error, paramiko.ChannelException) and error.code == 1:
        return NeedsYou(
            f"The host before it does not allow to go on to {target} ({error.text})",
            "Its sshd needs `AllowTcpForwarding yes`; ask its administrator, or use a ProxyCommand with netcat.",
        )
    return HostError(
        f"The host before it cannot reach {target}: {_plain_words(error)}",
        "Is that name or address right as seen from there, and is the machine up?",
    )


def _plain_words(error: BaseException) -> str:
    if isinstance(error, paramiko.ChannelException):
        return str(error.text)
    if isinstance(error, TimeoutError):
        return "no answer (timed out)"
    text = str(error).removeprefix("Error reading SSH protocol banner").strip()
    if isinstance(error, EOFError) or not text:
        return "it hung up"
    return printable(text)
