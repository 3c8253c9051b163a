"""The keys of a screen: its own first, then those of what the cursor is in."""

from __future__ import annotations

from textual.binding import ActiveBinding, Binding
from textual.screen import Screen

from llama_tui.tui.screens.dialogs import Reading


class Keys(Reading):
    """Shows what every key does; the key that opened it closes it as well.

    Args:
        screen: whose keys.
    """

    BINDINGS = [Binding("question_mark,f1", "leave", "Close", show=False)]

    def __init__(self, screen: Screen[object]) -> None:
        super().__init__("Keys", keys_text(screen))


def keys_text(screen: Screen[object]) -> str:
    """A line for each action that has a name, with all its keys."""
    keys: dict[tuple[int, str], list[str]] = {}
    for active in screen.active_bindings.values():
        if active.binding.description:
            line = keys.setdefault((_rank(active, screen), active.binding.description), [])
            line.append(screen.app.get_key_display(active.binding))
    width = max((len(" ".join(names)) for names in keys.values()), default=0)
    lines: list[str] = []
    before = 0
    for (rank, description), names in sorted(keys.items(), key=lambda item: item[0][0]):
        if rank != before and lines:
            lines.append("")
        before = rank
        lines.append(f"{' '.join(dict.fromkeys(names)):>{width}}  {description}")
    return "\n".join(lines)


def _rank(active: ActiveBinding, screen: Screen[object]) -> int:
    """What this screen does, what can be done where the cursor is, what is always there, and how one moves."""
    if active.node is screen and active.binding.action not in _MOVES:
        return 0
    if active.node is screen.app:
        return 2
    return 1 if active.binding.show else 3


_MOVES = {binding.action for binding in Binding.make_bindings(Screen.BINDINGS)}
