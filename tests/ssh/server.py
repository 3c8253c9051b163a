"""An SSH server with a login that no sshd here has: a password and a one-time code, asked for together."""

# ruff: noqa: ARG002  # paramiko calls these by position.

import contextlib
import socket
import subprocess
import threading
from types import TracebackType
from typing import Self

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL


class _Login(paramiko.ServerInterface):
    def __init__(self, owner: "TwoQuestions") -> None:
        self._owner = owner

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive"

    def check_auth_interactive(self, username: str, submethods: str) -> paramiko.InteractiveQuery:
        return paramiko.InteractiveQuery("Two factors", "Have your token ready", *self._owner.prompts)

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        self._owner.heard.append(responses)
        return AUTH_SUCCESSFUL if responses == self._owner.right else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._owner.commands.append(process)
        threading.Thread(target=_serve, args=(channel, process), daemon=True).start()
        return True


def _serve(channel: paramiko.Channel, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    source, sink = process.stdout, process.stdin

    def feed() -> None:
        while data := channel.recv(65536):
            sink.write(data)
        sink.close()

    threading.Thread(target=feed, daemon=True).start()
    # The other end, or the test, may end the connection first.
    with contextlib.suppress(OSError, EOFError):
        while data := source.read(65536):
            channel.sendall(data)
        channel.send_exit_status(process.wait())
        channel.close()


class TwoQuestions:
    """A server on the loopback; a context manager. `right` are the answers that let in."""

    def __init__(self, prompts: list[tuple[str, bool]], right: list[str]) -> None:
        self.prompts = prompts
        self.right = right
        self.heard: list[list[str]] = []
        self.commands: list[subprocess.Popen[bytes]] = []
        self._key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._transports: list[paramiko.Transport] = []

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self._key)
            transport.start_server(event=threading.Event(), server=_Login(self))
            self._transports.append(transport)

    def cut(self) -> None:
        """Ends every connection."""
        for transport in self._transports:
            transport.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()
