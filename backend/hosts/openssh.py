"""The system's own `ssh` as a host, for what paramiko has not: FIDO keys, GSSAPI, exotic settings."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.base import Channel
from llama_tui.backend.hosts.environment import child_environment
from llama_tui.backend.hosts.local import LocalChannel
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_shell import remote_command

# ssh notices a dead connection itself and ends; a pipe to it would not show that to whoever waits for a first word.
_OPTIONS = ("BatchMode=yes", "ServerAliveInterval=5", "ServerAliveCountMax=2")


class OpenSshHost:
    """Starts commands through `ssh`, which asks nobody: what it needs must be in an agent or a ticket.

    Args:
        alias: a name of the ssh config, or `[user@]host`.
        config_file: in place of ~/.ssh/config and the system's.
        as_user: continue as this user, through `sudo -iu`.
    """

    def __init__(self, alias: str, config_file: Path | None = None, as_user: str | None = None) -> None:
        if alias.startswith("-"):
            raise NeedsYou(f"{alias!r} cannot be the name of a host", "Use a name from your ~/.ssh/config.")
        self.name = alias
        self._as_user = as_user
        own_config = ["-F", str(config_file)] if config_file else []
        self._argv = ["ssh", "-T", *(f"-o{option}" for option in _OPTIONS), *own_config, alias]

    def start(self, command: str) -> Channel:
        line, script = remote_command(command, self._as_user)
        try:
            process = subprocess.Popen(
                [*self._argv, line],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=child_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"Could not start ssh: {error.strerror}", "Install OpenSSH's client.") from None
        channel = LocalChannel(process)
        try:
            channel.write(script)
        except OSError:
            # It has ended already; whoever reads finds the end, and what it said.
            return channel
        return channel
