"""estimate: what a run will take, and after it what it took beside that."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llama_tui.backend import places
from llama_tui.backend.cli.common import (
    chosen_place,
    connected,
    fitted,
    json_option,
    place_options,
    run_named,
    show_json,
)
from llama_tui.backend.estimates import Estimate
from llama_tui.backend.figures import Figure
from llama_tui.backend.foresight import foreseen
from llama_tui.backend.outcomes import Beside, actual, beside
from llama_tui.backend.settings_file import load

_WORDS = 18


@click.command()
@click.argument("what", default="latest", metavar="[RUN|SETTINGS.toml]")
@place_options
@json_option
def estimate(
    what: str,
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Tell what SETTINGS.toml will take, or what RUN took beside what was to be expected before it.

    Steps, tokens, time, disk, memory and cost, each with its basis: measured in earlier runs of the workspace where
    there are any, else a formula.
    """
    if what.endswith(".toml"):
        settings = load(Path(what))
        with connected(places.place_of(settings)) as site:
            found = foreseen(settings, site)
        _show(found, as_json)
        return
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        run = run_named(site, what)
        rows = beside(foreseen(run.settings, site, before=run.run_id), actual(run))
    if as_json:
        show_json(
            {row.label: {"estimated": _data(row.estimated), "actual": _data(row.actual)} for row in rows}
        )
        return
    width = max(len(row.label) for row in rows)
    click.echo(f"{'':<{width}} {'estimated':<{_WORDS}} {'actual':<{_WORDS}} estimate / actual")
    for row in rows:
        click.echo(_line(row, width))


def _show(found: Estimate, as_json: bool) -> None:
    if as_json:
        show_json({label: _data(figure) for label, figure in found.rows})
        return
    width = max(len(label) for label, _ in found.rows)
    for label, figure in found.rows:
        click.echo(fitted(f"{label:<{width}} {figure.words:<{_WORDS}} {figure.basis}", 8))


def _data(figure: Figure) -> dict[str, Any]:
    return asdict(figure)


def _line(row: Beside, width: int) -> str:
    off = f"{row.off:.2f}" if row.off is not None else ""
    return f"{row.label:<{width}} {row.estimated.words:<{_WORDS}} {row.actual.words:<{_WORDS}} {off}".rstrip()
