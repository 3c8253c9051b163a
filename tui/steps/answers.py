"""The wizard's answers: what was given, what follows from it, and what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import Any

from llama_tui.backend.dependent import (
    Follower,
    followers,
    given_answers,
    loosely,
    of_stack,
    usual_settings,
)
from llama_tui.backend.dotted import field_names, get_answer, put_answer
from llama_tui.backend.foresight import stoppers
from llama_tui.backend.settings import Settings, SettingsError, Stack, validated
from llama_tui.backend.settings_problems import token_in

OF_STACK = "Stack"


class Answers:
    """All of them together.

    Args:
        settings: what they are at first.
        typed: what was typed in place of some of them, right or wrong, {dotted field: answer}; what can be no answer is
            left out.

    Attributes:
        settings: the last answers that were right.
        loose: the same, with the layout that was typed even where it does not fit.
        problems: what is wrong with what was typed, {dotted field: words}.
        given: the fields that somebody answered.
        followed: the fields that follow from others, where they are not as usual.
    """

    def __init__(self, settings: Settings, typed: Mapping[str, Any] | None = None) -> None:
        self.settings = settings
        self.loose = settings
        self.problems: dict[str, str] = {}
        self._first = settings.model_dump(mode="json")
        self._typed = {
            path: one for path, one in (typed or {}).items() if _can_answer(self._first, path, one)
        }
        self.given = given_answers(settings) | set(self._typed)
        self.followed: dict[str, Follower] = {}
        self._data = settings.model_dump(mode="json")
        self._mark(self._followers(self._data, settings))
        for path, answer in self._typed.items():
            put_answer(self._data, path, answer)
        self._judged = False

    def take(self, typed: Mapping[str, Any], given: Set[str]) -> None:
        """Takes what the fields show; where that is what they showed before, nothing is judged again.

        Args:
            typed: {dotted field: answer}; of the others the last answers count.
            given: those of them that a person changed.
        """
        known = all(_as_text(self.shown(path)) == _as_text(answer) for path, answer in typed.items())
        if self._judged and known and given <= self.given:
            return
        self._judged = True
        self.given |= given
        self._typed |= typed
        data = self.settings.model_dump(mode="json")
        for path, answer in self._typed.items():
            put_answer(data, path, answer)
        stack = Stack(get_answer(data, "stack"))
        if stack is not self.settings.stack:
            for path, answer in of_stack(stack, self.given).items():
                put_answer(data, path, answer)
        self._judge(data)

    def shown(self, path: str) -> Any:
        """The answer to show in a field: as it was typed, or what follows."""
        return get_answer(self._data, path)

    @property
    def unkept(self) -> dict[str, Any]:
        """What was typed and is not in the settings, because it is wrong or does not fit. No token is among it."""
        kept = self.settings.model_dump(mode="json")
        return {
            path: self.shown(path)
            for path in field_names(Settings)
            if _as_text(self.shown(path)) != _as_text(get_answer(kept, path))
            and token_in({path: self.shown(path)}) is None
        }

    def _judge(self, data: dict[str, Any]) -> None:
        settings, problems = _checked(data)
        mended, loose = (data, settings) if settings is not None else self._mended(data)
        found = self._followers(mended, loose)
        changed = [_put(found, one) for one in (mended, data)]
        if any(changed):
            settings, problems = _checked(data)
            loose = _loosely(mended)
        self._data = data
        self.problems = problems if settings is None else stoppers(settings)
        # Where even the mended answers do not fit together, those before count.
        right = settings or _checked(mended)[0]
        self.loose = settings or loose or self.loose
        self.settings = right or self.settings
        self._mark(found)

    def _mended(self, data: dict[str, Any]) -> tuple[dict[str, Any], Settings | None]:
        """The answers with the last right one, or the stack's own, in place of each that is wrong."""
        mended = copy.deepcopy(data)
        stack = Stack(get_answer(data, "stack"))
        for right in (self.settings, usual_settings(stack)):
            try:
                return mended, loosely(mended)
            except SettingsError as error:
                for path in set(error.problems) & set(field_names(Settings)):
                    put_answer(mended, path, get_answer(right.model_dump(mode="json"), path))
        return mended, _loosely(mended)

    def _followers(self, data: dict[str, Any], settings: Settings | None) -> dict[str, Follower]:
        try:
            return followers(data, self.given, settings) if settings is not None else {}
        except SettingsError:
            return {}

    def _mark(self, found: Mapping[str, Follower]) -> None:
        """Says so where a person would wonder: an answer is not the usual one, or another than when he came."""
        usual = usual_settings(self.settings.stack).model_dump(mode="json")
        marked = {path: one for path, one in found.items() if one.value != get_answer(usual, path)}
        if self.settings.stack.value != get_answer(self._first, "stack"):
            why = f"The {self.settings.stack} stack's default."
            for path, answer in of_stack(self.settings.stack, self.given).items():
                # A field's answer is text, a default may be a number.
                now, before = str(get_answer(self._data, path)), str(get_answer(self._first, path))
                if str(answer) == now != before:
                    marked.setdefault(path, Follower(answer, OF_STACK, why))
        self.followed = marked


def _checked(data: dict[str, Any]) -> tuple[Settings | None, dict[str, str]]:
    try:
        return validated(data), {}
    except SettingsError as error:
        return None, dict(error.problems)


def _loosely(data: dict[str, Any]) -> Settings | None:
    try:
        return loosely(data)
    except SettingsError:
        return None


def _put(found: Mapping[str, Follower], data: dict[str, Any]) -> bool:
    """Puts what follows among the answers; whether one of them was another before."""
    changed = {
        path: one.value for path, one in found.items() if str(one.value) != str(get_answer(data, path))
    }
    for path, value in changed.items():
        put_answer(data, path, value)
    return bool(changed)


def _as_text(answer: Any) -> str | list[str]:
    """A field's answer is text, the settings' may be a number."""
    return [str(one) for one in answer] if isinstance(answer, list) else str(answer)


def _can_answer(data: dict[str, Any], path: str, answer: Any) -> bool:
    """Whether a field can show it: the stack is chosen, a list is a list of texts, and so on."""
    if path not in field_names(Settings) or (path == "stack" and answer not in list(Stack)):
        return False
    usual = get_answer(data, path)
    if isinstance(usual, list):
        return isinstance(answer, list) and all(isinstance(one, str) for one in answer)
    return isinstance(answer, bool if isinstance(usual, bool) else str)
