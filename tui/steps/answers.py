"""The wizard's answers: what was given, what follows from it, and what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from typing import Any

from llama_tui.backend.dependent import Follower, followers, given_answers, loosely, of_stack
from llama_tui.backend.dotted import field_names, get_answer, put_answer
from llama_tui.backend.foresight import stoppers
from llama_tui.backend.settings import Settings, SettingsError, Stack, defaults, validated

OF_STACK = "Stack"


class Answers:
    """All of them together.

    Attributes:
        settings: the last answers that were right.
        loose: the same, with the layout that was typed even where it does not fit.
        problems: what is wrong with what was typed, {dotted field: words}.
        given: the fields that somebody answered.
        followed: the fields that follow from others, where they are not as usual.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loose = settings
        self.problems: dict[str, str] = {}
        self.given = given_answers(settings)
        self.followed: dict[str, Follower] = {}
        self._data = settings.model_dump(mode="json")
        self._first = self._data
        self._mark(self._followers(self._data))

    def take(self, typed: Mapping[str, Any], given: Set[str]) -> None:
        """Takes what the fields show.

        Args:
            typed: {dotted field: answer}; of the others the last answers count.
            given: those of them that a person changed.
        """
        self.given |= given
        data = self.settings.model_dump(mode="json")
        for path, answer in typed.items():
            put_answer(data, path, answer)
        stack = Stack(get_answer(data, "stack"))
        if stack is not self.settings.stack:
            for path, answer in of_stack(stack, self.given).items():
                put_answer(data, path, answer)
        mended = self._mended(data)
        found = self._followers(mended)
        for path, follower in found.items():
            put_answer(data, path, follower.value)
            put_answer(mended, path, follower.value)
        self._data = data
        self._check(data, mended)
        self._mark(found)

    def shown(self, path: str) -> Any:
        """The answer to show in a field: as it was typed, or what follows."""
        return get_answer(self._data, path)

    def _check(self, data: dict[str, Any], mended: dict[str, Any]) -> None:
        try:
            self.settings = validated(data)
            self.loose = self.settings
            self.problems = stoppers(self.settings)
            return
        except SettingsError as error:
            self.problems = dict(error.problems)
        try:
            self.loose = loosely(mended)
            self.settings = validated(mended)
        except SettingsError:
            # The answers only fit together as they were before.
            return

    def _mended(self, data: dict[str, Any]) -> dict[str, Any]:
        """The answers with the last right one, or the stack's own, in place of each that is wrong."""
        mended = copy.deepcopy(data)
        stack = Stack(get_answer(data, "stack"))
        for right in (self.settings, defaults(stack)):
            try:
                loosely(mended)
                break
            except SettingsError as error:
                for path in set(error.problems) & set(field_names(Settings)):
                    put_answer(mended, path, get_answer(right.model_dump(mode="json"), path))
        return mended

    def _followers(self, data: dict[str, Any]) -> dict[str, Follower]:
        try:
            return followers(data, self.given)
        except SettingsError:
            return {}

    def _mark(self, found: Mapping[str, Follower]) -> None:
        """Says so where a person would wonder: an answer is not the usual one, or another than when he came."""
        usual = defaults(self.settings.stack).model_dump(mode="json")
        marked = {path: one for path, one in found.items() if one.value != get_answer(usual, path)}
        if self.settings.stack.value != get_answer(self._first, "stack"):
            why = f"The {self.settings.stack} stack's default."
            for path, answer in of_stack(self.settings.stack, self.given).items():
                # A field's answer is text, a default may be a number.
                now, before = str(get_answer(self._data, path)), str(get_answer(self._first, path))
                if str(answer) == now != before:
                    marked.setdefault(path, Follower(answer, OF_STACK, why))
        self.followed = marked
