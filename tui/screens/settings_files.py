"""Saving the wizard's answers to a file, and taking them from one: questions and messages on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App

from llama_tui.backend.settings import Settings, SettingsError
from llama_tui.backend.settings_file import load, to_toml
from llama_tui.tui.background import in_background
from llama_tui.tui.screens.dialogs import Ask, Reading
from llama_tui.tui.screens.saving import save_text


async def save_settings(app: App[Any], settings: Settings) -> None:
    """Writes the answers to a file that is asked for, to be launched later or by `llama-tui run`."""
    path = await save_text(app, "Save the settings as", f"{settings.name}.toml", lambda: to_toml(settings))
    if path is not None:
        app.notify(f"Saved. `llama-tui run {path} --wait` launches it.", markup=False)


async def open_settings(app: App[Any]) -> Settings | None:
    """The answers of a file that is asked for; None where none was named, or it cannot be used, which is told."""
    name = await app.push_screen_wait(Ask("Open the settings in", placeholder="my.toml"))
    if not name:
        return None
    path = Path(name).expanduser()
    try:
        return await in_background(lambda: load(path))
    except SettingsError as error:
        app.push_screen(Reading(error.title, error.message.replace("; ", "\n")))
        return None
