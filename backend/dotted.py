"""Answers by dotted field name, such as lora.r, in settings as plain data."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel


def get_answer(data: dict[str, Any], field: str) -> Any:
    """The answer of a field. Raises KeyError where there is no such field."""
    value: Any = data
    for part in field.split("."):
        value = value[part]
    return value


def put_answer(data: dict[str, Any], field: str, value: Any) -> None:
    """Replaces the answer of a field; sections that are not there are made, for the settings' rules to refuse."""
    *sections, name = field.split(".")
    for section in sections:
        below = data.setdefault(section, {})
        if not isinstance(below, dict):
            below = data[section] = {}
        data = below
    data[name] = value


@cache
def field_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The dotted names of all fields, in their order; a section is no field itself."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        below = info.annotation
        if isinstance(below, type) and issubclass(below, BaseModel):
            names += [f"{name}.{inner}" for inner in field_names(below)]
        else:
            names.append(name)
    return tuple(names)
