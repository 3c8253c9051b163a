"""What may come over the agent's wire: whole lines of bounded length, and answers of the shape that ours has.

The other end is a machine that somebody else may have broken into, or another program behind the same command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

# The longest answer: two outputs of 4 MiB, each byte at worst written as \udcXX.
LINE_LIMIT = 64 * 1024 * 1024

Message = dict[str, Any]
_Check = Callable[[Any], bool]


class Nonsense(Exception):
    """Something that our agent never says; the text says what, without quoting it."""


class Lines:
    """Cuts a stream into lines, in time and memory that grow with its length and no faster."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`. Raises Nonsense for one that is longer than LINE_LIMIT bytes."""
        first, *others = data.split(b"\n")
        self._parts.append(first)
        self._size += len(first)
        if self._size > LINE_LIMIT:
            raise Nonsense(f"a line of more than {LINE_LIMIT >> 20} MiB")
        if not others:
            return []
        lines = [b"".join(self._parts), *others[:-1]]
        self._parts, self._size = [others[-1]], len(others[-1])
        return lines


def message_in(line: bytes) -> Message | None:
    """The message in a line; None where it is no JSON. Raises Nonsense for JSON that is no message."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    except RecursionError:
        raise Nonsense("data nested too deeply") from None
    if not isinstance(message, dict):
        raise Nonsense("JSON that is no message")
    for name in ("id", "sub"):
        if name in message and type(message[name]) is not int:
            raise Nonsense(f"a message whose {name} is no number")
    return message


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 63


def _number(value: Any) -> bool:
    return _count(value) or (isinstance(value, float) and math.isfinite(value))


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _maybe(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


def _all_of(check: _Check) -> _Check:
    """A dictionary from text to such values."""
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _shaped(shape: dict[str, _Check]) -> _Check:
    return lambda value: isinstance(value, dict) and not _wrong(value, shape)


def _list_of(check: _Check) -> _Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _wrong(value: Message, shape: dict[str, _Check]) -> str:
    """The first field that is missing or of another type; empty where all is well."""
    return next((name for name, check in shape.items() if name not in value or not check(value[name])), "")


_ENTRY: dict[str, _Check] = {"name": _text, "dir": _flag, "size": _count, "mtime": _number}
_COMMAND: dict[str, _Check] = {"exit": _count, "stdout": _text, "stderr": _text}
_ANSWERS: dict[str, dict[str, _Check]] = {
    "run": _COMMAND,
    "read": {"text": _text, "start": _count, "size": _count, "inode": _count, "mtime": _number},
    "collect": {"files": _all_of(_text)},
    "rest": {"resting": _flag},
    "list": {"entries": _list_of(_shaped(_ENTRY))},
    "disk": {
        "exists": _flag,
        "place": _text,
        "free": _count,
        "total": _count,
        "writable": _flag,
        "mount": _text,
        "kind": _text,
    },
}
_FOLLOWED: dict[str, _Check] = {
    "text": _text,
    "start": _count,
    "offset": _count,
    "inode": _maybe(_count),
    "size": _count,
    "reset": _flag,
}
# Each is there or not.
_WATCHED: dict[str, _Check] = {
    "queue": _shaped({**_COMMAND, "exit": _maybe(_count)}),
    "files": _all_of(_maybe(_text)),
    "asked": _number,
    "number": _count,
}
_GREETING: dict[str, _Check] = {
    **dict.fromkeys(("user", "home", "host", "python"), _text),
    **dict.fromkeys(("protocol", "uid", "pid"), _count),
    "time": _number,
}
_ERROR: dict[str, _Check] = {"kind": _text, "message": _text}


def _checked(what: str, value: Any, shape: dict[str, _Check]) -> Message:
    if not isinstance(value, dict):
        raise Nonsense(f"{what} that is no object")
    wrong = _wrong(value, shape)
    if wrong:
        raise Nonsense(f"{what} whose {wrong} is missing or of another type")
    return value


def checked_answer(op: str, value: Any) -> Message:
    """The answer to a request. Raises Nonsense."""
    return _checked(f"an answer to {op}", value, _ANSWERS.get(op, {}))


def checked_error(value: Any) -> Message:
    """A refusal. Raises Nonsense."""
    return _checked("a refusal", value, _ERROR)


def checked_event(op: str, value: Any) -> Message:
    """What a `follow` or a `watch` pushes. Raises Nonsense."""
    if op == "follow":
        return _checked("a piece of a file", value, _FOLLOWED)
    given = _checked("a change", value, {})
    return _checked("a change", given, {name: check for name, check in _WATCHED.items() if name in given})


def checked_greeting(value: Any) -> Message:
    """The agent's first words. Raises Nonsense."""
    return _checked("a greeting", value, _GREETING)
