"""What is wrong with settings, field by field, in words for a person."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from llama_tui.backend.errors import UserError

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


class SettingsError(UserError):
    """Settings that cannot be used.

    Attributes:
        problems: for each dotted field name what is wrong with it, in words.
    """

    title = "Settings to mend"

    def __init__(self, problems: dict[str, str], where: str = "") -> None:
        self.problems = problems
        lines = [f"{field}: {words}" if field else words for field, words in problems.items()]
        super().__init__((f"{where}: " if where else "") + "; ".join(lines))


def token_in(data: Any) -> str | None:
    """The dotted field whose text looks like a Hugging Face token; None where there is none."""
    return next((field for field, text in _strings(data) if _TOKEN.search(text)), None)


def _strings(value: Any, field: str = "") -> list[tuple[str, str]]:
    if isinstance(value, str):
        return [(field, value)]
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _strings(item, f"{field}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [pair for item in value for pair in _strings(item, field)]
    return []


_WORDS = {
    "missing": "is needed",
    "extra_forbidden": "is not a setting that llama-tui knows",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "model_type": "must be a section",
    "string_too_short": "is needed",
}


def problems_of(error: ValidationError) -> dict[str, str]:
    """Pydantic's findings as {dotted field: words for a person}."""
    problems: dict[str, str] = {}
    for finding in error.errors():
        field = ".".join(str(part) for part in finding["loc"] if not isinstance(part, int))
        words = _WORDS.get(finding["type"]) or finding["msg"].removeprefix("Value error, ")
        named = re.match(r"([a-z_]+(?:\.[a-z_]+)?): ", words)
        if finding["type"] == "value_error" and not finding["loc"] and named:
            field, words = named[1], words[named.end() :]
        elif finding["type"] == "value_error" and len(finding["loc"]) == 1:
            inner = words.split(" ", 1)
            if inner[0].isidentifier() and inner[0].islower() and len(inner) == 2:
                field, words = f"{field}.{inner[0]}", inner[1]
        problems.setdefault(field, words[:1].lower() + words[1:])
    return problems
