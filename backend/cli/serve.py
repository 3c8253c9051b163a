"""serve: the same screen in a browser on this computer."""

from __future__ import annotations

import shlex
import sys
import webbrowser

import click

from llama_tui.backend.serving import new_token, serve


@click.command("serve")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="On 127.0.0.1 only."
)
@click.option("--open", "open_browser", is_flag=True, help="Open the browser as well.")
def serve_command(port: int, open_browser: bool) -> None:
    """Show the same screen in a browser, on this computer only.

    The address that is printed holds a secret: without it the server answers 403. Whoever has it can do all that
    you can do here, so do not pass it on. From another computer, forward the port first:
    ssh -L 8000:127.0.0.1:8000 this-computer
    """

    def tell(where: str) -> None:
        click.echo(f"llama-tui is at:\n\n  {where}\n\nCtrl-C ends it; jobs go on.")
        if open_browser:
            webbrowser.open(where)

    serve(shlex.join([sys.executable, "-m", "llama_tui"]), port, new_token(), tell)
