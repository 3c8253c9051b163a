"""demo, run, rerun, cancel: what makes jobs begin and end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llama_tui.backend import places
from llama_tui.backend.cli.common import (
    ExitCode,
    chosen_place,
    connected,
    place_options,
    run_argument,
    run_named,
    stage_named,
)
from llama_tui.backend.cli.failures import show_failure
from llama_tui.backend.cli.look import exit_code_of
from llama_tui.backend.comparison import read_comparison
from llama_tui.backend.dotted import put_answer
from llama_tui.backend.errors import NoSuchRun, RunError
from llama_tui.backend.following import follow_run, shares
from llama_tui.backend.foresight import stoppers, warnings
from llama_tui.backend.place import SchedulerChoice
from llama_tui.backend.report_text import comparison_text
from llama_tui.backend.runs import Run, create_run, open_run
from llama_tui.backend.settings import Settings, SettingsError, Stack, defaults, validated
from llama_tui.backend.settings_file import load
from llama_tui.backend.site import Site
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import OpenUi, UiRequest


@click.command()
@click.option(
    "--headless",
    is_flag=True,
    help="No screen, even on a terminal: progress as lines, the answers at the end.",
)
@click.option("--workspace", default="~/llama-tui", show_default=True, help="Where to keep models and runs.")
@click.option(
    "--scheduler",
    type=click.Choice([choice.value for choice in SchedulerChoice]),
    default=SchedulerChoice.DIRECT.value,
    show_default=True,
    help="direct runs the stages one after another here; slurm or auto give them to a Slurm that is here.",
)
@click.pass_context
def demo(ctx: click.Context, headless: bool, workspace: str, scheduler: str) -> None:
    """Do all seven stages for real on this machine: SmolLM2-135M learns to be Captain Chat.

    On a terminal the wizard opens at its last step, one key from launch. Without one (or with --headless) the
    run is launched, followed and its two answers printed side by side.
    """
    settings = _changed(
        defaults(Stack.CPU), {"paths.workspace": workspace, "where.scheduler": scheduler}, "--workspace"
    )
    if not headless and sys.stdin.isatty() and sys.stdout.isatty():
        open_ui: OpenUi = ctx.find_root().obj
        open_ui(going_on(settings) or UiRequest(settings=settings, review=True))
        return
    _launch(ctx, settings, submit=True, wait=True)


def going_on(settings: Settings) -> UiRequest | None:
    """The monitor, when the newest run there has not ended: a second demo would only wait behind it."""
    with connected(places.place_of(settings)) as site:
        try:
            newest = open_run(site, "latest")
        except NoSuchRun:
            return None
        if newest.snapshot().finished:
            return None
    return UiRequest(place=site.place, run_id=newest.run_id)


def _changed(settings: Settings, changes: dict[str, Any], where: str) -> Settings:
    """The settings with some answers replaced, validated again; names are section.field."""
    data = settings.model_dump(mode="json")
    for field, value in changes.items():
        put_answer(data, field, value)
    return validated(data, where)


def _overrides(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name or any(not part.isidentifier() for part in name.split(".")):
            raise click.BadParameter(f"{text!r} is not section.field=value, such as lora.r=32", ctx, param)
        lists = {"lora.targets", "resources.extra"}
        changes[name] = [part for part in value.split(",") if part] if name in lists else value
    return changes


@click.command()
@click.argument("settings", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--set",
    "changes",
    multiple=True,
    callback=_overrides,
    metavar="FIELD=VALUE",
    help="Replace an answer, such as lora.r=32. Repeatable.",
)
@click.option("--host", help="Replace where.host: a host of ~/.ssh/config.")
@click.option("--workspace", help="Replace paths.workspace.")
@click.option("--wait", "-w", is_flag=True, help="Follow the stages to their end, then show the answers.")
@click.option("--no-submit", is_flag=True, help="Make the run directory only.")
@click.option(
    "--force", is_flag=True, help="Launch although the layout does not fit the machine or the model."
)
@click.pass_context
def run(
    ctx: click.Context,
    settings: Path,
    changes: dict[str, Any],
    host: str | None,
    workspace: str | None,
    wait: bool,
    no_submit: bool,
    force: bool,
) -> None:
    """Launch the settings file SETTINGS: all seven stages, submitted as a chain.

    Prints the run's name. The jobs go on when this ends, or the laptop is closed.
    """
    named = {"where.host": host, "paths.workspace": workspace}
    changes |= {field: value for field, value in named.items() if value is not None}
    loaded = _changed(load(settings), changes, "options") if changes else load(settings)
    found = stoppers(loaded)
    if found and not force:
        raise SettingsError(found, str(settings))
    for words in warnings(loaded):
        click.echo(f"warning: {words}", err=True)
    _launch(ctx, loaded, submit=not no_submit, wait=wait)


def _launch(ctx: click.Context, settings: Settings, *, submit: bool, wait: bool) -> None:
    with connected(places.place_of(settings)) as site:
        made = create_run(site, settings)
        click.echo(made.run_id)
        click.echo(f"in {made.layout.path} {_how(site)}", err=True)
        if settings.stack is Stack.NEURON and not site.on_slurm:
            click.echo(
                f"warning: stack neuron, so {site.link.greeting.host} must have the Trainium chips itself",
                err=True,
            )
        if not submit:
            return
        made.submit(tell=lambda words: click.echo(words, err=True))
        if wait:
            _wait(ctx, made)
        click.echo("Follow it: llama-tui status --wait, or llama-tui logs -f", err=True)


def _how(site: Site) -> str:
    host = site.link.greeting.host
    if site.on_slurm:
        return f"by Slurm, on {host}"
    return f"on {host}, without Slurm: one stage after another, on this one machine"


def _wait(ctx: click.Context, run: Run) -> None:
    snapshot = follow_run(run, click.echo)
    if snapshot.state is StageState.DONE:
        click.echo(f"\nWall time of the stages:\n{shares(snapshot)}\n")
        click.echo(comparison_text(read_comparison(run)))
        ctx.exit(ExitCode.OK)
    show_failure(run, snapshot)
    ctx.exit(exit_code_of(snapshot) or ExitCode.FAILED)


@click.command()
@run_argument
@click.argument("stage", type=stage_named, required=False, metavar="[STAGE]")
@place_options
@click.option("--wait", "-w", is_flag=True, help="Follow the stages to their end.")
@click.pass_context
def rerun(
    ctx: click.Context,
    run: str,
    stage: Stage | None,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    wait: bool,
) -> None:
    """Run a stage of RUN again, and what follows it; stages before it are kept.

    STAGE is a name, its beginning, or its number; when left out, the first that did not end well.
    """
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        opened = run_named(site, run)
        opened.rerun(stage or _first_bad(opened), tell=lambda words: click.echo(words, err=True))
        if wait:
            _wait(ctx, opened)


def _first_bad(run: Run) -> Stage:
    for view in run.snapshot().views:
        if view.state.ended_badly or view.state is StageState.NOT_SUBMITTED:
            return view.stage
    raise RunError(f"No stage of {run.run_id} has failed", f"Name the one to run again: {', '.join(STAGES)}.")


@click.command()
@run_argument
@click.option(
    "--from",
    "stage",
    type=stage_named,
    metavar="STAGE",
    default=STAGES[0],
    help="Only this stage and what follows it.",
)
@place_options
def cancel(
    run: str,
    stage: Stage,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
) -> None:
    """End the jobs of RUN (the newest when left out). What is done stays; `rerun` goes on from there."""
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        opened = run_named(site, run)
        ended = opened.cancel(stage)
    names = ", ".join(ended) if ended else "nothing: no job of it was waiting or running"
    click.echo(f"Cancelled {names}.")
