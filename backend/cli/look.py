"""runs, status, logs, compare: reading, changing nothing."""

from __future__ import annotations

import queue
import sys
from typing import Any

import click

from llama_tui.backend.cli.common import (
    ExitCode,
    chosen_place,
    connected,
    json_option,
    place_options,
    run_argument,
    run_named,
    show_json,
    stage_named,
)
from llama_tui.backend.cli.failures import show_failure
from llama_tui.backend.comparison import read_comparison
from llama_tui.backend.comparison_pages import to_html, to_markdown
from llama_tui.backend.errors import LinkLost, RunError
from llama_tui.backend.following import follow_run
from llama_tui.backend.plain import printable
from llama_tui.backend.report_text import comparison_text, runs_text, status_text
from llama_tui.backend.runs import Run, Snapshot, list_runs
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState

LOG_TAIL = 64 * 1024


@click.command()
@place_options
@json_option
def runs(
    host: str | None, workspace: str | None, python: str | None, scheduler: str | None, as_json: bool
) -> None:
    """List the runs of a workspace, newest first, each with its state."""
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        found = list_runs(site)
    if not as_json:
        click.echo(runs_text(found))
        return
    show_json(
        [
            {
                "run": info.run_id,
                "state": info.snapshot.state,
                "created": info.created or None,
                "model": info.settings.model.model,
                "stages": _stages(info.snapshot),
            }
            for info in found
        ]
    )


@click.command()
@run_argument
@place_options
@click.option("--wait", "-w", is_flag=True, help="Go on showing changes until the run has ended.")
@json_option
def status(
    run: str,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Show the seven stages of RUN (the newest when left out). Exit code 1 when one has failed."""
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        opened = run_named(site, run)
        snapshot = follow_run(opened, click.echo) if wait and not as_json else opened.snapshot()
        if as_json:
            show_json(status_data(snapshot))
        else:
            click.echo(status_text(snapshot, site.now()))
            if snapshot.current.state is StageState.FAILED:
                show_failure(opened, snapshot)
    click.get_current_context().exit(exit_code_of(snapshot))


def exit_code_of(snapshot: Snapshot) -> ExitCode:
    """0 while all is well."""
    bad = {StageState.FAILED, StageState.CANCELLED, StageState.HELD}
    return ExitCode.FAILED if snapshot.state in bad else ExitCode.OK


def status_data(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot for a program; times are seconds since 1970 on the host's clock."""
    return {
        "run": snapshot.run_id,
        "state": snapshot.state,
        "finished": snapshot.finished,
        "seen": snapshot.seen,
        "problem": snapshot.problem or None,
        "stages": _stages(snapshot),
    }


def _stages(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "stage": view.stage,
            "state": view.state,
            "attempt": view.attempt,
            "job_id": view.job_id or None,
            "node": view.node or None,
            "started": view.started,
            "ended": view.ended,
            "exit_code": view.exit_code,
            "reason": view.reason or None,
        }
        for view in snapshot.views
    ]


@click.command()
@run_argument
@click.option(
    "--stage",
    type=stage_named,
    metavar="STAGE",
    help="The stage; default: the one that runs or failed, else the last begun.",
)
@click.option("--attempt", type=click.IntRange(1), help="An earlier attempt of it.")
@click.option("--follow", "-f", is_flag=True, help="Go on as the job prints; Ctrl-C ends this, not the job.")
@click.option("--all", "whole", is_flag=True, help="From the beginning, not only the end.")
@place_options
def logs(
    run: str,
    stage: Stage | None,
    attempt: int | None,
    follow: bool,
    whole: bool,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
) -> None:
    """Print the log of a stage of RUN (the newest when left out)."""
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        opened = run_named(site, run)
        current = opened.snapshot()
        view = current.view(stage) if stage else current.current
        if attempt and attempt > max(view.attempt, 1):
            raise RunError(f"{view.stage} was tried {view.attempt} times", f"There is no attempt {attempt}.")
        path = opened.layout.log(view.stage, attempt or view.attempt or 1)
        head = site.link.call("collect", paths=[path])["files"]
        if not head and not follow:
            raise RunError(f"{view.stage} has no log yet: {path}", f"It is {view.state}. -f waits for it.")
        size = site.link.call("read", path=path, offset=0, limit=1)["size"] if head else 0
        offset = 0 if whole else max(0, size - LOG_TAIL)
        _print_log(opened, path, offset, size, follow)


def _print_log(run: Run, path: str, offset: int, size: int, follow: bool) -> None:
    """Pieces of the log on stdout, as they come; without `follow` until `size` bytes are out."""
    pieces: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    subscription = run.site.link.follow(path, pieces.put, offset=offset)
    try:
        while follow or offset < size:
            try:
                piece = pieces.get(timeout=1.0)
            except queue.Empty:
                if not run.site.link.alive:
                    raise LinkLost(
                        f"The connection to {run.site.link.host.name} ended; the job goes on",
                        "Run the same command again.",
                    ) from None
                continue
            offset = piece["offset"]
            _write(piece["text"])
    finally:
        if run.site.link.alive:
            subscription.stop()


def _write(text: str) -> None:
    """A terminal is spared a log's control sequences; a pipe gets the bytes as they are."""
    if sys.stdout.isatty():
        click.echo(printable(text, colours=True), nl=False)
        return
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


@click.command()
@run_argument
@place_options
@json_option
@click.option("--markdown", is_flag=True, help="Print a page of Markdown.")
@click.option("--html", is_flag=True, help="Print one HTML file that needs no other.")
def compare(
    run: str,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    as_json: bool,
    markdown: bool,
    html: bool,
) -> None:
    """Show what the base and the fine-tuned model of RUN answer, side by side, and their held-out loss."""
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        opened = run_named(site, run)
        comparison = read_comparison(opened)
    if as_json:
        show_json(comparison.model_dump())
    elif markdown:
        click.echo(to_markdown([comparison], opened.run_id), nl=False)
    elif html:
        click.echo(to_html([comparison], opened.run_id), nl=False)
    else:
        click.echo(comparison_text(comparison))
