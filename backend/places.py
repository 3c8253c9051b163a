"""What this computer remembers between starts: places with runs, and preferences. Never a secret."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from llama_tui.backend.place import Place, SchedulerChoice, SshWay

if TYPE_CHECKING:
    from llama_tui.backend.settings import Settings


KEPT = 20
_PREFERENCES = "preferences.json"


def state_directory() -> Path:
    """Where it is kept: ~/.local/state/llama-tui on Linux."""
    return Path(platformdirs.user_state_dir("llama-tui", appauthor=False))


def place_of(settings: Settings) -> Place:
    """Where a run with these settings goes."""
    where = settings.where
    return Place(
        settings.paths.workspace, where.host, where.python, where.scheduler, where.as_user, where.ssh
    )


def remembered() -> list[Place]:
    """Places used before, the last used first; what cannot be read is left out."""
    try:
        entries = json.loads((state_directory() / "places.json").read_text(encoding="utf-8"))
        return [_place(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _place(entry: dict[str, Any]) -> Place:
    return Place(
        workspace=str(entry["workspace"]),
        host=str(entry["host"]),
        python=str(entry["python"]),
        scheduler=SchedulerChoice(entry.get("scheduler", "auto")),
        as_user=str(entry.get("as_user", "")),
        ssh=SshWay(entry.get("ssh", "own")),
    )


def remember(place: Place) -> None:
    """Puts a place first."""
    places = [place, *(one for one in remembered() if one != place)][:KEPT]
    write_state("places.json", json.dumps([asdict(one) for one in places], indent=2))


def preference(name: str) -> str | None:
    """What a person prefers, such as the theme; None where nothing was chosen, or it cannot be read."""
    value = read_state(_PREFERENCES).get(name)
    return value if isinstance(value, str) else None


def save_preference(name: str, value: str) -> None:
    """Keeps it for the next start."""
    write_state(_PREFERENCES, json.dumps({**read_state(_PREFERENCES), name: value}, indent=2))


def read_state(name: str) -> dict[str, Any]:
    """What a JSON file of the state directory holds; nothing where it is not there, or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((state_directory() / name).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def write_state(name: str, text: str) -> None:
    """Replaces a file of the state directory in one step; where that cannot be written, only the memory is lost."""
    folder = state_directory()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(folder / name)
