"""The records' lengths from where the records are: on the host."""

from __future__ import annotations

from llama_tui.backend.catalog.models import Model
from llama_tui.backend.data_look import READ_LIMIT, DataLook, look_at_data
from llama_tui.backend.errors import AgentError, RunError
from llama_tui.backend.lengths import (
    TokenLengths,
    lengths_in_advance,
    lengths_of_counts,
    lengths_of_report,
    lengths_of_text,
    without_held_out,
)
from llama_tui.backend.measured import Measured
from llama_tui.backend.render import plan_run
from llama_tui.backend.settings import Settings
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage

# Enough records to know the rest by.
READ_AT_MOST = 2 * 1024 * 1024


def lengths_of_site(
    site: Site, settings: Settings, model: Model | None, measured: Measured | None = None
) -> TokenLengths | None:
    """The best that is known now: counted in an earlier run, from the split data, from the user's file, in advance.

    None before download_model has run on a data set that nobody knows. Asks the host up to two times.

    Raises:
        LinkLost: the connection ended.
    """
    for run in measured.runs if measured else ():
        if run.settings.model == settings.model and run.settings.inference == settings.inference:
            counted = lengths_of_report(run.reports.get(Stage.DOWNLOAD_MODEL, {}))
            if counted is not None:
                return counted
    train = plan_run(settings, site.workspace.path, "estimate").dataset_dir + "/train.jsonl"
    found = _of_file(site, train, settings, model)
    if found is not None:
        return found
    if settings.model.dataset.startswith(("/", "~/")):
        return lengths_of_look(_looked(site, settings), settings, model)
    return lengths_in_advance(settings, model)


def lengths_of_look(look: DataLook | None, settings: Settings, model: Model | None) -> TokenLengths | None:
    """By the characters of the records that were looked at; None where the look was at another data set."""
    if look is None or look.source != settings.model.dataset:
        return None
    name = look.source.rsplit("/", 1)[-1]
    found = lengths_of_counts(look.lengths, settings, model, name)
    if found is not None and not look.whole:
        basis = f"{READ_LIMIT / 1e6:.1f} MB read of about {look.records:,} records: {found.basis}"
        found = TokenLengths(found.sample, look.records, basis)
    return without_held_out(found, settings.model.held_out)


def _looked(site: Site, settings: Settings) -> DataLook | None:
    try:
        return look_at_data(site, settings)
    except (RunError, AgentError):
        return None


def _of_file(site: Site, path: str, settings: Settings, model: Model | None) -> TokenLengths | None:
    """Lengths of a file of JSON lines, of a long one from its beginning; None when it cannot be read."""
    try:
        piece = site.link.call("read", path=path, offset=0, limit=READ_AT_MOST)
    except AgentError:
        return None
    text, whole = piece["text"], piece["size"]
    name = path.rsplit("/", 1)[-1]
    found = lengths_of_text(text, settings, model, name)
    if found is None or whole <= READ_AT_MOST:
        return found
    read = len(text.encode("utf-8", "surrogateescape"))
    records = round(found.records * whole / read)
    basis = f"{read / 1e6:.1f} of {whole / 1e6:.1f} MB read: {found.basis}"
    return TokenLengths(found.sample, records, basis)
