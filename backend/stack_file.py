"""The pinned software of a stack, read from templates/stacks/."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from llama_tui.backend.settings import Stack


@dataclass(frozen=True)
class StackFile:
    """A stack: its pins, and all of its file as it is put on the host (JSON: Python 3.8 there reads no TOML)."""

    name: str
    requirements: tuple[str, ...]
    as_json: str

    @property
    def pins_hash(self) -> str:
        """12 hex digits that name the environment; create_env computes the same."""
        pins = "\n".join([self.name, *sorted(self.requirements)])
        return hashlib.sha256(pins.encode()).hexdigest()[:12]


def load_stack(stack: Stack) -> StackFile:
    """The stack's file, as shipped."""
    text = files("llama_tui.templates").joinpath(f"stacks/{stack}.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return StackFile(data["name"], tuple(data["requirements"]), json.dumps(data, indent=2) + "\n")
