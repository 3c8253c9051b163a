"""Colours, and the app in a browser."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from textual.color import Color

from llama_tui.backend import places
from llama_tui.backend.cli.main import cli
from llama_tui.backend.settings import Stack, defaults
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.themes import PALETTES, Palette
from llama_tui.tui.words import state_text
from tests.browser import CHROMIUM, browser
from tests.pilot import painted, until
from tests.ports import PortLease


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in Color.parse(colour).rgb]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", PALETTES, ids=lambda palette: palette.name)
def test_what_is_written_can_be_read(palette: Palette) -> None:
    for words in ("foreground", "done", "running", "failed", "waiting", "unknown", "accent"):
        for ground in ("background", "surface"):
            found = contrast(getattr(palette, words), getattr(palette, ground))
            assert found >= 4.5, (words, ground, found)


@pytest.mark.parametrize("palette", PALETTES, ids=lambda palette: palette.name)
def test_what_a_job_prints_in_colours_can_be_read(palette: Palette) -> None:
    colours = palette.terminal_theme().ansi_colors
    for number in range(16):
        found = contrast(Color(*colours[number]).hex, palette.background)
        on_purpose = number == 0 and palette.dark  # Black on a dark ground is black.
        assert found >= 4.5 or on_purpose, (number, found)


def as_seen_without_red_or_green(colour: str) -> tuple[float, float, float]:
    """What a person with deuteranopia sees of a colour (Viénot, Brettel and Mollon 1999), as linear RGB."""
    red, green, blue = ((part / 255) ** 2.2 for part in Color.parse(colour).rgb)
    mixed = 0.29275 * red + 0.70725 * green
    return mixed, mixed, -0.02234 * red + 0.02234 * green + blue


@pytest.mark.parametrize(
    "palette", [one for one in PALETTES if "blind" in one.name], ids=lambda one: one.name
)
def test_done_and_failed_differ_for_who_does_not_tell_red_from_green(palette: Palette) -> None:
    done, failed = map(as_seen_without_red_or_green, (palette.done, palette.failed))
    assert sum((one - other) ** 2 for one, other in zip(done, failed, strict=True)) ** 0.5 > 0.2


def test_states_are_told_by_shape_and_word() -> None:
    words = [state_text(state).plain for state in StageState]
    assert len(set(words)) == len(words)
    assert len({one.split()[0] for one in words}) == len(words)


async def test_a_chosen_theme_is_there_again_and_colours_the_states() -> None:
    app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, WizardScreen))
        assert app.theme == "llama-dark"
        dark = app.ansi_theme
        app.theme = "llama-colour-blind-light"
        await until(pilot, lambda: places.preference("theme") == "llama-colour-blind-light")
        assert app.ansi_theme != dark
    again = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
    assert again.theme == "llama-colour-blind-light"
    assert not again.current_theme.dark


@pytest.mark.parametrize("palette", PALETTES, ids=lambda palette: palette.name)
async def test_the_wizards_steps_have_the_themes_colours(palette: Palette) -> None:
    app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
    async with app.run_test() as pilot:
        app.theme = palette.name
        await until(pilot, lambda: app.focused is not None)
        await pilot.press(*"Not A Name", "ctrl+n", "ctrl+n")
        await until(pilot, lambda: painted(app).count("✓") == 1 and "✗ 1 Where" in painted(app))
        done, broken = app.screen.query_one("#rail-token"), app.screen.query_one("#rail-where")
        colours = [app.theme_variables[name].lower() for name in ("success", "error")]
        await until(pilot, lambda: [one.styles.color.hex.lower() for one in (done, broken)] == colours)


def test_a_preference_that_is_gone_or_garbage_is_no_matter() -> None:
    places.save_preference("theme", "no-such-theme")
    assert LlamaTui(UiRequest()).theme == "llama-dark"
    (places.state_directory() / "preferences.json").write_text("[1")
    assert LlamaTui(UiRequest()).theme == "llama-dark"


async def test_no_color_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, WizardScreen))
        await pilot.pause()
        styles = []
        for strip in app.screen._compositor.render_strips():
            segments = list(strip)
            for line_filter in app._filters:
                segments = line_filter.apply(segments, Color(0, 0, 0))
            styles += [segment.style for segment in segments if segment.style]
        colours = {part.get_truecolor() for style in styles for part in (style.color, style.bgcolor) if part}
        assert colours
        assert all(len(set(colour)) == 1 for colour in colours), "something is not grey"


@pytest.fixture
def served(home: Path) -> Iterator[str]:
    """The address of `llama-tui serve`."""
    lease = PortLease()
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_tui", "serve", "--port", str(lease.port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
        cwd=home,
    )
    assert process.stdout is not None
    found = None
    deadline = time.monotonic() + 60
    while found is None:
        line = process.stdout.readline()
        assert line, "the server ended"
        assert time.monotonic() < deadline
        found = re.search(r"http://127\.0\.0\.1:\d+/[\w-]{43}/", line)
    yield found[0]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    lease.release()


async def test_the_browser_gets_the_app_with_the_token_and_403_without(served: str) -> None:
    root = "/".join(served.split("/")[:3])
    wrong = served[:-3] + ("AA/" if not served.endswith("AA/") else "BB/")
    async with aiohttp.ClientSession() as session:
        for url in (root, f"{root}/ws", f"{root}/static/js/textual.js", f"{root}/../", wrong, f"{wrong}ws"):
            async with session.get(url) as answer:
                assert answer.status == 403, url
                assert served.split("/")[3] not in await answer.text()
        async with session.get(served) as answer:
            assert answer.status == 200
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            page = await answer.text()
        for part in re.findall(r'(?:href|src)="(?!data:)([^"]+)"', page):
            assert "//" not in part, "the page asks somebody else"
            async with session.get(served + part) as answer:
                assert answer.status == 200, part
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        async with session.get(served.rstrip("/")) as answer:
            assert (answer.status, str(answer.url)) == (200, served)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect(f"{wrong}ws?width=80&height=24")
        async with session.ws_connect(f"{served}ws?width=80&height=24") as socket:
            seen = b""
            async with asyncio.timeout(60):
                while b"Where" not in seen:
                    message = await socket.receive()
                    assert message.type in {aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT}, message
                    seen += message.data if isinstance(message.data, bytes) else b""


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
async def test_in_a_browser_keys_work_at_once_and_text_is_pasted(served: str, tmp_path: Path) -> None:
    async with browser(tmp_path / "profile") as page:
        # What arrives at the server, as the page's own socket sends it.
        await page.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="const send = WebSocket.prototype.send; window.sent = '';"
            "WebSocket.prototype.send = function (words) { window.sent += words; send.call(this, words); };",
        )
        await page.call(
            "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
        )
        await page.call("Page.navigate", url=served)
        await page.until("document.body?.classList.contains('-first-byte')")
        await page.until("document.activeElement?.className === 'xterm-helper-textarea'")
        await page.key("j", 74)
        await page.until("""window.sent.includes('["stdin","j"]')""")
        await page.value("navigator.clipboard.writeText('hf_pasted')")
        await page.key("v", 86, ctrl=True, commands=("paste",))
        await page.until("window.sent.includes('hf_pasted')")
        assert not await page.value(r"window.sent.includes('\\u0016')")
        root = "/".join(served.split("/")[:3])
        assert [url for url in page.asked if not url.startswith((root, root.replace("http", "ws")))] == []
        assert page.complaints == []


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")
async def test_a_page_whose_session_ended_says_what_to_do(served: str, tmp_path: Path) -> None:
    async with browser(tmp_path / "profile") as page:
        await page.call("Page.navigate", url=served)
        await page.until("document.activeElement?.className === 'xterm-helper-textarea'")
        await page.until("document.body?.classList.contains('-first-byte')")
        await page.key("q", 81, ctrl=True)
        await page.until("document.activeElement?.id === 'again'")
        assert "jobs go on" in await page.value("document.getElementById('message').textContent")
        await page.value("document.getElementById('again').click()")
        await page.until("document.activeElement?.className === 'xterm-helper-textarea'")


def test_a_port_that_is_taken_is_told() -> None:
    lease = PortLease()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", lease.port))
        taken.listen()
        result = CliRunner().invoke(cli, ["serve", "--port", str(lease.port)])
    assert result.exit_code != 0
    assert str(lease.port) in result.output
    assert "Traceback" not in result.output
    lease.release()
