"""The keys of the screen in its last line: one widget, where Textual's Footer makes one a key at each change of focus."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from textual.content import Content
from textual.events import Click, MouseMove
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget


@dataclass(frozen=True)
class Hint:
    """A key and what it does, as the line shows it."""

    key: str
    shown: str
    words: str
    enabled: bool
    tooltip: str


@dataclass(frozen=True)
class _Placed:
    """A hint and the cells that it takes, from `start` to before `end`."""

    hint: Hint
    start: int
    end: int


class KeyBar(Widget):
    """Shows the keys that do something now; a click on one presses it.

    On a narrow terminal the last ones of the screen are left out, never those of the app: the list of all keys, and
    the palette.
    """

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"key-bar--key", "key-bar--words"}
    DEFAULT_CSS = """
    KeyBar { height: 1; dock: bottom; background: $footer-background; text-wrap: nowrap; }
    KeyBar > .key-bar--key { color: $footer-key-foreground; background: $footer-key-background; text-style: bold; }
    KeyBar > .key-bar--words { color: $footer-description-foreground; background: $footer-description-background; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._hints: list[Hint] = []
        self._kept: list[Hint] = []

    def on_mount(self) -> None:
        """Follows what the keys do."""
        self.screen.bindings_updated_signal.subscribe(self, self._take)

    def _take(self, screen: Screen[object]) -> None:
        hints: dict[str, Hint] = {}
        kept: dict[str, Hint] = {}
        for node, binding, enabled, tooltip in screen.active_bindings.values():
            palette = binding.key == self.app.COMMAND_PALETTE_BINDING
            if binding.show or palette:
                shown, words = self.app.get_key_display(binding), binding.description
                hint = Hint(binding.key, shown, words, enabled, tooltip or words)
                (kept if node is self.app else hints).setdefault(binding.action, hint)
        found = list(hints.values()), list(kept.values())
        if found != (self._hints, self._kept):
            self._hints, self._kept = found
            self.refresh()

    def _placed(self) -> list[_Placed]:
        """Those for which there is room, from the left, closer together where it is short; the app's own at the right."""
        every = self._hints + self._kept
        before = 1 if sum(_width(hint, 1) for hint in every) <= self.size.width else 0
        right = self.size.width - sum(_width(hint, before) for hint in self._kept)
        placed = [one for one in _in_a_row(self._hints, 0, before) if one.end <= right]
        return placed + _in_a_row(self._kept, max(0, right), before)

    def render(self) -> Content:
        """The line."""
        key, words = self.get_visual_style("key-bar--key"), self.get_visual_style("key-bar--words")
        off = Style(dim=True)
        parts: list[Content] = []
        at = 0
        for one in self._placed():
            hint = one.hint
            line = Content.assemble((f"{hint.shown} ", key), (f"{hint.words} ", words))
            parts += [Content(" " * (one.start - at)), line if hint.enabled else line.stylize(off)]
            at = one.end
        return Content("").join(parts)

    def _under(self, x: int) -> Hint | None:
        return next((one.hint for one in self._placed() if one.start <= x < one.end), None)

    def on_mouse_move(self, event: MouseMove) -> None:
        """Says more of the key under the mouse."""
        hint = self._under(event.x)
        self.tooltip = hint.tooltip if hint else None

    def on_click(self, event: Click) -> None:
        """Presses it."""
        event.stop()
        hint = self._under(event.x)
        if hint is None:
            return
        if hint.enabled:
            self.app.simulate_key(hint.key)
        else:
            self.app.bell()


def _in_a_row(hints: list[Hint], at: int, before: int) -> list[_Placed]:
    ends = list(accumulate((_width(hint, before) for hint in hints), initial=at))
    return [
        _Placed(hint, start + before, end) for hint, start, end in zip(hints, ends, ends[1:], strict=False)
    ]


def _width(hint: Hint, before: int) -> int:
    return before + Content(f"{hint.shown} {hint.words} ").cell_length
