"""What is told of a run that has failed."""

from __future__ import annotations

import click

from llama_tui.backend.cli.diagnose_command import diagnosis_text
from llama_tui.backend.explain import explain
from llama_tui.backend.runs import Run, Snapshot


def show_failure(run: Run, snapshot: Snapshot) -> None:
    """Why the run stopped and what to do, on stderr."""
    view = snapshot.current
    click.echo(f"\n{view.stage} {view.state}: {view.reason}", err=True)
    click.echo(diagnosis_text(explain(run, snapshot, view.stage)), err=True)
    click.echo(f"The whole log: {run.layout.log(view.stage, view.attempt or 1)}", err=True)
    click.echo(f"When it is mended: llama-tui rerun {run.run_id} {view.stage} --wait", err=True)
