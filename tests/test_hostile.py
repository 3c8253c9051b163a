"""Files, queues, settings and data sets made to do harm: told in words or passed over, nothing run, nothing crashed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_tui.backend import data_look
from llama_tui.backend.comparison import parse_comparison
from llama_tui.backend.comparison_pages import to_html, to_markdown
from llama_tui.backend.data_look import look_at_data, look_text
from llama_tui.backend.errors import RunError, UserError
from llama_tui.backend.following import metric_line
from llama_tui.backend.layout import RunLayout
from llama_tui.backend.lengths import MOST_RECORDS, lengths_of_report
from llama_tui.backend.measured import measured_run
from llama_tui.backend.monitor import MOST_OF_A_LINE, read_metrics, read_resumes, whole_lines
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.report_text import comparison_text, runs_text, status_text
from llama_tui.backend.runs import list_runs, open_run, snapshot_of
from llama_tui.backend.schedulers.base import FIELD, Job
from llama_tui.backend.schedulers.direct import Direct
from llama_tui.backend.schedulers.slurm import Slurm
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import STAGES, Stage
from llama_tui.backend.states import read_attempts, read_status
from llama_tui.backend.training_watch import alarms, time_left
from tests.test_tui import COMPARISON
from tests.tiny import tiny_run

DEEP = "[" * 100_000
ODD_NUMBERS = st.sampled_from(
    [math.nan, math.inf, -math.inf, 10**400, -1, 1e300, 2**63, 10**15, "7", "nan", True, None, [], {}]
)
JSON = st.recursive(
    ODD_NUMBERS | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
STATUS = {
    "stage": "finetune",
    "attempt": 1,
    "job_id": "7",
    "node": "n",
    "state": "done",
    "restarts": 0,
    "started": 1,
    "ended": 2,
    "exit_code": 0,
    "signal": None,
}
ATTEMPT = {"time": 1.0, "event": "submitted", "stage": "finetune", "attempt": 1, "job_id": "7"}
METRIC = {
    "time": 1.0,
    "attempt": 1,
    "step": 1,
    "max_steps": 9,
    "loss": 1.0,
    "learning_rate": 0.1,
    "tokens_per_second": 1.0,
    "step_seconds": 1.0,
}


def dumped(value: object) -> str:
    return json.dumps(value)


def spoilt(record: dict[str, Any]) -> st.SearchStrategy[str]:
    """A file that is nearly right: some fields are anything at all; or it is cut, or nothing of the kind."""
    changes = st.dictionaries(st.sampled_from(sorted(record)), JSON, max_size=4)
    whole = changes.map(lambda changed: dumped({**record, **changed}))
    cut = st.tuples(whole, st.integers(0, 200)).map(lambda pair: pair[0][: pair[1]])
    return whole | cut | JSON.map(dumped) | st.text(max_size=40) | st.sampled_from([DEEP, '{"a":' * 50_000])


def harmless(text: str) -> None:
    """What goes to a terminal line by line."""
    assert all(char.isprintable() or char in "\n\t" or ord(char) > 0x9F for char in text), repr(text)
    text.encode()


@settings(max_examples=250, deadline=None)
@given(status=spoilt(STATUS), attempts=st.lists(spoilt(ATTEMPT), max_size=3), job=st.text(max_size=30))
@example(status=dumped({**STATUS, "node": "a\x1b[2J\nb", "ended": 1e300}), attempts=[], job="")
@example(
    status=dumped({**STATUS, "started": -math.inf}), attempts=[dumped({**ATTEMPT, "time": 1e300})], job=""
)
def test_any_status_and_journal_give_a_state_that_can_be_shown(
    status: str, attempts: list[str], job: str
) -> None:
    read_status(status)
    journal = "\n".join(attempts)
    read_attempts(journal)
    files = {"/r/status/finetune.json": status, "/r/submitted.jsonl": journal}
    for jobs in (None, Slurm.parse_queue(_SLURM, job)):
        snapshot = snapshot_of("r", files, jobs, seen=100.0)
        assert len(snapshot.views) == len(STAGES)
        harmless(status_text(snapshot, 200.0))
        for attempt in snapshot.attempts:
            time.localtime(attempt.asked)


def test_a_deep_status_file_is_no_status() -> None:
    assert read_status(DEEP) is None
    assert read_attempts(DEEP + "\n" + dumped(ATTEMPT))[0].job_id == "7"


@settings(max_examples=250, deadline=None)
@given(st.lists(spoilt(METRIC) | spoilt({"event": "resumed", "step": 3, "time": 1.0}), max_size=4))
def test_any_metrics_give_points_to_reckon_with(lines: list[str]) -> None:
    text = "\n".join(lines)
    points = read_metrics(text)
    assert all(0 <= step < 10**10 for step in read_resumes(text))
    for point in points:
        numbers = [getattr(point, field.name) for field in fields(point) if field.name != "loss"]
        assert all(map(math.isfinite, numbers))
        harmless(metric_line(point))
    alarms(points, 100.0)
    if points:
        time_left(points)


def test_a_loss_that_is_no_number_is_still_told() -> None:
    assert "smaller learning rate" in alarms(read_metrics(dumped({**METRIC, "loss": math.nan})), None)[0]


@given(st.lists(st.text("ab\n", max_size=20), max_size=10))
def test_whole_lines_lose_nothing(pieces: list[str]) -> None:
    rest, got = "", ""
    for piece in pieces:
        lines, rest = whole_lines(rest, piece)
        got += lines + ("\n" if "\n" in piece else "")
    assert got + rest == "".join(pieces)


def test_a_metrics_file_without_an_end_of_line_is_not_kept() -> None:
    rest = ""
    for _ in range(100):
        _, rest = whole_lines(rest, "x" * 65_536)
        assert len(rest) <= MOST_OF_A_LINE


_PATHS = [
    ("created",),
    ("base",),
    ("held_out", "records"),
    ("held_out", "base_loss"),
    ("held_out", "fine_tuned_perplexity"),
    ("answers",),
    ("answers", 0, "user"),
    ("answers", 0, "base", "content"),
    ("answers", 0, "base", "tokens"),
    ("settings",),
    ("settings", "seed"),
]


def comparison_with(path: tuple[Any, ...], value: object) -> str:
    data = json.loads(dumped(COMPARISON))
    place = data
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return dumped(data)


@settings(max_examples=250, deadline=None)
@given(st.builds(comparison_with, st.sampled_from(_PATHS), JSON) | spoilt(COMPARISON))
@example(comparison_with(("answers", 0, "user"), "\x1b[2J\n[bold]<script>alert(1)</script>"))
@example(comparison_with(("held_out", "base_perplexity"), 10**300))
def test_any_comparison_is_shown_or_refused_in_words(text: str) -> None:
    try:
        found = parse_comparison(text, "comparison.json")
    except RunError as error:
        assert "cannot be read" in error.message
        return
    harmless(comparison_text(found, 80))
    assert "<script" not in to_html([found], "r")
    to_markdown([found], "r").encode()


class _NoLink:
    """Queues are read without a host."""


_SLURM = Slurm(_NoLink())  # type: ignore[arg-type]
_DIRECT = Direct(_NoLink(), "/w", "python3")  # type: ignore[arg-type]
_FIELDS = st.text(max_size=12) | st.sampled_from(
    [
        "PENDING",
        "RUNNING",
        "9" * 5000,
        "²",
        "٣",
        "-1",
        "a\x1b]0;x\x07b",
        "\x9b2J",
        "\u2028",
        "x\x1ey",
        "\ud800",
    ]
)
_QUEUE = st.lists(st.lists(_FIELDS, min_size=7, max_size=11).map(FIELD.join), max_size=4).map("\n".join)


@settings(max_examples=300, deadline=None)
@given(_QUEUE | st.text(max_size=80))
def test_any_queue_gives_jobs_that_can_be_shown(output: str) -> None:
    for job in (*_SLURM.parse_queue(output), *_DIRECT.parse_queue(output)):
        for text in (job.id, job.word, job.reason, job.nodes, job.name, job.comment, job.user):
            assert "\n" not in text
            harmless(text)
        for moment in (job.submitted, job.started, job.ended):
            assert moment is None or 0 <= moment < 10**15


def test_a_name_that_ends_lines_of_text_hides_no_job() -> None:
    line = FIELD.join(
        ("7", "RUNNING", "None", "1", "2", "", "n1", "me", "odd\x1e\u2028\x85name", "r/finetune/1")
    )
    assert [job.id for job in _SLURM.parse_queue(line)] == ["7"]
    assert isinstance(_SLURM.parse_queue(line)[0], Job)


@settings(max_examples=200, deadline=None)
@given(
    spoilt({"dataset": {"token_lengths": [[10, 2]]}})
    | JSON.map(lambda odd: dumped({"dataset": {"token_lengths": odd}}))
)
@example(dumped({"dataset": {"token_lengths": [[10, 10**12]]}}))
@example(dumped({"dataset": {"token_lengths": [[10, 1e999]]}}))
@example(dumped({"dataset": {"token_lengths": [[-10, 3]]}}))
@example(dumped({"dataset": [5]}))
def test_any_report_gives_lengths_or_none(text: str) -> None:
    layout = RunLayout("/w/runs/r")
    files = {layout.settings: to_toml(defaults(Stack.CPU)), layout.report(Stage.DOWNLOAD_MODEL): text}
    run = measured_run(layout, files)
    assert run is not None
    lengths = lengths_of_report(run.reports.get(Stage.DOWNLOAD_MODEL, {}))
    assert lengths is None or 0 < lengths.records <= MOST_RECORDS


# --- names of runs


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = connect(Place(str(tmp_path / "w"), scheduler=SchedulerChoice.DIRECT))
    yield opened
    opened.close()


ODD_NAMES = [
    "-rf",
    "--help",
    "a\nb",
    "a\x1b[2Jb",
    "..x",
    "$(reboot)",
    "a b",
    "[bold]x",
    "\udcff",
    "é",
    "x" * 200,
]


def test_directories_with_odd_names_are_no_runs(site: Site, tmp_path: Path) -> None:
    run = tiny_run(site, tmp_path / "w")
    settings_text = Path(run.layout.settings).read_text()
    for name in ODD_NAMES:
        folder = Path(run.layout.path).with_name(name)
        folder.mkdir()
        (folder / "settings.toml").write_text(settings_text)
    # Files that are no runs' in a directory that could be one.
    broken = Path(run.layout.path).with_name("broken-20260101-000000")
    (broken / "status").mkdir(parents=True)
    (broken / "settings.toml").write_text("a = " + "[" * 100_000)
    (broken / "status/finetune.json").write_text(DEEP)
    found = list_runs(site)
    assert [info.run_id for info in found] == [run.run_id]
    harmless(runs_text(found))


@pytest.mark.parametrize("name", ["../x", "..", ".", "/etc", "x/../y", "a\x00b", *ODD_NAMES])
def test_a_name_that_leads_elsewhere_opens_nothing(name: str, site: Site, tmp_path: Path) -> None:
    run = tiny_run(site, tmp_path / "w")
    for place in ("settings.toml", "runs/settings.toml"):
        (tmp_path / "w" / place).write_text(Path(run.layout.settings).read_text())
    with pytest.raises(RunError, match="There is no run"):
        open_run(site, name)


# --- a look at a data set


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", DEEP.encode()),
        ("a.jsonl", b"\xff\xfe\x00\n"),
        ("a.jsonl", b'{"instruction": "x"}\n'),
        ("a.jsonl", b""),
        ("a.csv", b'instruction,reply\n"a","' + b"x" * 1_000_000 + b'"\n'),
        ("a.csv", b"\x00\x00,\n\x00"),
        ("a.jsonl", b'{"instruction": "' + b"x" * 5_000_000 + b'"}'),
    ],
    ids=range(7),
)
def test_a_look_at_a_hostile_data_set_is_told_in_words(
    name: str, content: bytes, site: Site, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        look_at_data(site, dataset_settings(tmp_path / name))
    caught.value.message.encode()


def test_a_look_shows_what_would_act_as_text(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"instruction": "\ud800\x1b[2J[bold]a\u2028b", "response": ["x", "\x1b]0;t\x07"]},
        {"instruction": "\u202ec", "response": 10**4000},
    ]
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=number == 0) + "\n" for number, row in enumerate(rows))
    )
    look = look_at_data(site, dataset_settings(path))
    text = look_text(look)
    assert "[bold]a" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    text.encode()
    assert len(look.lengths) == 2
    assert data_look.histogram(look.lengths)


def dataset_settings(path: Path) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["model"]["dataset"] = str(path)
    return Settings.model_validate(data)
