"""How the app opens: a first frame at once, the screen behind it, and nothing lost between."""

import subprocess
import sys
import threading

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from llama_tui.backend import places
from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.site import Site
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from tests.pilot import painted, until


def test_the_first_frame_loads_nothing_but_textual() -> None:
    heavy = "{'pydantic', 'paramiko', 'jinja2', 'click', 'tomlkit', 'keyring', 'plotext'}"
    code = f"import llama_tui.tui.main, llama_tui.tui.app, sys; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


async def test_what_is_typed_at_once_reaches_the_first_screen(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.remember(site.place)
    app = LlamaTui(UiRequest())
    typed = threading.Event()
    load = app._first_screen
    monkeypatch.setattr(app, "_first_screen", lambda: typed.wait(60) and load())

    async def type_early(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "looking for runs in this machine" in painted(app))
        await pilot.press("slash", *"cpu")
        typed.set()
        await until(pilot, app.opened.is_set)
        await until(pilot, lambda: app.screen.query_one("#search", Input).value == "cpu")
        app.exit()

    await app.run_async(headless=True, size=(100, 30), auto_pilot=type_early)
    assert app.return_code == 0


class TestLinksBegunAhead:
    """The agent is started before the screen that asks for it is there."""

    def test_the_first_who_asks_gets_it_and_the_next_one_of_their_own(self) -> None:
        hosts, place = HostBook(), Place("~/w", python=sys.executable)
        hosts.begin(place)
        first, second = hosts.link(place), hosts.link(place)
        assert first.greeting.pid != second.greeting.pid
        for link in (first, second):
            assert link.run(["echo", "aye"]).stdout == "aye\n"
            link.close()

    def test_one_that_ended_meanwhile_is_made_anew(self) -> None:
        hosts, place = HostBook(), Place("~/w", python=sys.executable)
        hosts.begin(place)
        begun = hosts._begun[place].result(30)
        begun.close()
        link = hosts.link(place)
        assert link.alive and link.greeting.pid != begun.greeting.pid
        link.close()

    def test_what_went_wrong_is_told_to_the_one_who_asks(self) -> None:
        hosts, place = HostBook(), Place("~/w", python="/no/such/python")
        hosts.begin(place)
        with pytest.raises(HostError, match="no/such/python"):
            hosts.link(place)

    def test_one_that_nobody_asked_for_ends_with_the_program(self) -> None:
        hosts, place = HostBook(), Place("~/w", python=sys.executable)
        hosts.begin(place)
        begun = hosts._begun[place].result(30)
        hosts.close()
        assert not begun.alive
