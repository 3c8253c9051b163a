"""The keys of a screen: its own first, then those of what the cursor is in."""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import ActiveBinding, Binding
from textual.dom import DOMNode
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


@dataclass(frozen=True)
class OwnAction:
    """Something that a screen or a widget of ours can do now.

    Attributes:
        more: what its few words leave out; may be empty.
        keys: as people write them.
    """

    words: str
    more: str
    keys: str
    action: str
    node: DOMNode


def own_actions(screen: Screen[object]) -> list[OwnAction]:
    """What the screen, the app, and that where the cursor is can do; not how one moves in Textual's own widgets."""
    found: dict[tuple[str, str], tuple[ActiveBinding, list[str]]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if binding.description and not binding.action.endswith("quit") and _is_ours(active):
            keys = found.setdefault((binding.action, binding.description), (active, []))[1]
            keys.append(screen.app.get_key_display(binding))
    return [
        OwnAction(words, active.tooltip, " ".join(dict.fromkeys(keys)), action, active.node)
        for (action, words), (active, keys) in found.items()
    ]


def _is_ours(active: ActiveBinding) -> bool:
    """Whether a class of ours declares it: Textual has a command of its own to quit, and what its widgets do is known."""
    given = active.binding.key, active.binding.action
    ours = (cls for cls in type(active.node).__mro__ if cls.__module__.startswith("llama_tui."))
    declared = (Binding.make_bindings(cls.__dict__.get("BINDINGS", ())) for cls in ours)
    return any(given == (one.key, one.action) for bindings in declared for one in bindings)


def _rank(active: ActiveBinding, screen: Screen[object]) -> int:
    """What this screen does, what can be done where the cursor is, what is always there, and how one moves."""
    if active.node is screen and active.binding.action not in _MOVES:
        return 0
    if active.node is screen.app:
        return 2
    return 1 if active.binding.show else 3


_MOVES = {binding.action for binding in Binding.make_bindings(Screen.BINDINGS)}
