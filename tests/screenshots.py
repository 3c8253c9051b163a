"""`python -m tests.screenshots` writes the pictures of the README: docs/screenshots/*.svg, from recorded runs."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path

import pytest

from llama_tui.backend.place import Place
from tests.screens import Scene, leave, prepare, scene, settle

FOLDER = Path(__file__).parent.parent / "docs/screenshots"
# Each with its scene and its size in characters: the wide ones show all panes at once.
PICTURES = {
    "wizard": "wizard-lora",
    "monitor": "monitor-running",
    "failure": "monitor-failed",
    "comparison": "comparison",
}
SIZES = {"wizard": (110, 30), "monitor": (170, 42), "failure": (120, 32), "comparison": (120, 32)}


def picture(place: Place, name: str) -> str:
    """One of PICTURES as SVG."""
    return asyncio.run(_draw(scene(PICTURES[name], place), SIZES[name]))


async def _draw(wanted: Scene, size: tuple[int, int]) -> str:
    async with wanted.app.run_test(size=size) as pilot:
        await wanted.ready(pilot)
        await settle(pilot)
        svg = wanted.app.export_screenshot(title="llama-tui", simplify=True)
    # Rich numbers what it draws by chance.
    return re.sub(r"\bterminal-\d+-", "terminal-", svg)


def main() -> None:
    """Draws them all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="llama-tui-screens-"))
    with pytest.MonkeyPatch.context() as patch:
        place = prepare(patch, home)
        for name in PICTURES:
            file = FOLDER / f"{name}.svg"
            file.write_text(picture(place, name), encoding="utf-8")
            print(file)
    leave(home)


if __name__ == "__main__":
    main()
