"""Driving the app as a person does: looking until something is there, clicking what can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from rich.cells import cell_len
from textual import events
from textual.app import App
from textual.command import CommandPalette
from textual.css.query import NoMatches
from textual.geometry import Offset, Region
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import OptionList, Static

from llama_tui.tui.app import LlamaTui
from llama_tui.tui.key_order import KeysInOrder


async def until(
    pilot: Pilot[None], condition: Callable[[], bool], what: str = "", timeout: float = 60
) -> None:
    """Lets the app work until the condition holds, which it does not on a screen without the widgets that it asks for."""

    def holds() -> bool:
        try:
            return condition()
        except NoMatches:
            return False

    end = asyncio.get_running_loop().time() + timeout
    while not holds():
        assert asyncio.get_running_loop().time() < end, (
            f"{what or 'condition'} never held; {pilot.app.screen}\n{painted(pilot.app)}"
        )
        await pilot.pause(0.05)


async def dealt_with(pilot: Pilot[None]) -> None:
    """Until no key is on its way any more: Textual's own `press` takes a machine that is busy with others for one at rest."""
    app = pilot.app
    if isinstance(app, KeysInOrder):
        await until(pilot, lambda: not app.busy or app._exit, "the end of what the keys do")


async def arrived(pilot: Pilot[None], screen: type[Screen[Any]]) -> None:
    """Waits until such a screen is in front, and what can have the cursor there has it: a key before is nobody's."""

    def there() -> bool:
        front = pilot.app.screen
        ready = isinstance(front, screen) and front.is_mounted
        return ready and (front.focused is not None or not front.focus_chain)

    await until(pilot, there, screen.__name__)


def painted(app: App[None]) -> str:
    """The screen in front as it can be read, without what a dialog covers."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def text_of(app: App[None], selector: str) -> str:
    """What a line of text says, however much of it can be seen."""
    return str(app.screen.query_one(selector, Static).content)


async def click(pilot: Pilot[None], selector: Any, offset: tuple[int, int] = (0, 0)) -> None:
    """Clicks a widget once it is laid out, rests where it is, and nothing covers it."""
    looks: list[Region] = [Region()]

    def rests() -> bool:
        found = pilot.app.screen.query(selector)
        looks.append(found.first().region if found else Region())
        return looks[-1].area > 0 and looks[-1] == looks[-2]

    await until(pilot, rests, f"{selector} to click")
    widget = pilot.app.screen.query(selector).first()
    x, y = looks[-1].offset + offset
    assert pilot.app.screen.get_widget_at(x, y)[0] is widget, f"{selector} is covered"
    await click_at(pilot, x, y)


async def click_at(pilot: Pilot[None], x: int, y: int, times: int = 1) -> None:
    """Presses and releases the button there, now: Textual's own waits in between, and what was there may have moved."""
    screen = pilot.app.screen
    widget, _ = screen.get_widget_at(x, y)
    for chain in range(1, times + 1):
        for kind in (events.MouseDown, events.MouseUp, events.Click):
            more = {"chain": chain} if kind is events.Click else {}
            screen._forward_event(kind(widget, x, y, 0, 0, 1, False, False, False, x, y, **more))
    pilot.app.mouse_position = Offset(x, y)
    await pilot.pause()


class Person:
    """Somebody at the terminal, who knows only what can be read on it."""

    def __init__(self, pilot: Pilot[None]) -> None:
        self.pilot = pilot

    @property
    def app(self) -> App[None]:
        """What runs."""
        return self.pilot.app

    def lines(self) -> list[str]:
        """What is on the screen."""
        return painted(self.app).split("\n")

    def reads(self, words: str) -> bool:
        """Whether the words are on the screen now, in one line."""
        return any(words in line for line in self.lines())

    async def sees(self, *words: str) -> None:
        """Waits until all of the words can be read at once."""
        await until(self.pilot, lambda: all(map(self.reads, words)), f"{words} on the screen")

    async def misses(self, words: str) -> None:
        """Waits until the words are not on the screen any more."""
        await until(self.pilot, lambda: not self.reads(words), f"the end of {words!r}")

    async def arrives(self, screen: type[Screen[Any]]) -> None:
        """Waits until that screen is the one in front."""
        await arrived(self.pilot, screen)


class Keyboard(Person):
    """Somebody without a mouse."""

    async def press(self, *keys: str) -> None:
        """Presses keys, one after the other."""
        await self.pilot.press(*keys)

    async def types(self, text: str) -> None:
        """Types a text."""
        await self.pilot.press(*text)

    async def types_ahead(self, *keys: str) -> None:
        """Presses keys faster than the app can take them, as on a slow line."""
        for key in keys:
            event = events.Key(key, key if len(key) == 1 else KEYS.get(key))
            event.set_sender(self.app)
            self.app.post_message(event)
        await self.pilot.pause()


KEYS = {"slash": "/", "enter": "\r", "space": " "}


class Mouse(Person):
    """Somebody without a keyboard: clicks on words that can be read, and turns the wheel."""

    def _at(self, words: str, below: str) -> tuple[int, int] | None:
        lines = self.lines()
        first = next((y for y, line in enumerate(lines) if below in line), len(lines))
        for y in range(first, len(lines)):
            if words in lines[y]:
                before = lines[y][: lines[y].index(words)]
                return cell_len(before) + len(words) // 2, y
        return None

    async def click(self, words: str, below: str = "", times: int = 1) -> None:
        """Clicks on words, once they are there.

        Args:
            below: look only from the line with these words on.
        """
        where: list[tuple[int, int] | None] = [None]

        def rests() -> bool:
            where.append(self._at(words, below))
            return where[-1] is not None and where[-1] == where[-2]

        await until(self.pilot, rests, f"{words!r} to click")
        x, y = where[-1] or (0, 0)
        await click_at(self.pilot, x, y, times)

    async def paste(self, text: str) -> None:
        """Pastes with the middle button: the terminal hands the text over to where the cursor is."""
        self.app.post_message(events.Paste(text))
        await self.pilot.pause()

    async def wheel(self, target: str | type[Widget], *, up: bool = False, times: int = 1) -> None:
        """Turns the wheel over a widget."""
        kind = events.MouseScrollUp if up else events.MouseScrollDown
        widget = self.app.screen.query(target).first()
        x, y = widget.region.offset
        for _ in range(times):
            self.app.screen._forward_event(kind(widget, x, y, 0, 0, 0, False, False, False, x, y))
        await self.pilot.pause()

    async def command(self, words: str) -> None:
        """Finds a command in the palette, and clicks on it."""
        await self.click("palette")
        await self.arrives(CommandPalette)
        palette = self.app.screen
        await until(self.pilot, lambda: palette.query_one(OptionList).option_count > 0, "commands")
        await self.scrolls_to(words, OptionList)
        await self.click(words)
        await until(self.pilot, lambda: self.app.screen is not palette, "the palette's end")

    async def scrolls_to(self, words: str, target: str | type[Widget]) -> None:
        """Turns the wheel until the words can be read."""
        async with asyncio.timeout(60):
            while not self.reads(words):
                await self.wheel(target)


Somebody = TypeVar("Somebody", bound=Person)


@asynccontextmanager
async def sitting_at(
    kind: type[Somebody], app: LlamaTui, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[Somebody]:
    """Somebody at the running app."""
    async with app.run_test(size=size, notifications=True) as pilot:
        yield kind(pilot)
