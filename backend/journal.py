"""submitted.jsonl: what was asked of the scheduler, a line before and a line after."""

from __future__ import annotations

import json
from enum import StrEnum

from llama_tui.backend.layout import RunLayout
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage


class Event(StrEnum):
    """What a line tells."""

    ASKED = "asked"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


class Journal:
    """Appends to a run's submitted.jsonl."""

    def __init__(self, site: Site, layout: RunLayout) -> None:
        self._site = site
        self._path = layout.submitted

    def add(self, event: Event, stage: Stage, attempt: int, **more: str) -> None:
        """One line, on the disk when this returns."""
        line = {
            "time": round(self._site.now(), 3),
            "event": event,
            "stage": stage,
            "attempt": attempt,
            **more,
        }
        self._site.link.call("append", path=self._path, text=json.dumps(line) + "\n")

    def cancelled(self, stage: Stage, attempt: int) -> None:
        """A person asked for the attempt's end."""
        self.add(Event.CANCELLED, stage, attempt)
