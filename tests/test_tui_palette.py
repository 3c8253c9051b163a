"""The command palette: what our screens can do, in plain words, with keys as people write them."""

from __future__ import annotations

from functools import partial

import pytest

from llama_tui.backend.place import Place
from tests.pilot import Keyboard
from tests.screens import at_scene

at = partial(at_scene, Keyboard)


def commands(keyboard: Keyboard) -> dict[str, str]:
    """What the palette offers: title and further words."""
    return {one.title: one.help for one in keyboard.app.get_system_commands(keyboard.app.screen)}


@pytest.mark.parametrize("name", ["runs", "wizard", "monitor-failed", "comparison"])
async def test_no_command_is_told_in_the_program_s_own_words(name: str, place: Place) -> None:
    async with at(name, place) as keyboard:
        found = commands(keyboard)
        assert "Keys (? f1)" in found or "Keys (f1)" in found
        for title, words in found.items():
            assert "_" not in title + words, title
            assert "('" not in title + words, title


async def test_keys_as_people_write_them(place: Place) -> None:
    async with at("monitor-failed", place) as keyboard:
        assert {"Attempt before ([)", "Attempt after (])", "Find (/)", "Runs (esc)"} <= set(
            commands(keyboard)
        )
    async with at("comparison", place) as keyboard:
        found = commands(keyboard)
        assert found["Next (n)"] == "The next prompt"
        assert "Back (esc o)" in found


async def test_how_one_edits_a_field_or_moves_is_no_command(place: Place) -> None:
    async with at("wizard", place) as keyboard:
        titles = " ".join(commands(keyboard)).lower()
        assert "next step (^n f8)" in titles
        for words in ("delete", "cursor", "paste", "scroll", "focus"):
            assert words not in titles.replace("maximize the focused", "")


async def test_quitting_is_one_command(place: Place) -> None:
    async with at("monitor-failed", place) as keyboard:
        assert [title for title in commands(keyboard) if "quit" in title.lower()] == ["Quit"]


async def test_a_command_does_what_its_key_does(place: Place) -> None:
    async with at("monitor-failed", place) as keyboard:
        await keyboard.press("ctrl+p")
        await keyboard.types("zoom")
        await keyboard.sees("Zoom the pane (z)")
        await keyboard.press("enter")
        await keyboard.sees("end zoom")
