"""Completes a path against the host's own file system, while it is typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.suggester import Suggester

from llama_tui.backend.errors import UserError
from llama_tui.backend.site import Site
from llama_tui.tui.background import in_background


class HostPaths(Suggester):
    """Suggests the first directory entry on the host that begins with what was typed.

    Args:
        site: gives the connected host, or None while there is none.
        usual: offered first.
    """

    def __init__(self, site: Callable[[], Site | None], usual: Sequence[str] = ()) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._site = site
        self._usual = usual

    async def get_suggestion(self, value: str) -> str | None:
        """The completion of a path; for anything else one of the usual answers."""
        usual = next((one for one in self._usual if value and one.startswith(value) and one != value), None)
        site = self._site()
        if usual or site is None or not value.startswith(("/", "~/")):
            return usual
        try:
            return await in_background(lambda: _completed(site, value))
        except UserError:
            return None


def _completed(site: Site, value: str) -> str | None:
    folder, _, beginning = value.rpartition("/")
    entries = site.link.call("list", path=site.absolute(folder + "/") or "/", patience=3)["entries"]
    names = [entry["name"] + ("/" if entry["dir"] else "") for entry in entries]
    fitting = [name for name in names if name.startswith(beginning) and name.rstrip("/") != beginning]
    hidden = beginning.startswith(".")
    shown = next((name for name in fitting if hidden or not name.startswith(".")), None)
    return f"{folder}/{shown}" if shown else None
