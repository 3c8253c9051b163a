"""A screen on which no key is lost: what is typed before a field is there waits for it."""

from __future__ import annotations

import asyncio
import contextlib

from textual.events import Event, Key, Paste
from textual.screen import Screen
from textual.widget import Widget

# Seconds that a field may take to show what was typed.
LONGEST_TYPING = 2.0


class PatientScreen(Screen[None]):
    """Keeps keys while the field for them is made, and hands them over in their order.

    Nothing has the focus until `give_focus` is called.
    """

    AUTO_FOCUS = ""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = True
        self._begun = False
        self._early: list[Key | Paste] = []

    def hold_keys(self) -> None:
        """Keys wait from now on."""
        self._waiting = True
        self.set_focus(None)

    def give_focus(self, widget: Widget | None) -> None:
        """Puts the cursor into a widget, and the keys that waited."""
        early, self._early = self._early, []
        self._waiting, self._begun = False, True
        self.set_focus(widget)
        if widget is None:
            return
        # Only once it is laid out can it be scrolled to.
        self.call_after_refresh(widget.scroll_visible, animate=False)
        for event in early:
            self._hand_over(event, widget)

    async def all_typed(self) -> None:
        """Until the field with the focus took what was typed before: a key of the screen's own overtakes it."""
        field = self.focused
        if field is None:
            return
        taken = asyncio.Event()
        field.call_later(taken.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(taken.wait(), LONGEST_TYPING)

    def _hand_over(self, event: Key | Paste, widget: Widget) -> None:
        active = self.active_bindings.get(event.key) if isinstance(event, Key) else None
        if active is not None and active.binding.priority:
            self.call_later(self.run_action, active.binding.action)
        else:
            widget._forward_event(event)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """No action of the screen runs before the screen is there: its key waits as the others do."""
        return self._begun and super().check_action(action, parameters)

    def _forward_event(self, event: Event) -> None:
        # Textual's own way of handing a key to a screen without focus: only here nothing can overtake it.
        if self._waiting and isinstance(event, Key | Paste) and not event.is_forwarded:
            self._early.append(event)
        else:
            super()._forward_event(event)
