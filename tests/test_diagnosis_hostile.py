"""Any text is diagnosed: quickly, without a crash, and without finding a failure where there is only noise."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_tui.backend.diagnosis.catalogue import HEALTHY, UNKNOWN, kinds
from llama_tui.backend.diagnosis.diagnose import diagnose
from llama_tui.backend.diagnosis.logtext import LogText, clean
from llama_tui.backend.diagnosis.symptoms import Symptoms
from tests.failure_cases import given_cases

WORDS = "the error of step no file in node is not job token shape model failed while loading a device memory timed".split()
MEGABYTE = 1_000_000

texts = st.text(max_size=400)
# Without the strings that Hypothesis finds in our own code: "connection refused" is one of them, and no noise.
noise = st.lists(st.characters(), max_size=400).map("".join)
lines = st.lists(
    st.one_of(
        texts, st.sampled_from([line for case in given_cases() for line in case.symptoms.log.split("\n")])
    )
)
codes = st.one_of(st.none(), st.integers(-70, 300))
states = st.one_of(
    st.none(),
    st.sampled_from(["FAILED", "COMPLETED", "PENDING", "R", "CANCELLED by 0", "TO", "", "  "]),
    texts,
)


@settings(max_examples=150, deadline=None)
@given(
    lines,
    st.one_of(st.none(), st.sampled_from(["finetune", "submit", "ssh"]), texts),
    codes,
    codes,
    states,
    states,
    states,
)
def test_no_text_crashes_it(
    log: list[str],
    stage: str | None,
    exit_code: int | None,
    signal: int | None,
    state: str | None,
    reason: str | None,
    node: str | None,
) -> None:
    told = diagnose(Symptoms("\n".join(log), stage, exit_code, signal, state, reason, node))
    assert told.kind in kinds()
    assert told.cause and told.fix and told.source
    assert len(told.lines) <= 8


@settings(max_examples=200, deadline=None)
@given(
    noise,
    st.sampled_from(["create_env", "finetune", "inference", "submit", "ssh", None]),
    st.integers(1, 120),
)
def test_random_text_is_no_known_failure(log: str, stage: str | None, exit_code: int) -> None:
    assert diagnose(Symptoms(log, stage, exit_code)).kind == UNKNOWN


@settings(max_examples=100, deadline=None)
@given(texts)
def test_random_text_after_a_success_is_healthy(log: str) -> None:
    assert diagnose(Symptoms(log, "finetune", 0, None, "COMPLETED")).kind == HEALTHY


def _logs() -> dict[str, str]:
    chance = random.Random(7)
    return {
        "one line": "x error " * (10 * MEGABYTE // 8),
        "one letter": "a" * (10 * MEGABYTE),
        "empty lines": "\n" * (10 * MEGABYTE),
        "short lines": "ab\n" * (10 * MEGABYTE // 3),
        "progress bars": "\r 10%|##  | 1/10 [00:01<00:09, 1.1it/s]" * (10 * MEGABYTE // 38),
        "escapes": "\x1b[31merror\x1b]0;title" * (10 * MEGABYTE // 20),
        "escapes by line": "\0\x1b[1m\ud800 error:\n" * (10 * MEGABYTE // 14),
        "words": "\n".join(" ".join(chance.choices(WORDS, k=20)) for _ in range(90_000)),
        "all different": "\n".join(
            f"error {chance.getrandbits(300):x} failed neuron {i}" for i in range(100_000)
        ),
        "all that patterns begin with": ("neuron device " * 140 + "\n") * 5000,
    }


LOGS = _logs()


@pytest.mark.parametrize("name", LOGS)
def test_ten_megabytes_take_no_more_than_seconds(name: str) -> None:
    """Under one on a quiet machine; what grows with the square of the log takes minutes on any."""
    diagnose(Symptoms("", "finetune", 1))  # loads and compiles the catalogue once
    before = time.process_time()
    diagnose(Symptoms(LOGS[name], "finetune", 1, None, "FAILED"))
    assert time.process_time() - before < 15


def test_the_cause_is_found_at_the_end_of_a_large_log() -> None:
    noise = LOGS["words"]
    told = diagnose(
        Symptoms(noise + "\nOSError: [Errno 28] No space left on device\n" + "srun: x\n" * 50, "finetune", 1)
    )
    assert told.kind == "disk_full"
    assert told.lines[-1].text or told.lines
    numbers = {line.text: line.number for line in told.lines}
    assert numbers["OSError: [Errno 28] No space left on device"] == noise.count("\n") + 2


def test_a_message_within_escapes_and_nuls_is_read() -> None:
    log = "\x1b[2J\x1b[31mOSError\x1b[0m: [Err\0no 28] No sp\x1b]0;pwned\x07ace left on device\ud800\n"
    told = diagnose(Symptoms(log, "finetune", 1))
    assert told.kind == "disk_full"
    assert [line.text for line in told.lines] == ["OSError: [Errno 28] No space left on device"]


def test_what_is_shown_acts_on_no_terminal() -> None:
    log = "error: \x1b]52;c;ZXZpbA==\x07\x1b[1;1H\u202eKeyError\u2066 \x9b31m\n"
    told = diagnose(Symptoms(log, "finetune", 1))
    shown = told.cause + "".join(line.text for line in told.lines)
    assert shown.isprintable()


def test_a_long_line_keeps_both_ends() -> None:
    text = clean("Command '['neuronx-cc', " + "x" * 5000 + "died with <Signals.SIGKILL: 9>")
    assert text.startswith("Command")
    assert text.endswith("<Signals.SIGKILL: 9>")
    assert len(text) < 1600


def test_of_many_like_lines_the_first_and_the_last_are_kept() -> None:
    log = LogText("\n".join(f"step {i}" for i in range(50_000)))
    numbers = [line.number for line in log.lines]
    assert numbers == [1, 2, 49_998, 49_999, 50_000]


def test_braces_and_backslashes_in_a_name_stay_text() -> None:
    told = diagnose(
        Symptoms("sbatch: error: invalid partition specified: {package}\\1{0.__class__}", "submit", 1)
    )
    assert told.kind == "slurm_invalid_partition"
    assert "{package}\\1{0.__class__}" in told.cause
