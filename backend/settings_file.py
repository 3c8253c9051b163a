"""Settings as TOML, with each field's help as a comment."""

from __future__ import annotations

import re
import tomllib
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from llama_tui.backend.settings import Section, Settings, SettingsError, validated

MOST_BYTES = 4 * 1024 * 1024
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
# tomllib takes time and memory that grow with the square of a dotted name's length; ours have two parts.
_LONG_NAME = re.compile(rf"(?:^|[{{\[,])[ \t]*+(?:{_PART}[ \t]*+\.[ \t]*+){{32}}", re.MULTILINE)


def to_toml(settings: Settings) -> str:
    """The settings as commented TOML; `from_toml` of it gives an equal object."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("Settings of a llama-tui run. They hold no secret."))
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if not isinstance(value, Section):
            _add(document, name, value, field)
    for name in Settings.model_fields:
        section = getattr(settings, name)
        if not isinstance(section, Section):
            continue
        table = tomlkit.table()
        for key, field in type(section).model_fields.items():
            _add(table, key, getattr(section, key), field)
        document.add(tomlkit.nl())
        document.add(name, table)
    return tomlkit.dumps(document)


def _add(container: Any, name: str, value: Any, field: FieldInfo) -> None:
    import tomlkit

    if field.description:
        container.add(tomlkit.comment(field.description))
    container.add(name, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def from_toml(text: str, where: str = "settings") -> Settings:
    """Settings from TOML text.

    Args:
        where: the file's name, for the message.

    Raises:
        SettingsError: not TOML, or fields that are wrong.
    """
    if len(text) > MOST_BYTES:
        raise SettingsError({"": f"is longer than {MOST_BYTES >> 20} MiB: no settings are"}, where)
    try:
        if _LONG_NAME.search(text):
            raise RecursionError("tomllib would not come back")
        return validated(tomllib.loads(text), where)
    except RecursionError:
        raise SettingsError({"": "is nested too deeply to be settings"}, where) from None
    except ValueError as error:
        raise SettingsError({"": f"this is not TOML: {error}"}, where) from None


def load(path: Path) -> Settings:
    """Settings from a file.

    Raises:
        SettingsError: the file cannot be read, or fields are wrong.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError({"": f"cannot be read: {error.strerror or error}"}, str(path)) from None
    except UnicodeDecodeError:
        raise SettingsError({"": "is not UTF-8 text"}, str(path)) from None
    return from_toml(text, str(path))
