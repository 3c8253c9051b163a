"""The wizard's answers between starts, so that an interrupted one goes on where it was. Never a secret."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from llama_tui.backend.places import read_state, state_directory, write_state
from llama_tui.backend.settings import Settings, SettingsError
from llama_tui.backend.settings_file import from_toml, to_toml


def save_draft(
    settings: Settings, step: str = "", field: str = "", typed: Mapping[str, Any] | None = None
) -> None:
    """Keeps the wizard's answers, and its step and field, so that an interrupted one goes on where it was.

    Args:
        typed: answers that settings cannot hold, since they are wrong: {dotted field: as it was typed}.
    """
    write_state("draft.toml", to_toml(settings))
    write_state("draft-at.json", json.dumps({"step": step, "field": field, "typed": typed or {}}))


def load_draft() -> Settings | None:
    """The answers of an interrupted wizard; None when there are none that can be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError, SettingsError):
        return from_toml((state_directory() / "draft.toml").read_text(encoding="utf-8"))
    return None


def draft_at() -> tuple[str, str]:
    """The step and the field where the wizard was interrupted; empty where that is not known."""
    found = read_state("draft-at.json")
    return str(found.get("step", "")), str(found.get("field", ""))


def draft_typed() -> dict[str, Any]:
    """The answers of an interrupted wizard that were wrong, as they were typed: nothing is known of what they hold."""
    typed = read_state("draft-at.json").get("typed")
    return typed if isinstance(typed, dict) else {}


def forget_draft() -> None:
    """After launch."""
    for name in ("draft.toml", "draft-at.json"):
        with contextlib.suppress(OSError):
            (state_directory() / name).unlink()
