"""The Where step: choose a host, try the connection, see who and where one is."""

from __future__ import annotations

import time

from textual import on, work
from textual.app import ComposeResult
from textual.widget import Widget
from textual.widgets import Button, Static

from llama_tui.backend.errors import UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.plain import printable
from llama_tui.backend.site import Site, connect
from llama_tui.tui.background import in_background
from llama_tui.tui.connections import hosts_of
from llama_tui.tui.steps.pane import StepPane

HELP = (
    "Enter connects and tells what is there; once there is an answer, Enter goes on and Ctrl+T looks again."
)


class WherePane(StepPane):
    """Adds the connection test. The wizard sets `place` when it is checked."""

    place: Place | None = None
    _answered: Place | None = None
    _asked: Place | None = None

    def compose_more(self) -> ComposeResult:
        yield Button("Test the connection (ctrl+t)", id="test", compact=True)
        yield Static("", id="test-result", markup=False)

    def stops(self) -> list[Widget]:
        """Enter comes by the test only where there is something to find out: at another host."""
        if self.place is None or not self.place.host or self.place == self._answered:
            return super().stops()
        return [*super().stops(), self.query_one("#test", Button)]

    def help_of(self, widget: Widget) -> str:
        """What to know at a part of this step."""
        return HELP if widget.id == "test" else super().help_of(widget)

    def enter(self, widget: Widget) -> bool:
        """Enter tests a connection once; when there is an answer, it goes on."""
        if widget.id != "test":
            return super().enter(widget)
        if self.place is None or self.place == self._answered:
            return False
        if self.place != self._asked:
            self.test_connection()
        return True

    @on(Button.Pressed, "#test")
    def test_connection(self) -> None:
        """Connects and tells what is there."""
        if self.place is None:
            self.query_one("#test-result", Static).update("✗ The fields above need mending first.")
            return
        self._test(self.place)

    @work(exclusive=True, group="test", exit_on_error=False)
    async def _test(self, place: Place) -> None:
        result = self.query_one("#test-result", Static)
        result.update(f"… connecting to {place.host or 'this machine'}")
        self._asked, self._answered = place, None
        began = time.monotonic()
        try:
            hosts = hosts_of(self.app)
            words = await in_background(lambda: _look(place, hosts))
            result.update(f"✓ {words}\n  answered within {time.monotonic() - began:.1f} s")
        except UserError as error:
            result.update(printable(f"✗ {error.message}\n  {error.hint}".rstrip()))
        self._asked, self._answered = None, place


def _look(place: Place, hosts: HostBook) -> str:
    site = connect(place, hosts)
    try:
        return _what_is_there(site)
    finally:
        site.close()


def _what_is_there(site: Site) -> str:
    who = site.link.greeting
    disk = site.link.call("disk", path=site.workspace.path)
    by_slurm = "Slurm" if site.on_slurm else "no Slurm"
    lines = [
        f"{who.user}@{who.host}, Python {who.python}, {by_slurm}",
        f"  workspace {site.workspace.path}: {disk['free'] / 1e9:.0f} GB free on {disk['mount']} ({disk['kind']})"
        + ("" if disk["writable"] else ", NOT writable"),
    ]
    if site.on_slurm:
        version = site.link.run(["sinfo", "--version"]).stdout.strip()
        nodes = site.link.run(["sinfo", "-h", "-o", "%P %D %t %f"]).stdout.strip().splitlines()
        lines.append(f"  {version}; partitions (nodes, state, features):")
        lines += [f"    {line}" for line in nodes[:12]]
    return printable("\n".join(lines))
