"""The command `llama-tui`: the command line, with the screen where one is asked for."""

from __future__ import annotations

import os
import sys

from llama_tui.backend.ui_request import UiRequest


def open_ui(request: UiRequest) -> None:
    """Runs the app until it is left. Textual is imported here, so that no command pays for it."""
    # Twice Textual's own: a key that comes just after a burst of log was painted waits half as long for the next frame.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    from llama_tui.tui.app import LlamaTui

    app = LlamaTui(request)
    app.run()
    app.promises.wait(lambda words: print(words, file=sys.stderr))


def main() -> None:
    """The console script's entry. What it writes is for its user alone, whatever the shell's umask."""
    os.umask(0o077)
    if len(sys.argv) > 1:
        from llama_tui.backend.cli.main import cli

        cli(obj=open_ui)
        return
    # Without the commands, which take as long to load as the screen's first frame.
    try:
        open_ui(UiRequest())
    except KeyboardInterrupt:
        from llama_tui.backend.cli.common import interrupted

        sys.exit(interrupted())
