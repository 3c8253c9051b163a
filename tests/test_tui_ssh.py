"""The screen and a host that asks: for a password, for a one-time code, or whether its key is the right one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Label, Static

from llama_tui.backend.hosts.ssh_ask import Prompt
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.runs import Run
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui import asking
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.background import in_background
from llama_tui.tui.screens.dialogs import Confirm, Secrets
from llama_tui.tui.screens.monitor import MonitorScreen
from tests.pilot import arrived, until
from tests.ssh.server import TwoQuestions
from tests.sshd import Sshd
from tests.tiny import tiny_run, tiny_settings, wait_until_runs

pytestmark = pytest.mark.ssh
QUESTIONS = [("Password: ", False), ("One-time code: ", True)]
RIGHT = ["the password", "123456"]


def write_config(home: Path, text: str) -> None:
    config = home / ".ssh/config"
    config.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_text(text)


@pytest.fixture
def asker(home: Path) -> Iterator[TwoQuestions]:
    """A server, `host` in ~/.ssh/config, that asks for a password and a code at once."""
    with TwoQuestions(QUESTIONS, RIGHT) as server:
        write_config(
            home,
            f"Host host\n HostName 127.0.0.1\n Port {server.port}\n User me\n StrictHostKeyChecking no\n"
            " IdentityAgent none\n UserKnownHostsFile /dev/null\n",
        )
        yield server


@pytest.fixture
def run(workspace: Path) -> Iterator[Run]:
    """A run on this machine whose training goes on; it is looked at over SSH."""
    site: Site = connect(Place(str(workspace), scheduler=SchedulerChoice.DIRECT))
    made = tiny_run(site, workspace, finetune="wait")
    made.submit()
    wait_until_runs(made, Stage.FINETUNE)
    yield made
    made.cancel()
    site.close()


def settings_for(workspace: Path) -> Settings:
    data = tiny_settings(workspace).model_dump(mode="json")
    data["where"] |= {"host": "host", "python": sys.executable, "scheduler": "direct"}
    return Settings.model_validate(data)


def place_of(run: Run) -> Place:
    return Place(run.site.place.workspace, "host", sys.executable, SchedulerChoice.DIRECT)


def text_of(app: LlamaTui, selector: str) -> str:
    found = app.screen.query(selector).results(Static)
    return next((str(one.content) for one in found), "")


def dialog_text(app: LlamaTui) -> str:
    return "\n".join(str(one.content) for one in app.screen.query(Static).results(Static))


async def answer(pilot: Pilot[None], app: LlamaTui, *answers: str) -> None:
    """Types what a Secrets dialog asks for, by keyboard alone."""
    await arrived(pilot, Secrets)
    for word in answers:
        await until(pilot, lambda: isinstance(app.focused, Input), "a field with the cursor")
        assert isinstance(app.focused, Input)
        await pilot.press(*("space" if letter == " " else letter for letter in word), "enter")


class TestPassword:
    async def test_the_connection_test_asks_masks_and_goes_on(
        self, asker: TwoQuestions, workspace: Path
    ) -> None:
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await pilot.press("ctrl+t")
            await arrived(pilot, Secrets)
            assert "Two factors" in dialog_text(app)
            fields = list(app.screen.query(Input))
            assert [field.password for field in fields] == [True, False]
            await answer(pilot, app, "wrong", "000000")
            await until(pilot, lambda: asker.heard == [["wrong", "000000"]])
            await until(pilot, lambda: "that was not it" in dialog_text(app), "the second question")
            await answer(pilot, app, *RIGHT)
            await until(pilot, lambda: "GB free" in text_of(app, "#test-result"))
        saved = [path.read_bytes() for path in Path.home().rglob("*") if path.is_file()]
        assert not any(RIGHT[0].encode() in data for data in saved)

    async def test_escape_gives_up_and_says_so(self, asker: TwoQuestions, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await pilot.press("ctrl+t")
            await arrived(pilot, Secrets)
            await pilot.press("escape")
            await until(pilot, lambda: "cancelled" in text_of(app, "#test-result").lower())
        assert asker.heard == []

    async def test_a_lost_link_asks_again_and_the_key_for_now_asks_once_more(
        self, asker: TwoQuestions, run: Run
    ) -> None:
        app = LlamaTui(UiRequest(place=place_of(run), run_id=run.run_id))
        async with app.run_test(size=(100, 34)) as pilot:
            await answer(pilot, app, *RIGHT)
            await arrived(pilot, MonitorScreen)
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            asker.cut()
            await arrived(pilot, Secrets)
            await pilot.press("escape")
            await until(pilot, lambda: "x: try again" in text_of(app, "#link"), "the bar")
            # Nobody is asked twice without having asked for it.
            await pilot.pause(2.5)
            assert app.screen is screen
            await pilot.press("x")
            await answer(pilot, app, *RIGHT)
            await until(pilot, lambda: not screen.query_one("#link").display, "the link's return")
        assert asker.heard == [RIGHT, RIGHT]

    async def test_a_question_that_nobody_answers_is_taken_back(
        self, asker: TwoQuestions, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(asking, "PATIENCE", 0.5)
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            wizard, shown, push = app.screen, list[object](), app.push_screen
            # It may be gone again before anybody looks.
            monkeypatch.setattr(app, "push_screen", lambda one, *more: shown.append(one) or push(one, *more))
            await pilot.press("ctrl+t")
            await until(pilot, lambda: bool(shown), "the dialog")
            await until(pilot, lambda: app.screen is wizard, "the dialog's end")
            await until(pilot, lambda: "cancelled" in text_of(app, "#test-result").lower())
        assert asker.heard == []

    async def test_leaving_the_program_leaves_the_question(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        ask = asking.ScreenAsk(app, app.opened)
        async with app.run_test(size=(100, 34)) as pilot:
            asked = asyncio.ensure_future(in_background(lambda: ask.secret("Password", [Prompt("Password")])))
            await arrived(pilot, Secrets)
        assert await asyncio.wait_for(asked, 60) is None

    async def test_a_run_left_while_it_connects_leaves_nothing_behind(
        self, asker: TwoQuestions, run: Run
    ) -> None:
        app = LlamaTui(UiRequest(place=place_of(run), run_id=run.run_id))
        async with app.run_test(size=(100, 34)) as pilot:
            await arrived(pilot, Secrets)
            monitor = app.screen_stack[-2]
            assert isinstance(monitor, MonitorScreen)
            monitor.live.close()
            await answer(pilot, app, *RIGHT)
            await until(pilot, lambda: asker.heard == [RIGHT])
            await until(pilot, lambda: bool(asker.commands), "the agent")
            await until(pilot, lambda: asker.commands[0].poll() is not None, "the agent's end")


class TestHostKey:
    @pytest.fixture
    def unknown(self, sshd: Sshd, home: Path, tmp_path: Path) -> Path:
        """~/.ssh/config with `host`, whose key is not known; gives its known_hosts."""
        known = tmp_path / "known_hosts"
        text = sshd.client_config("host").read_text()
        write_config(
            home,
            text.replace(str(sshd.known_hosts), str(known)).replace(
                "StrictHostKeyChecking yes", "StrictHostKeyChecking ask"
            ),
        )
        return known

    async def test_shown_trusted_and_kept(self, unknown: Path, workspace: Path, sshd: Sshd) -> None:
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await pilot.press("ctrl+t")
            await arrived(pilot, Confirm)
            shown = dialog_text(app)
            assert "SHA256:" in shown
            assert str(unknown) in shown
            assert str(app.screen.query_one(".dialog-title", Label).content).startswith("Trust ")
            await pilot.press("y")
            await until(pilot, lambda: "GB free" in text_of(app, "#test-result"))
        assert sshd.host_key.with_suffix(".pub").read_text().split()[1] in unknown.read_text()

    async def test_refused_nothing_is_kept(self, unknown: Path, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await pilot.press("ctrl+t")
            await arrived(pilot, Confirm)
            await pilot.press("escape")
            await until(pilot, lambda: text_of(app, "#test-result").startswith("✗"))
        assert not unknown.exists()

    async def test_changed_it_is_refused_with_both_fingerprints(
        self, unknown: Path, workspace: Path, sshd: Sshd
    ) -> None:
        other = sshd.key.with_suffix(".pub").read_text().split()
        unknown.write_text(f"[127.0.0.1]:{sshd.port} {other[0]} {other[1]}\n")
        app = LlamaTui(UiRequest(settings=settings_for(workspace)))
        async with app.run_test(size=(100, 34)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await pilot.press("ctrl+t")
            await until(pilot, lambda: text_of(app, "#test-result").startswith("✗"))
            assert text_of(app, "#test-result").count("SHA256:") == 2
        assert unknown.read_text().count("\n") == 1
