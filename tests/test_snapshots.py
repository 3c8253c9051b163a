"""The screens as pictures, at three sizes, dark and light. After a change that is meant: pytest --snapshot-update."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from llama_tui.backend.place import Place
from tests.screens import SCENES, scene, settle
from tests.screenshots import FOLDER, PICTURES, picture

SIZES = [(80, 24), (120, 40), (200, 50)]
SHOWN = ["wizard", "runs", "monitor-running", "monitor-failed", "monitor-done", "comparison"]


@pytest.mark.parametrize("theme", ["llama-dark", "llama-light"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SHOWN)
def test_screen(
    name: str, size: tuple[int, int], theme: str, place: Place, snap_compare: Callable[..., bool]
) -> None:
    wanted = scene(name, place, theme)

    async def until_it_rests(pilot: Pilot[None]) -> None:
        await wanted.ready(pilot)
        await settle(pilot)

    assert snap_compare(wanted.app, terminal_size=size, run_before=until_it_rests)


def test_every_scene_is_looked_at() -> None:
    assert set(SCENES) == {*SHOWN, *PICTURES.values()}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_the_readme_are_up_to_date(name: str, place: Place) -> None:
    kept = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert kept == picture(place, name), "run: python -m tests.screenshots"


def test_pictures_show_nobodys_machine() -> None:
    """Recorded runs and pictures hold no path or name of the computer that they were made on."""
    files = [*FOLDER.glob("*.svg"), *(Path(__file__).parent / "fixtures/runs").rglob("*")]
    for file in files:
        if file.is_file():
            assert not re.search(r"/root|/tmp|/opt|/work", file.read_text(encoding="utf-8")), file
