"""The command `llama-tui`: its subcommands, and the screen where none is given."""

from __future__ import annotations

import click

from llama_tui import __version__
from llama_tui.backend.cli.common import Commands
from llama_tui.backend.cli.diagnose_command import diagnose_log
from llama_tui.backend.cli.doctor import doctor
from llama_tui.backend.cli.estimate_command import estimate
from llama_tui.backend.cli.look import compare, logs, runs, status
from llama_tui.backend.cli.serve import serve_command
from llama_tui.backend.cli.settings_commands import init, render, token
from llama_tui.backend.cli.work import cancel, demo, rerun, run
from llama_tui.backend.ui_request import OpenUi, UiRequest


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="llama-tui")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Fine-tune Llama with LoRA on a Slurm cluster with AWS Trainium, or a small one on this machine.

    Without a command the wizard opens. The commands do the same without a screen:

    \b
      llama-tui demo                the whole thing on this machine, in minutes
      llama-tui init my.toml        settings to edit
      llama-tui run my.toml --wait  launch them, follow the seven stages
      llama-tui status              how far the newest run is
      llama-tui logs -f             what its current stage prints
      llama-tui rerun latest        the failed stage and what follows it, again
      llama-tui compare             what base and fine-tuned answer
      llama-tui serve               the same screen in a browser

    RUN is a name that `llama-tui runs` shows, or its beginning; left out or `latest`, the newest.

    Exit codes: 0 all is well, 1 a stage failed, 2 wrong input, 3 host or scheduler not reached.
    """
    if ctx.invoked_subcommand is None:
        open_ui: OpenUi = ctx.obj
        open_ui(UiRequest())


for command in (
    demo,
    init,
    run,
    runs,
    estimate,
    status,
    logs,
    rerun,
    cancel,
    compare,
    render,
    token,
    diagnose_log,
    doctor,
    serve_command,
):
    cli.add_command(command)
