"""The app: which screen comes first, and what holds on every screen."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.terminal_theme import TerminalTheme
from rich.text import Text
from textual import work
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Static

from llama_tui.backend import places
from llama_tui.backend.plain import printable
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.background import from_thread, in_background
from llama_tui.tui.key_order import KeysInOrder
from llama_tui.tui.promises import Promises
from llama_tui.tui.themes import DEFAULT, PALETTES, TERMINAL_THEMES

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

    from llama_tui.backend.hosts.choose import HostBook

_STYLES = [
    Path(__file__).parent / f"styles/{name}.tcss"
    for name in ("app", "wizard", "runs", "monitor", "comparison")
]


class LlamaTui(KeysInOrder):
    """llama-tui on the screen.

    The first frame needs nothing but Textual. What a screen needs is loaded behind it; keys wait until it is there.

    Args:
        request: what to open with.

    Attributes:
        opened: set when the first screen is there and gets the keys that waited for it.
        promises: what was asked for and goes on whatever screen is left.
    """

    TITLE = "llama-tui"
    CSS = """
    #opening { height: 1; background: $primary; color: $text; padding: 0 1; text-style: bold; text-wrap: nowrap; }
    """
    BINDINGS = [
        Binding("question_mark,f1", "show_keys", "Keys"),
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, request: UiRequest) -> None:
        super().__init__()
        for palette in PALETTES:
            self.register_theme(palette.theme())
        preferred = places.preference("theme")
        self.theme = preferred if preferred in self.available_themes else DEFAULT
        self._request = request
        self.opened = threading.Event()
        self.promises = Promises(self._tell_left)

    @cached_property
    def hosts(self) -> HostBook:
        """The hosts that the screens talk to; they ask on the screen."""
        from llama_tui.backend.hosts.choose import HostBook
        from llama_tui.tui.asking import ScreenAsk

        return HostBook(ScreenAsk(self, self.opened))

    @property
    def ansi_theme(self) -> TerminalTheme:
        """Colours by name (of states, and in logs) are those of the theme."""
        return TERMINAL_THEMES.get(self.theme) or super().ansi_theme

    def watch_theme(self, before: str, chosen: str) -> None:
        """A theme that a person chose is there again at the next start."""
        if self.is_running and before != chosen:
            places.save_preference("theme", chosen)

    def compose(self) -> ComposeResult:
        words = printable(self._opening_words())
        yield Static(f"llama-tui  ·  {words}", id="opening", markup=False)
        yield Static(" What is typed now is kept for the next screen.", markup=False)

    def on_mount(self) -> None:
        """Opens the first screen when this one is painted."""
        self.call_after_refresh(self._open)

    def _opening_words(self) -> str:
        request = self._request
        if request.run_id and request.place:
            return f"opening {request.run_id} in {request.place.label}"
        known = [request.place] if request.place else places.remembered()
        if request.settings is None and known:
            return f"looking for runs in {', '.join(place.label for place in known)}"
        return "opening the wizard"

    @work(exclusive=True, group="open")
    async def _open(self) -> None:
        make_screen = await in_background(self._first_screen)
        self.stylesheet.read_all(_STYLES)
        screen = make_screen()
        await self.push_screen(screen)
        screen.call_after_refresh(self._hand_over_keys)

    async def _hand_over_keys(self) -> None:
        self.opened.set()
        await self.begin_keys()

    def _tell_left(self, words: str, failed: bool) -> None:
        severity: SeverityLevel = "error" if failed else "information"
        from_thread(self, partial(self.notify, words, severity=severity, timeout=30, markup=False))

    def on_unmount(self) -> None:
        """Connections end with the app, once what goes on over them is done; jobs do not end."""
        # Looked up here: a thread may be overtaken by the interpreter's end, at which nothing can be imported.
        threading.Thread(target=self._close, args=(self.hosts,), daemon=True).start()

    def _close(self, hosts: HostBook) -> None:
        self.promises.wait(lambda _: None)
        hosts.close()

    def _fatal_error(self) -> None:
        """Textual's own shows the local variables of every frame, a token among them."""
        from llama_tui.backend.colleague_report import without_secrets

        self.bell()
        self.panic(Text(without_secrets(traceback.format_exc())))

    def _first_screen(self) -> Callable[[], Screen[None]]:
        """Loads what was asked for, else the runs, else the wizard; gives what makes it. Takes its time."""
        request = self._request
        if request.run_id and request.place:
            self.hosts.begin(request.place)
            from llama_tui.tui.screens.monitor import MonitorScreen

            return partial(MonitorScreen, request.place, request.run_id)
        known = places.remembered()
        if request.settings is None and known:
            for place in [request.place] if request.place else known:
                self.hosts.begin(place)
            from llama_tui.tui.screens.runs import RunsScreen

            return partial(RunsScreen, request.place)
        from llama_tui.tui.screens.wizard import WizardScreen

        if request.settings is None:
            return WizardScreen.resumed
        return partial(WizardScreen, request.settings, request.review)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of the screen is in the palette, beside Textual's own."""
        # Textual's own panel of keys cannot be scrolled without a mouse.
        yield from (one for one in super().get_system_commands(screen) if one.title != "Keys")
        from llama_tui.tui.screens.keys import own_actions

        for one in own_actions(screen):
            act = partial(self.run_action, one.action, one.node)
            yield SystemCommand(f"{one.words} ({one.keys})", one.more, act)

    def action_show_keys(self) -> None:
        """Shows the keys of this screen."""
        from llama_tui.tui.screens.keys import Keys

        self.push_screen(Keys(self.screen))
