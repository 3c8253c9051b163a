"""What can be known of a run before it is launched: what would stop it, and what it will take."""

from __future__ import annotations

from llama_tui.backend.catalog.machines import find_machine
from llama_tui.backend.catalog.models import find_model
from llama_tui.backend.data_look import DataLook
from llama_tui.backend.estimates import Estimate, estimate
from llama_tui.backend.host_lengths import lengths_of_look, lengths_of_site
from llama_tui.backend.layouts import Finding, Severity, layout_findings
from llama_tui.backend.lengths import lengths_in_advance
from llama_tui.backend.measured import measured_of
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site


def stoppers(settings: Settings) -> dict[str, str]:
    """What would stop the training or make it worthless, {dotted field: words}; empty when nothing is known to."""
    return {
        finding.field: f"{finding.reason}. {finding.fix}".strip()
        for finding in _findings(settings)
        if finding.severity is Severity.ERROR
    }


def warnings(settings: Settings) -> list[str]:
    """What the user should weigh, in words."""
    return [
        f"{finding.field}: {finding.reason}. {finding.fix}".strip()
        for finding in _findings(settings)
        if finding.severity is Severity.WARNING
    ]


def _findings(settings: Settings) -> list[Finding]:
    return layout_findings(
        settings, find_model(settings.model.model), find_machine(settings.resources.machine)
    )


def foreseen(
    settings: Settings, site: Site | None, before: str = "", *, look: DataLook | None = None
) -> Estimate:
    """What the run will take: from earlier runs where a site is connected, else from formulas. Blocks for a moment.

    Args:
        before: a run that is not looked at: what would have been foreseen before it.
        look: at the data set, where there was one.

    Raises:
        LinkLost: the connection ended.
    """
    model = find_model(settings.model.model)
    measured = measured_of(site).without(before) if site is not None else None
    if site is not None:
        lengths = lengths_of_site(site, settings, model, measured)
    else:
        lengths = lengths_in_advance(settings, model) or lengths_of_look(look, settings, model)
    machine = find_machine(settings.resources.machine)
    return estimate(settings, lengths, machine, model, measured, settings.resources.price_per_hour)


def estimate_rows(found: Estimate) -> list[tuple[str, str, str]]:
    """The estimate as a small table: what, figure and basis."""
    rows = {
        "steps": found.steps,
        "tokens": found.computed_tokens,
        "time": found.time,
        "disk": found.disk_total,
        "memory": found.memory,
        "cost": found.cost,
    }
    return [(name, figure.words, figure.basis) for name, figure in rows.items()]
