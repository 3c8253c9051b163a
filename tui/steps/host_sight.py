"""What the wizard sees of the host: a connection of its own, and the looks at data sets through it."""

from __future__ import annotations

import asyncio
import threading

from llama_tui.backend.data_look import DataLook, look_at_data
from llama_tui.backend.errors import UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site, connect
from llama_tui.tui.background import in_background


class HostSight:
    """Without a connection the wizard works all the same.

    Attributes:
        site: the connected host; None while there is none.
    """

    def __init__(self) -> None:
        self.site: Site | None = None
        # By data set; None for one that cannot be read.
        self._looks: dict[str, DataLook | None] = {}
        self._first_looks: dict[str, asyncio.Task[None]] = {}

    async def reach(self, place: Place, hosts: HostBook) -> bool:
        """Connects, where that is not so already; whether there is a new connection."""
        if self.site is not None and self.site.link.alive and self.site.place == place:
            return False
        self.drop()
        try:
            self.site = await in_background(lambda: connect(place, hosts))
        except UserError:
            return False
        return True

    def drop(self) -> None:
        """Ends the connection, behind what goes on."""
        site, self.site = self.site, None
        self._looks = {source: look for source, look in self._looks.items() if look is not None}
        if site is not None:
            threading.Thread(target=site.close, daemon=True).start()

    async def look(self, settings: Settings) -> DataLook:
        """Looks at the data set. Raises UserError."""
        site = self.site
        look = await in_background(lambda: look_at_data(site, settings))
        self._looks[settings.model.dataset] = look
        return look

    async def known_look(self, settings: Settings) -> DataLook | None:
        """The look before; a first one where the data set is a file on the connected host; None where there is none."""
        source = settings.model.dataset
        on_host = source.startswith(("/", "~/")) and self.site is not None
        if on_host and source not in self._looks:
            if source not in self._first_looks:
                self._first_looks[source] = asyncio.create_task(self._first_look(settings))
            # Whoever waits for it may be gone before it is there.
            await asyncio.shield(self._first_looks[source])
        return self._looks.get(source)

    async def _first_look(self, settings: Settings) -> None:
        source = settings.model.dataset
        try:
            await self.look(settings)
        except UserError:
            # Whoever looks himself is told why.
            self._looks[source] = None
        finally:
            del self._first_looks[source]
