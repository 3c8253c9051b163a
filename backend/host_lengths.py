"""The records' lengths from where the records are: on the host."""

from __future__ import annotations

from llama_tui.backend.catalog.models import Model
from llama_tui.backend.errors import AgentError
from llama_tui.backend.lengths import (
    TokenLengths,
    lengths_in_advance,
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
    source = settings.model.dataset
    if source.startswith("/") and source.lower().endswith((".jsonl", ".json")):
        return without_held_out(_of_file(site, source, settings, model), settings.model.held_out)
    return lengths_in_advance(settings, model)


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
