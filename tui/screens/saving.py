"""Saving a text on this computer, under a name that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.app import App

from llama_tui.tui.background import in_background
from llama_tui.tui.screens.dialogs import Ask, Confirm


async def save_text(app: App[Any], title: str, name: str, make: Callable[[], str]) -> Path | None:
    """Asks for a file and writes it; gives its path.

    Args:
        name: the file's name that is offered.
        make: gives the text; called in the background, once a name was given.

    Returns:
        None where no name was given, a file that is there is to stay, or the file cannot be written, which is told.
    """
    words = f"On this computer; a name alone is in {Path.cwd()}."
    given = await app.push_screen_wait(Ask(title, name, words=words, go="Save"))
    if not given:
        return None
    path = Path(given).expanduser()
    if await in_background(path.is_file) and not await app.push_screen_wait(_replaces(path)):
        return None
    try:
        await in_background(lambda: path.write_text(make(), encoding="utf-8"))
    except OSError as error:
        app.notify(f"{path} cannot be written: {error.strerror}", severity="error", markup=False)
        return None
    return path


def _replaces(path: Path) -> Confirm:
    return Confirm(
        "Replace this file?", f"{path} is there already. What it holds would be lost.", "Replace it"
    )
