"""The hosts of one program: each is made once, so that everything on it shares one connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from llama_tui.backend.errors import LinkLost
from llama_tui.backend.hosts.base import Host
from llama_tui.backend.hosts.local import LocalHost
from llama_tui.backend.hosts.ssh_ask import Ask
from llama_tui.backend.link import Link
from llama_tui.backend.place import Place, SshWay

if TYPE_CHECKING:
    from llama_tui.backend.hosts.ssh import SshHost


class HostBook:
    """Hosts by name.

    Args:
        ask: asks a person for passwords and host keys; without it nobody is asked.
        config_file: an ssh config in place of ~/.ssh/config.
    """

    def __init__(self, ask: Ask | None = None, config_file: Path | None = None) -> None:
        self._ask = ask
        self._config_file = config_file
        self._remote: dict[tuple[str, str], SshHost] = {}
        self._begun: dict[Place, Future[Link]] = {}
        self._lock = threading.Lock()

    def host(self, name: str, as_user: str = "", way: SshWay = SshWay.OWN) -> Host:
        """This machine for an empty name, else a host of ~/.ssh/config, or `[user@]host`.

        Args:
            as_user: go on as this user there, through sudo.
            way: by our own SSH, or by the system's.
        """
        if not name:
            return LocalHost()
        # paramiko takes a tenth of a second to import, which whoever works on this machine is spared.
        if way is SshWay.SYSTEM:
            from llama_tui.backend.hosts.openssh import OpenSshHost

            return OpenSshHost(name, self._config_file, as_user or None)
        from llama_tui.backend.hosts.ssh import SshHost

        with self._lock:
            key = (name, as_user)
            if key not in self._remote:
                self._remote[key] = SshHost(name, self._ask, self._config_file, as_user or None)
            return self._remote[key]

    def begin(self, place: Place) -> None:
        """Starts an agent there on a thread of its own, for whoever asks next for a link to the place."""
        begun: Future[Link] = Future()
        self._begun[place] = begun

        def start() -> None:
            try:
                begun.set_result(self._new_link(place))
            except BaseException as error:
                begun.set_exception(error)

        threading.Thread(target=start, name=f"begin {place.label}", daemon=True).start()

    def link(self, place: Place, on_lost: Callable[[LinkLost], None] | None = None) -> Link:
        """A link to an agent of the caller's own at that place. Blocks.

        Raises:
            HostError: the host cannot be reached, or no agent starts there.
        """
        begun = self._begun.pop(place, None)
        link = begun.result() if begun else None
        if link is None or not link.alive:
            link = self._new_link(place)
        link.on_lost = on_lost
        return link

    def _new_link(self, place: Place) -> Link:
        return Link(self.host(place.host, place.as_user, place.ssh), place.python)

    def names(self) -> list[str]:
        """The hosts of the ssh config, for completion."""
        from llama_tui.backend.hosts.ssh_config import host_aliases

        return host_aliases(self._config_file)

    def close(self) -> None:
        """Ends all connections."""
        for begun in self._begun.values():
            begun.add_done_callback(_close_begun)
        for host in self._remote.values():
            host.close()


def _close_begun(begun: Future[Link]) -> None:
    if begun.exception() is None:
        begun.result().close()
