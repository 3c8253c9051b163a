"""doctor: what would go wrong, before it costs anything."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from llama_tui.backend import places
from llama_tui.backend.cli.common import (
    ExitCode,
    chosen_place,
    connected,
    fitted,
    json_option,
    place_options,
    show_json,
)
from llama_tui.backend.place import Place
from llama_tui.backend.preflight.check import Check, Result, check_line
from llama_tui.backend.preflight.checks import all_well, run_checks
from llama_tui.backend.settings import Settings, Stack, defaults, validated
from llama_tui.backend.settings_file import load

# Where a check's words begin, after its mark and name.
_WORDS = 19


@click.command()
@click.argument("settings", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option("--on-node", is_flag=True, help="Look from a compute node too, in a job of some seconds.")
@click.option(
    "--stack",
    type=click.Choice([stack.value for stack in Stack]),
    help="Whose defaults to check when SETTINGS is left out. Default: neuron.",
)
@place_options
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    settings: Path | None,
    on_node: bool,
    stack: str | None,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Look for what would make a run with SETTINGS fail: nothing is submitted, in under ten seconds.

    Scheduler and limits, workspace and space, Python and packages, hub, token and licence, model, data set. Each
    is told in words, with what mends it. Without SETTINGS the defaults are checked on the place that the options name.

    \b
    Exit codes: 0 nothing failed, 1 something did, 2 wrong input, 3 host not reached.
    """
    given = (host, workspace, python, scheduler)
    if settings is not None and (stack or any(given)):
        raise click.UsageError("SETTINGS say where and what: leave out the other options, or SETTINGS.")
    loaded = load(settings) if settings else _defaults_at(chosen_place(*given), Stack(stack or Stack.NEURON))
    began = time.monotonic()
    with connected(places.place_of(loaded)) as site:
        checks = run_checks(site, loaded, None if as_json else _show, on_node=on_node)
    if as_json:
        show_json({"ok": all_well(checks), "checks": [asdict(check) for check in checks]})
    else:
        click.echo(_summary(checks, time.monotonic() - began), err=True)
    ctx.exit(ExitCode.OK if all_well(checks) else ExitCode.FAILED)


def _defaults_at(place: Place, stack: Stack) -> Settings:
    data = defaults(stack).model_dump(mode="json")
    data["where"] |= {
        "host": place.host,
        "python": place.python,
        "scheduler": place.scheduler.value,
        "as_user": place.as_user,
        "ssh": place.ssh.value,
    }
    data["paths"]["workspace"] = place.workspace
    return validated(data)


def _show(check: Check) -> None:
    for line in check_line(check).splitlines():
        click.echo(fitted(line, line.index("→") + 2 if "→" in line else _WORDS))


def _summary(checks: list[Check], seconds: float) -> str:
    count = {result: sum(check.result is result for check in checks) for result in Result}
    verdict = "Nothing stands in the way" if all_well(checks) else "To be mended first"
    return (
        f"\n{verdict}: {count[Result.PASS]} passed, {count[Result.WARN]} warnings, {count[Result.FAIL]} failed, "
        f"{count[Result.SKIPPED]} skipped, in {seconds:.1f} s."
    )
