"""Keys that come at once: each goes to where the one before it has led, on a machine that takes its time as well."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import ComposeResult
from textual.events import Key
from textual.widget import Widget
from textual.widgets import Input

from llama_tui.tui import key_order
from llama_tui.tui.key_order import KeysInOrder
from tests.pilot import until


class Door(Widget, can_focus=True):
    """Leads to the field, by any key."""

    def __init__(self, opens: asyncio.Event) -> None:
        super().__init__()
        self._opens = opens

    async def on_key(self, event: Key) -> None:
        event.stop()
        await self._opens.wait()
        self.screen.query_one(Input).focus()


class House(KeysInOrder):
    def __init__(self) -> None:
        super().__init__()
        self.opens = asyncio.Event()
        self.looks = 0

    def compose(self) -> ComposeResult:
        yield Door(self.opens)
        yield Input()

    async def on_mount(self) -> None:
        await self.begin_keys()

    async def _look(self, turn: int, looks: int) -> None:
        self.looks += 1
        await super()._look(turn, looks)


def type_ahead(app: House, keys: str) -> None:
    for key in keys:
        app.post_message(Key(key, key))


async def test_what_is_typed_behind_a_key_waits_for_a_slow_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "LONGEST", 0.02)
    monkeypatch.setattr(key_order, "LOOKS", 100_000)
    app = House()
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.focused, Door))
        type_ahead(app, "oahoy")
        # The door is a busy one: it was looked for more than once.
        while app.looks < 3:
            await asyncio.sleep(0.01)
        app.opens.set()
        await until(pilot, lambda: app.query_one(Input).value == "ahoy")


async def test_a_widget_that_never_comes_back_costs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_order, "LONGEST", 0.02)
    app = House()
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.focused, Door))
        type_ahead(app, "o")
        app.query_one(Input).focus()
        type_ahead(app, "ahoy")
        while app.query_one(Input).value != "ahoy":
            await asyncio.sleep(0.01)
        app.opens.set()
