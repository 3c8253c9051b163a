"""The app: which screen comes first, and what holds on every screen."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable

from rich.terminal_theme import TerminalTheme
from rich.text import Text
from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.screen import Screen

from llama_tui.backend import places
from llama_tui.backend.colleague_report import without_secrets
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.asking import ScreenAsk
from llama_tui.tui.themes import DEFAULT, PALETTES, TERMINAL_THEMES


class LlamaTui(App[None]):
    """llama-tui on the screen.

    Args:
        request: what to open with.
    """

    TITLE = "llama-tui"
    CSS_PATH = [f"styles/{name}.tcss" for name in ("app", "wizard", "runs", "monitor", "comparison")]
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
        self.hosts = HostBook(ScreenAsk(self))

    @property
    def ansi_theme(self) -> TerminalTheme:
        """Colours by name (of states, and in logs) are those of the theme."""
        return TERMINAL_THEMES.get(self.theme) or super().ansi_theme

    def watch_theme(self, before: str, chosen: str) -> None:
        """A theme that a person chose is there again at the next start."""
        if self.is_running and before != chosen:
            places.save_preference("theme", chosen)

    def on_mount(self) -> None:
        """Shows the first screen."""
        self.push_screen(self._first_screen())

    def on_unmount(self) -> None:
        """Connections end with the app; jobs do not."""
        threading.Thread(target=self.hosts.close, daemon=True).start()

    def _fatal_error(self) -> None:
        """Textual's own shows the local variables of every frame, a token among them."""
        self.bell()
        self.panic(Text(without_secrets(traceback.format_exc())))

    def _first_screen(self) -> Screen[None]:
        """What was asked for, else the runs, else the wizard."""
        request = self._request
        known = places.remembered()
        if request.run_id and request.place:
            from llama_tui.tui.screens.monitor import MonitorScreen

            return MonitorScreen(request.place, request.run_id)
        if request.settings is None and known:
            from llama_tui.tui.screens.runs import RunsScreen

            return RunsScreen(request.place)
        from llama_tui.tui.screens.wizard import WizardScreen

        if request.settings is None:
            return WizardScreen.resumed()
        return WizardScreen(request.settings, request.review)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of the screen is in the palette, beside Textual's own."""
        # Textual's own panel of keys cannot be scrolled without a mouse.
        yield from (one for one in super().get_system_commands(screen) if one.title != "Keys")
        for key, active in screen.active_bindings.items():
            binding = active.binding
            if binding.description and not binding.system:
                action = binding.action
                yield SystemCommand(
                    f"{binding.description} ({key})",
                    binding.tooltip or binding.action,
                    lambda action=action, node=active.node: self.run_action(action, node),
                )

    def action_show_keys(self) -> None:
        """Shows the keys of this screen."""
        from llama_tui.tui.screens.keys import Keys

        self.push_screen(Keys(self.screen))
