"""What this computer remembers between starts: places with runs, an unfinished wizard, preferences. Never a secret."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs

from llama_tui.backend.settings import SchedulerChoice, Settings, SettingsError, SshWay
from llama_tui.backend.settings_file import from_toml, to_toml
from llama_tui.backend.site import Place

KEPT = 20


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
    _write("places.json", json.dumps([asdict(one) for one in places], indent=2))


def save_draft(settings: Settings, step: str = "", field: str = "") -> None:
    """Keeps the wizard's answers, and its step and field, so that an interrupted one goes on where it was."""
    _write("draft.toml", to_toml(settings))
    _write("draft-at.json", json.dumps({"step": step, "field": field}))


def load_draft() -> Settings | None:
    """The answers of an interrupted wizard; None when there are none that can be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError, SettingsError):
        return from_toml((state_directory() / "draft.toml").read_text(encoding="utf-8"))
    return None


def draft_at() -> tuple[str, str]:
    """The step and the field where the wizard was interrupted; empty where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((state_directory() / "draft-at.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return str(found.get("step", "")), str(found.get("field", ""))
    return "", ""


def forget_draft() -> None:
    """After launch."""
    for name in ("draft.toml", "draft-at.json"):
        with contextlib.suppress(OSError):
            (state_directory() / name).unlink()


def preference(name: str) -> str | None:
    """What a person prefers, such as the theme; None where nothing was chosen, or it cannot be read."""
    value = _preferences().get(name)
    return value if isinstance(value, str) else None


def save_preference(name: str, value: str) -> None:
    """Keeps it for the next start."""
    _write("preferences.json", json.dumps({**_preferences(), name: value}, indent=2))


def _preferences() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((state_directory() / "preferences.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _write(name: str, text: str) -> None:
    """Replaces a file in one step. A home directory that cannot be written only loses the memory of places."""
    folder = state_directory()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(folder / name)
