"""diagnose: what a log says went wrong, for a run's stage or for a log given by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llama_tui.backend.cli.common import json_option, show_json
from llama_tui.backend.diagnosis.diagnose import Diagnosis, diagnose
from llama_tui.backend.diagnosis.symptoms import Symptoms
from llama_tui.backend.plain import printable

MOST = 64 * 1024 * 1024


@click.command("diagnose")
@click.argument("log", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--stage", help="One of the seven stages, submit, or ssh.")
@click.option("--exit-code", type=int, help="The job's exit code.")
@click.option("--signal", type=int, help="The signal: what follows the colon in sacct's ExitCode.")
@click.option("--slurm-state", help="The state as sacct or squeue print it, such as TIMEOUT.")
@click.option("--slurm-reason", help="The reason as squeue or scontrol print it.")
@click.option("--node-state", help="The node's state as sinfo prints it.")
@json_option
def diagnose_log(
    log: Path,
    stage: str | None,
    exit_code: int | None,
    signal: int | None,
    slurm_state: str | None,
    slurm_reason: str | None,
    node_state: str | None,
    as_json: bool,
) -> None:
    """Tell from the end of LOG (- for stdin), and what else is known of a job, what went wrong and what to do.

    What is not recognised is said to be unknown, with the lines that matter most.
    """
    text = _end_of(log)
    symptoms = Symptoms(text, stage, exit_code, signal, slurm_state, slurm_reason, node_state)
    found = diagnose(symptoms)
    if not as_json:
        click.echo(diagnosis_text(found))
        return
    show_json(
        {
            "kind": found.kind,
            "cause": printable(found.cause),
            "fix": printable(found.fix),
            "source": found.source,
            "sure": found.sure,
            "lines": [{"number": line.number, "text": printable(line.text)} for line in found.lines],
        }
    )


def _end_of(log: Path) -> str:
    if str(log) == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - MOST))
            return stream.read().decode("utf-8", "replace")
    except OSError as error:
        raise click.UsageError(f"{log} cannot be read: {error.strerror}") from None


def diagnosis_text(found: Diagnosis) -> str:
    """A diagnosis for a person."""
    lines = [found.kind, f"  What happened: {found.cause}", f"  What to do:    {found.fix}"]
    if found.lines:
        lines.append("  The lines that say so:" if found.sure else "  The lines that matter most:")
        lines += [f"    {line.number}: {line.text[:300]}" for line in found.lines]
    return printable("\n".join(lines))
