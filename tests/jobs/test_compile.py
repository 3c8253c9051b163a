"""Stage 2 on Trainium: what compile_model.py makes of a compiler's output, and how stage 3 tells hits from misses.

The compiler is a stand-in that prints lines as neuron_parallel_compile does (their look is from real logs).
"""

import json
import logging
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import graphs
import options
import pytest

from tests.jobs.conftest import JOBS

_STAMP = "2025-03-18 22:31:40.000102:  6120  "
BEGIN = f"{_STAMP}INFO ||NEURON_PARALLEL_COMPILE||: Compiling 4 graphs with 2 workers"


def totals(graphs: int, compiled: int, failed: int) -> list[str]:
    said = {
        "Total graphs": graphs,
        "Total successful compilations": compiled,
        "Total failed compilations": failed,
    }
    return [f"{_STAMP}INFO ||NEURON_PARALLEL_COMPILE||: {name}: {number}" for name, number in said.items()]


def progress(remaining: int, locked: int, failed: int, done: int) -> str:
    return (
        f"{_STAMP}INFO ||NEURON_CACHE||: Current remaining items are {remaining}, locked are {locked}, "
        f"failed are {failed}, done are {done}, total is 4"
    )


def compile_model(
    tmp_path: Path, lines: list[str], code: int = 0
) -> "tuple[subprocess.CompletedProcess[str], dict[str, object]]":
    """Run compile_model.py around a stand-in that prints the lines and ends with the code; gives its report too."""
    said = tmp_path / "said"
    said.write_text("\n".join([*lines, ""]))
    command = ["sh", "-c", f"cat {shlex.quote(str(said))}; exit {code}"]
    report = tmp_path / "reports/compile_model.json"
    done = subprocess.run(
        [sys.executable, str(JOBS / "compile_model.py"), "--report", str(report), "--", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, json.loads(report.read_text())


def test_progress_is_shown_once_for_each_change(tmp_path: Path) -> None:
    lines = [BEGIN, *[progress(2, 1, 0, 1)] * 3, progress(0, 0, 0, 4), *totals(4, 4, 0)]
    done, report = compile_model(tmp_path, lines)
    assert done.returncode == 0, done.stderr
    bars = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert bars == [
        "[#####...............] 1 of 4 graphs compiled, 2 left, 1 being compiled",
        "[####################] 4 of 4 graphs compiled, 0 left",
    ]
    assert "4 of 4 graphs compiled in " in done.stdout.splitlines()[-1]
    assert (report["graphs"], report["compiled"], report["failed"]) == (4, 4, 0)


@pytest.mark.parametrize("code", [0, 1])
def test_a_failed_graph_fails_the_stage_with_its_message(code: int, tmp_path: Path) -> None:
    """With exit code 0 as well; and what failed while graphs were collected is not its message."""
    lines = [
        f"{_STAMP}ERROR ||NEURON_RT||: only while collecting",
        BEGIN,
        "2023-12-12T00:41:38Z [LUR015]  Compiler generated too many instructions (9530773).",
        f"{_STAMP}ERROR ||NEURON_CC_WRAPPER||: Compilation failed for /tmp/model.MODULE_246+e30acd3a.hlo_module.pb",
        *totals(4, 3, 1),
    ]
    done, report = compile_model(tmp_path, lines, code)
    assert done.returncode == 1
    assert "error: 1 of 4 graphs failed to compile (MODULE_246+e30acd3a)" in done.stderr
    assert "[LUR015]  Compiler generated too many instructions" in done.stderr
    assert "only while collecting" not in done.stderr
    assert report["failed_graphs"] == ["MODULE_246+e30acd3a"]


def test_a_remembered_failure_is_told_with_the_compilers_own_log(tmp_path: Path) -> None:
    graph = tmp_path / "cache/MODULE_90+4fbd2a2f"
    graph.mkdir(parents=True)
    (graph / "model.log").write_text("first\n" * 9 + "[EVRF007] too many instructions\n")
    lines = [
        BEGIN,
        f"INFO ||NCC_WRAPPER||: Got a cached failed neff at {graph}/model.neff. Will skip",
        *totals(4, 3, 1),
    ]
    done, _ = compile_model(tmp_path, lines)
    assert done.returncode == 1
    assert "MODULE_90+4fbd2a2f: [EVRF007] too many instructions" in done.stderr


def test_of_several_nodes_the_worst_counts(tmp_path: Path) -> None:
    done, report = compile_model(tmp_path, [BEGIN, *totals(4, 3, 1), *totals(4, 4, 0)])
    assert done.returncode == 1
    assert (report["compiled"], report["failed"]) == (3, 1)


@pytest.mark.parametrize(
    ("lines", "code", "words"),
    [
        ([], 0, "gave no summary"),
        ([], 3, "exit code 3"),
        (totals(4, 4, 0), 3, "exit code 3"),
        ([], 143, "exit code 143"),
    ],
)
def test_no_summary_or_an_exit_code_is_no_success(
    lines: list[str], code: int, words: str, tmp_path: Path
) -> None:
    done, _ = compile_model(tmp_path, lines, code)
    assert done.returncode == 1
    assert words in done.stderr


def test_sigterm_ends_the_compiler_and_its_workers(tmp_path: Path) -> None:
    """The worker holds the output open: unless it ends too, the stage would wait for it."""
    command = ["sh", "-c", "sleep 60 & echo ready; wait"]
    with subprocess.Popen(
        [
            sys.executable,
            str(JOBS / "compile_model.py"),
            "--report",
            str(tmp_path / "r.json"),
            "--",
            *command,
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(50) == 143
        assert "stopped by SIGTERM" in process.stdout.read()
    assert not (tmp_path / "r.json").exists()


# --- stage 3: hits, misses, and what differs


def asked(run: Path, **changes: object) -> options.Options:
    words = {"model-dir": "/m", "dataset-dir": "/d", "run-dir": run, "backend": "neuron", **changes}
    return options.parse([word for name, value in words.items() for word in (f"--{name}", str(value))])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "a cache"
    flags = f"--model-type=transformer --cache_dir={shlex.quote(str(folder))}"
    monkeypatch.setenv("NEURON_CC_FLAGS", flags)
    compile_graph(folder, "MODULE_1+aa")
    return folder


def compile_graph(cache: Path, name: str) -> None:
    (cache / "neuronxcc-2.21" / name).mkdir(parents=True)
    (cache / "neuronxcc-2.21" / name / "model.neff").touch()


def find_graph(cache: Path, name: str) -> None:
    logging.getLogger("NEURON_CC_WRAPPER").warning(
        f"Using a cached neff at {cache}/neuronxcc-2.21/{name}/model.neff"
    )


def compiled_for(run: Path, arguments: object) -> None:
    (run / "reports").mkdir(exist_ok=True)
    (run / "reports/compile_model.json").write_text(json.dumps({"arguments": arguments}))


def test_all_found_is_no_warning(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = graphs.CacheWatch()
    for _ in range(3):
        find_graph(cache, "MODULE_1+aa")
    assert watch.tell(tmp_path, {}) == {"cache_hits": 1, "cache_misses": 0}
    assert capsys.readouterr().out == "compile cache: 1 graphs found, none missing\n"


def test_a_miss_names_what_differs(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = graphs.arguments_of(asked(tmp_path, **{"sequence-length": 1024, "max-steps": 10}), 32)
    compiled_for(tmp_path, then)
    watch = graphs.CacheWatch()
    find_graph(cache, "MODULE_1+aa")
    compile_graph(cache, "MODULE_2+bb")
    now = graphs.arguments_of(asked(tmp_path, **{"sequence-length": 2048, "epochs": 3}), 64)
    facts = watch.tell(tmp_path, now)
    assert (facts["cache_hits"], facts["cache_misses"], facts["missed"]) == (1, 1, ["MODULE_2+bb"])
    assert facts["differences"] == [
        "processes was 32 in stage 2 and is 64 here",
        "sequence_length was 1024 in stage 2 and is 2048 here",
    ]
    assert "warning: 1 graphs were not in the compile cache" in capsys.readouterr().out


def test_nothing_is_claimed_where_the_library_said_nothing(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert graphs.CacheWatch().tell(cache.parent, {})["cache_misses"] == 0
    assert capsys.readouterr().out == "compile cache: none missing\n"


@pytest.mark.parametrize(
    ("report", "words"),
    [("none", "left no report"), ("old", "does not say"), ("same", "the cache was emptied")],
)
def test_a_miss_without_a_difference_says_so(report: str, words: str, cache: Path, tmp_path: Path) -> None:
    now = graphs.arguments_of(asked(tmp_path), 32)
    if report != "none":
        compiled_for(tmp_path, now if report == "same" else None)
    watch = graphs.CacheWatch()
    compile_graph(cache, "MODULE_2+bb")
    assert words in watch.tell(tmp_path, now)["differences"][0]


def test_only_what_is_in_no_graph_is_left_out() -> None:
    """An option that is added later is compared, unless it is put on this list."""
    options_here = asked(Path("/r"))
    left_out = set(vars(options_here)) - set(graphs.arguments_of(options_here, 1))
    where = {"run_dir", "dataset_dir", "report"}
    how_long = {"epochs", "max_steps", "rehearse"}
    what_is_kept = {"save_steps", "save_total_limit", "logging_steps"}
    assert left_out == where | how_long | what_is_kept
