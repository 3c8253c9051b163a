"""Failures told right: the given examples, further wordings of the same kinds, and both with other details."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from llama_tui.backend.diagnosis.catalogue import HEALTHY, UNKNOWN
from llama_tui.backend.diagnosis.diagnose import Diagnosis, diagnose
from llama_tui.backend.diagnosis.symptoms import Outcome, Symptoms
from tests.failure_cases import FailureCase, given_cases, held_out_cases, wordings

CASES = given_cases()
HELD_OUT = held_out_cases()
WORDINGS = wordings()
NAMES = {
    "/fsx/ubuntu": "/lustre/scratch/jdoe",
    "peft_ft": "exp-7",
    "ip-10-1-0-": "trn-queue-st-",
    "ml-cluster": "login3",
    "ubuntu": "jdoe",
    "meta-llama": "unsloth",
    "Meta-Llama-3-8B-Instruct": "Llama-3.2-1B",
    "train.py": "run_sft.py",
    "python3.10": "python3.11",
}
_NUMBERS = re.compile(r"(?<![\w.\-])\d{3,}(?![\w.])")
# Numbers that carry the meaning: ports and counts do not, errno, HTTP codes, 100 per cent and the like do.
_MEANT = {"100", "401", "403", "404", "429", "504", "128001", "118", "101", "110", "111", "113", "122"}
_FRAME = re.compile(r'^\S*\s*File "[^"]+", line \d+')


def _ids(cases: list[FailureCase]) -> list[str]:
    return [case.name for case in cases]


def _renamed(log: str) -> str:
    for old, new in NAMES.items():
        log = log.replace(old, new)
    return log


def _renumbered(log: str) -> str:
    return _NUMBERS.sub(lambda match: match[0] if match[0] in _MEANT else str(int(match[0]) + 1117), log)


def _without_frames(log: str) -> str:
    """No stack frames (nor the code below each) and nothing of what srun and torchrun report afterwards."""
    rows, skip = [], False
    for row in log.split("\n"):
        if skip and row.startswith(("    ", "[rank")) and not re.search(r"\w(?:Error|Exception): ", row):
            skip = False
            continue
        skip = bool(_FRAME.match(row))
        if not skip and not re.match(r"srun: error: \S+: task|=====|-----|W\d{4} |E\d{4} ", row):
            rows.append(row)
    return "\n".join(rows)


def _in_a_long_log(log: str) -> str:
    steps = "\n".join(f"{i / 20:.1f}%|#   | {i}/800 [00:{i % 60:02d}<01:00, 1.5s/it]" for i in range(800))
    return f"--- stage on node\n{steps}\n{log}"


def _by_ranks(log: str) -> str:
    return "\n".join(f"[rank3]: {row}" if row else row for row in log.split("\n"))


def _with_carriage_returns(log: str) -> str:
    return "\r\n".join(f" 10%|#  | 1/10\r 20%|## | 2/10\r{row}" for row in log.split("\n"))


# A frame may be all that tells one cause from another, so not all cases are told without frames.
WITH_FRAMES: list[Callable[[str], str]] = [_renamed, _renumbered, _in_a_long_log, _with_carriage_returns]
MUTATIONS: list[Callable[[str], str]] = [
    *WITH_FRAMES,
    _without_frames,
    lambda log: _renamed(_renumbered(_without_frames(log))),
]


@pytest.mark.parametrize("case", CASES, ids=_ids(CASES))
def test_given_case(case: FailureCase) -> None:
    told = diagnose(case.symptoms)
    assert told.kind == case.kind, told
    assert told.cause and told.fix and told.source
    assert told.sure is False or told.kind != UNKNOWN


@pytest.mark.parametrize("case", HELD_OUT, ids=_ids(HELD_OUT))
def test_held_out_case(case: FailureCase) -> None:
    told = diagnose(case.symptoms)
    assert told.kind == case.kind, told


@pytest.mark.parametrize("case", WORDINGS, ids=_ids(WORDINGS))
def test_other_wording(case: FailureCase) -> None:
    told = diagnose(case.symptoms)
    assert told.kind == case.kind, told


def test_there_are_95_given_cases_and_every_kind_has_another_wording() -> None:
    assert len(CASES) == 95
    assert {case.kind for case in CASES} == {case.kind for case in WORDINGS}


def _told_wrong(cases: Sequence[FailureCase], mutation: Callable[[str], str]) -> dict[str, tuple[str, str]]:
    """{case: (its kind, what was told)} of those that are told otherwise when their log is changed so."""
    told = [(case, diagnose(replace(case.symptoms, log=mutation(case.symptoms.log))).kind) for case in cases]
    return {case.name: (case.kind, kind) for case, kind in told if kind != case.kind}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_given_cases_with_other_details(mutation: Callable[[str], str]) -> None:
    assert _told_wrong(CASES, mutation) == {}


@pytest.mark.parametrize("mutation", WITH_FRAMES)
def test_held_out_cases_with_other_details(mutation: Callable[[str], str]) -> None:
    assert _told_wrong(HELD_OUT, mutation) == {}


def test_given_cases_whose_every_line_is_a_ranks() -> None:
    """Only what a job prints has ranks before it; what sbatch and ssh say has not."""
    of_jobs = [case for case in CASES if case.symptoms.stage not in {"submit", "ssh", "create_env"}]
    assert _told_wrong(of_jobs, _by_ranks) == {}


def test_the_decisive_lines_alone_tell_the_same() -> None:
    """What decides must be in the lines that are shown, not in details around them."""
    wrong = {}
    for case in CASES:
        told = diagnose(case.symptoms)
        if case.kind in {HEALTHY, UNKNOWN}:
            continue
        shown = "\n".join(line.text for line in told.lines)
        again = diagnose(replace(case.symptoms, log=shown)).kind
        if again != case.kind:
            wrong[case.name] = (case.kind, again)
    assert wrong == {}


def test_the_lines_shown_are_lines_of_the_log_with_their_numbers() -> None:
    for case in CASES:
        rows = case.symptoms.log.split("\n")
        lines = diagnose(case.symptoms).lines
        assert len(lines) <= 8
        assert [line.number for line in lines] == sorted(line.number for line in lines)
        for line in lines:
            assert line.text.strip() in rows[line.number - 1].replace("\t", "    ")


def test_the_first_error_and_the_last_frame_are_shown() -> None:
    log = 'step 1\nTraceback (most recent call last):\n  File "/x/train.py", line 9, in main\n    go()\nKeyError: 9\nsrun: error: n1: task 0: Exited with exit code 1\n'
    told = diagnose(Symptoms(log, "finetune", 1, None, "FAILED", "NonZeroExitCode"))
    assert told.kind == UNKNOWN
    shown = [line.text for line in told.lines]
    assert '  File "/x/train.py", line 9, in main' in shown
    assert "KeyError: 9" in shown
    assert "KeyError: 9" in told.cause


def test_what_our_own_program_says_is_handed_on_where_no_kind_fits() -> None:
    log = "error: no record of /d.jsonl has both an instruction and a response\nhint: look at the file's fields\n"
    told = diagnose(Symptoms(log, "download_model", 1, None, "FAILED"))
    assert told.kind == UNKNOWN
    assert not told.sure
    assert "no record of /d.jsonl" in told.cause
    assert told.fix == "look at the file's fields"


def test_names_from_the_log_stand_in_the_cause() -> None:
    told = diagnose(Symptoms("ERROR: No matching distribution found for torch-xla==9.9", "create_env", 1))
    assert "torch-xla" in told.cause
    told = diagnose(Symptoms("", "finetune", 0, None, "CANCELLED by 4711"))
    assert "4711" in told.cause


def _told(log: str, **known: object) -> Diagnosis:
    return diagnose(Symptoms(log, **known))  # type: ignore[arg-type]


def test_the_state_outranks_the_cascade_in_the_log() -> None:
    log = "[rank1]: RuntimeError: The client socket has timed out after 60s\nOut of memory\n"
    assert (
        _told(log, stage="finetune", exit_code=0, signal=15, slurm_state="PREEMPTED").kind
        == "slurm_preempted"
    )
    assert _told(log, stage="finetune", exit_code=0, signal=15, slurm_state="NODE_FAIL").kind == "node_failed"
    assert _told(log, stage="finetune", exit_code=1, slurm_state="FAILED").kind == "rendezvous_failed"


def test_only_the_last_attempt_of_a_requeued_job_counts() -> None:
    first = "--- finetune on n1\nOSError: [Errno 28] No space left on device\n"
    second = "--- finetune, attempt 2, on n2\nModuleNotFoundError: No module named 'trl.x'\n"
    assert _told(first + second, stage="finetune", exit_code=1).kind == "module_missing"
    assert _told(first, stage="finetune", exit_code=1).kind == "disk_full"


def test_a_swallowed_exception_is_a_failure_and_one_at_exit_is_not() -> None:
    error = "Error: Shards directory not found at: /x/adapter_shards\n"
    done = "Consolidated adapter saved to /x\n"
    known = {"stage": "model_consolidation", "exit_code": 0, "slurm_state": "COMPLETED"}
    assert _told(error, **known).kind == "shards_missing"
    assert _told(error + done, **known).kind == HEALTHY
    ignored = (
        "Exception ignored in: <function X.__del__>\nTraceback (most recent call last):\nMemoryError: x\n"
    )
    assert _told(done + ignored, **known).kind == HEALTHY


@pytest.mark.parametrize(
    ("note", "kind"),
    [
        ("HTTP Error 429 thrown while requesting HEAD https://huggingface.co/x", "hub_rate_limited"),
        ("1:1 [0] init.cc:138 CCOM WARN OFI plugin initNet() failed is EFA enabled?", "efa_unavailable"),
        (
            "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to the C10d store has failed.",
            "rendezvous_failed",
        ),
    ],
)
def test_warnings_and_cascades_do_not_explain_an_exception_that_is_not_known(note: str, kind: str) -> None:
    known = {"stage": "finetune", "exit_code": 1, "slurm_state": "FAILED"}
    raised = "[rank0]: Traceback (most recent call last):\n[rank0]: KeyError: 'context'\n"
    assert _told(f"{note}\n", **known).kind == kind
    for log in (f"{note}\n{raised}", f"{raised}{note}\n"):
        told = _told(log, **known)
        assert told.kind == UNKNOWN
        assert "KeyError" in told.cause


def test_a_nan_that_training_got_over_is_no_failure() -> None:
    bad = "{'loss': 1.4, 'grad_norm': nan, 'epoch': 0.1}\n"
    good = "{'loss': 1.3, 'grad_norm': 0.7, 'epoch': 0.2}\n"
    known = {"stage": "finetune", "exit_code": 0, "slurm_state": "COMPLETED"}
    assert _told(good + bad + bad, **known).kind == "loss_diverged"
    assert _told(bad + good + good, **known).kind == HEALTHY
    below_one = good.replace("1.3", "0.84").replace("0.7", "0.31")
    for first in (bad, bad.replace("1.4", "0.0").replace("nan", "0.0") * 2):
        assert _told(first + below_one + below_one, **known).kind == HEALTHY


def test_a_job_that_waits_or_runs_has_not_failed() -> None:
    alarming = "ERROR: Read timed out.\n"
    assert _told(alarming, stage="download_model", slurm_state="RUNNING").kind == HEALTHY
    assert _told("", stage="submit", slurm_state="PENDING", slurm_reason="Resources").kind == HEALTHY
    assert (
        _told("", stage="submit", slurm_state="PD", slurm_reason="Resources", node_state="idle").kind
        == HEALTHY
    )


def test_without_codes_and_states_the_log_alone_tells_as_much_as_it_holds() -> None:
    """As in `diagnose LOG --stage S`: what only the scheduler knows cannot be told, the rest must be."""
    wrong = {}
    for case in CASES:
        told = diagnose(Symptoms(case.symptoms.log, case.symptoms.stage))
        if told.kind != case.kind:
            wrong[case.name] = (case.kind, told.kind)
        if case.kind == HEALTHY:
            assert not told.sure
    assert wrong == {}


def test_without_the_stage_the_given_cases_are_told_the_same() -> None:
    told = {case.name: diagnose(replace(case.symptoms, stage=None)).kind for case in CASES}
    assert told == {case.name: case.kind for case in CASES}


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        ({"exit_code": 0}, Outcome.SUCCEEDED),
        ({"exit_code": 0, "slurm_state": "CD"}, Outcome.SUCCEEDED),
        ({"exit_code": 0, "slurm_state": "CANCELLED+"}, Outcome.FAILED),
        ({"exit_code": 0, "signal": 53}, Outcome.FAILED),
        ({"exit_code": 0, "slurm_state": "OUT_OF_ME+"}, Outcome.FAILED),
        ({"slurm_state": "pending"}, Outcome.WAITING),
        ({"slurm_state": "CG"}, Outcome.RUNNING),
        ({}, Outcome.NOT_TOLD),
    ],
)
def test_outcome(known: dict[str, object], outcome: Outcome) -> None:
    assert Symptoms("", **known).outcome is outcome  # type: ignore[arg-type]


def test_codes_that_stand_for_signals() -> None:
    assert Symptoms("", exit_code=143).ended_by == 15
    assert Symptoms("", exit_code=-9).ended_by == 9
    assert Symptoms("", exit_code=255).ended_by is None
    assert Symptoms("", exit_code=0, signal=53).ended_by == 53
    assert Symptoms("", exit_code=0, slurm_reason="RaisedSignal:9(Killed)").ended_by == 9
