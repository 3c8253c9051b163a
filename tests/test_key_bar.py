"""The line of keys: what fits is shown, what is shown can be clicked."""

from typing import ClassVar

import pytest
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from llama_tui.tui.widgets.key_bar import KeyBar
from tests.pilot import click, painted, until


class Harbour(Screen[None]):
    """A screen with three keys, one of which does nothing now."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "note('anchor')", "Weigh anchor"),
        Binding("s", "note('sail')", "Set sail"),
        Binding("d", "dive", "Dive"),
        Binding("z", "note('hidden')", "Hidden", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield KeyBar()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return None if action == "dive" else super().check_action(action, parameters)

    def action_note(self, word: str) -> None:
        self.title = word


class Ship(App[None]):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("f1", "help", "Keys")]

    def on_mount(self) -> None:
        self.push_screen(Harbour())


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, " a Weigh anchor  s Set sail  d Dive                         f1 Keys  ^p palette "),
        (60, " a Weigh anchor  s Set sail  d Dive     f1 Keys  ^p palette "),
        (55, "a Weigh anchor s Set sail d Dive    f1 Keys ^p palette "),
        (40, "a Weigh anchor       f1 Keys ^p palette "),
    ],
)
async def test_the_app_s_own_keys_are_there_at_any_width(width: int, line: str) -> None:
    app = Ship()
    async with app.run_test(size=(width, 10)) as pilot:
        await until(pilot, lambda: painted(app).splitlines()[-1].rstrip() == line.rstrip(), line)


async def test_a_click_presses_the_key() -> None:
    app = Ship()
    async with app.run_test(size=(80, 10)) as pilot:
        await until(pilot, lambda: "Set sail" in painted(app))
        await click(pilot, KeyBar, offset=(20, 0))
        await until(pilot, lambda: app.screen.title == "sail")


async def test_what_does_nothing_now_is_dim() -> None:
    app = Ship()
    async with app.run_test(size=(80, 10)) as pilot:
        await until(pilot, lambda: "Dive" in painted(app))
        bar = app.screen.query_one(KeyBar)
        dim = [part.text for part in bar.render_line(0) if part.style and part.style.dim]
        assert "".join(dim).strip() == "d Dive"
