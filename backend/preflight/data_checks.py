"""The data set: that it can be had, and has an instruction and a response."""

from __future__ import annotations

from llama_tui.backend.data_look import look_at_data
from llama_tui.backend.errors import AgentError, RunError
from llama_tui.backend.preflight.check import Outcome, failed, passed, skipped
from llama_tui.backend.preflight.facts import Facts
from llama_tui.backend.preflight.hub_checks import asked, refusal_of
from llama_tui.backend.settings import SHIPPED_DATASET

# As templates/jobs/records.py reads them.
_NEEDED = {
    "instruction": ("instruction", "prompt", "question"),
    "response": ("response", "output", "completion", "answer"),
}
_FIELDS = (
    "a data set needs the fields instruction and response (context is optional), as databricks-dolly-15k has"
)
_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def data_has_fields(facts: Facts) -> Outcome:
    """By its first records, where they can be read before a download."""
    source = facts.settings.model.dataset
    if facts.dataset_there:
        return passed(f"it is in the workspace already: {facts.plan.dataset_dir}")
    if facts.hub_dataset:
        return _on_hub(facts)
    if source == SHIPPED_DATASET:
        return _looked_at(facts)
    path = facts.site.absolute(source)
    if not path.lower().endswith(_SUFFIXES):
        return failed(f"{path} is not a .jsonl, .csv or .parquet file", _FIELDS)
    if path.lower().endswith(".parquet"):
        return _parquet(facts, path)
    return _looked_at(facts)


def _looked_at(facts: Facts) -> Outcome:
    try:
        look = look_at_data(facts.site, facts.settings)
    except RunError as error:
        return failed(f"{facts.settings.model.dataset}: {error.message}", error.hint)
    except AgentError as error:
        return failed(
            f"{facts.settings.model.dataset}: {error.message}", "check model.dataset in the settings"
        )
    held_out, records = facts.settings.model.held_out, len(look.lengths)
    if look.whole and records <= held_out:
        return failed(
            f"it has {records} records: too few to hold out {held_out}",
            "lower model.held_out, or take a larger data set",
        )
    return passed(f"instruction and response are there; {'' if look.whole else 'at least '}{records} records")


def _parquet(facts: Facts, path: str) -> Outcome:
    try:
        begin = facts.site.link.call("read", path=path, offset=0, limit=4)["text"]
    except AgentError as error:
        return failed(f"{path}: {error.message}", "check model.dataset in the settings")
    if begin != "PAR1":
        return failed(f"{path} is not a parquet file", _FIELDS)
    return skipped(
        "a parquet file's fields are seen once stage 0 has built its environment: stage 1 checks them first"
    )


def _on_hub(facts: Facts) -> Outcome:
    name = facts.hub_dataset
    found, answer = asked(facts, "dataset")
    if not answer.ok:
        return refusal_of(facts, found, answer, name, "dataset")
    fields = [str(field) for field in answer.data.get("fields") or []]
    if not fields:
        return skipped(
            f"{name} is there; its fields cannot be seen before the download: stage 1 checks them first"
        )
    lacking = [needed for needed, names in _NEEDED.items() if not set(names) & set(fields)]
    if lacking:
        return failed(
            f"{name} has no field {' or '.join(lacking)}; its fields are: {', '.join(fields)[:200]}", _FIELDS
        )
    return passed(f"{name} has the fields {', '.join(fields)[:200]}")
