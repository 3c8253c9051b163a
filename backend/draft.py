"""The wizard's answers between starts, so that an interrupted one goes on where it was. Never a secret."""

from __future__ import annotations

import contextlib
import json

from llama_tui.backend.places import state_directory, write_state
from llama_tui.backend.settings import Settings, SettingsError
from llama_tui.backend.settings_file import from_toml, to_toml


def save_draft(settings: Settings, step: str = "", field: str = "") -> None:
    """Keeps the wizard's answers, and its step and field, so that an interrupted one goes on where it was."""
    write_state("draft.toml", to_toml(settings))
    write_state("draft-at.json", json.dumps({"step": step, "field": field}))


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
