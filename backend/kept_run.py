"""A run that a screen asks now and then: one connection, made when it is needed and made again when it was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.runs import Run, open_run
from llama_tui.backend.site import connect

Result = TypeVar("Result")


class KeptRun:
    """Does things with a run. All methods block, may be called from any thread, and take turns."""

    def __init__(self, place: Place, run_id: str, hosts: HostBook | None = None) -> None:
        self._place, self._run_id, self._hosts = place, run_id, hosts
        self._run: Run | None = None
        self._lock = threading.Lock()

    def do(self, action: Callable[[Run], Result]) -> Result:
        """What `action` gives.

        Raises:
            UserError: the place cannot be reached, there is no such run, or what the action raises.
        """
        with self._lock:
            if self._run is None or not self._run.site.link.alive:
                self._drop()
                self._run = self._open()
            return action(self._run)

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._drop()

    def _open(self) -> Run:
        site = connect(self._place, self._hosts)
        try:
            return open_run(site, self._run_id)
        except BaseException:
            site.close()
            raise

    def _drop(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.site.close()
