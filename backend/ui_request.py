"""What the command line asks the screen for. Light, since the first frame waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama_tui.backend.place import Place
    from llama_tui.backend.settings import Settings


@dataclass(frozen=True)
class UiRequest:
    """What the screen should open with.

    Attributes:
        settings: the wizard's first answers; None for the last ones, or the defaults.
        place: where to look for runs; None for the places used before.
        review: go straight to the wizard's last step, one key from launch.
        run_id: open this run's monitor.
    """

    settings: Settings | None = None
    place: Place | None = None
    review: bool = False
    run_id: str = ""


OpenUi = Callable[[UiRequest], None]
