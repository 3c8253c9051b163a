"""The catalogue is complete, in order, and keyed to what programs say, not to details of the examples."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llama_tui.backend.diagnosis.catalogue import PLACES, Kind, Signature, kinds, rules
from llama_tui.backend.diagnosis.diagnose import diagnose
from llama_tui.backend.diagnosis.logtext import LogText
from llama_tui.backend.diagnosis.patterns import LinePattern, needles_of, nested_quantifier
from llama_tui.backend.diagnosis.symptoms import Symptoms
from llama_tui.backend.dotted import field_names
from llama_tui.backend.settings import Settings
from llama_tui.tui.steps.forms import STEPS
from tests.failure_cases import given_cases, wordings

KINDS = """
pip_no_matching_version pip_dependency_conflict venv_ensurepip_missing apt_lock_held network_unreachable disk_full
disk_quota_exceeded hub_gated_no_access hub_token_missing hub_token_invalid hub_token_scope hub_offline_mode
hub_rate_limited download_interrupted download_incomplete dataset_not_found neuron_compile_failed neuron_cached_failure
neuron_compile_too_large neuron_compile_oom compiler_not_found env_not_active bad_arguments shared_library_missing
module_missing package_version_mismatch neuron_device_busy neuron_driver_missing neuron_device_missing
neuron_core_count_unsupported neuron_comm_failed neuron_hw_error neuron_exec_timeout device_oom mpmd_mismatch
tp_not_divisible efa_unavailable rendezvous_failed port_in_use host_oom loss_diverged shards_missing checkpoint_corrupt
adapter_config_missing peft_config_unknown_field weights_shape_mismatch target_modules_missing chat_template_missing
model_files_missing generation_nan transformers_too_old slurm_invalid_partition slurm_invalid_account
slurm_config_unavailable slurm_limit_exceeded slurm_time_limit_invalid slurm_controller_unreachable slurm_auth_failed
slurm_socket_timeout slurm_dependency_never slurm_launch_failed slurm_nodes_unavailable slurm_unknown_option
slurm_output_unwritable slurm_script_dos slurm_spool_lost slurm_step_unavailable slurm_preempted time_limit node_failed
cancelled_by_user ssh_hostkey_changed ssh_hostkey_unknown ssh_auth_failed ssh_key_permissions ssh_key_encrypted
ssh_session_limit ssh_ssm_not_connected ssh_ssm_plugin_missing ssh_unreachable ssh_banner healthy unknown
""".split()

# Names and paths that stand only in the examples.
INCIDENTAL = (
    "ip-10-",
    "/fsx",
    "peft_ft",
    "ubuntu",
    "ml-cluster",
    "dolly",
    "llama3-8b",
    "trn1-32xl",
    "job00",
    "mi-0123",
    "/certifi",
    "libxml2",
    "train.py",
    "submit_jobs",
)


def _patterns() -> list[tuple[str, LinePattern]]:
    return [
        (rule.kind, pattern)
        for rule in rules()
        for pattern in (*rule.lines, *rule.skip, *rule.also, *rule.unless, *rule.unless_after)
    ]


def test_every_kind_is_there_and_no_other() -> None:
    assert sorted(kinds()) == sorted(KINDS)


def test_every_signature_says_what_to_do_and_where_it_is_known_from() -> None:
    for rule in rules():
        assert rule.cause.endswith((".", "{said}")), rule.kind
        assert rule.fix.endswith("."), rule.kind
        assert rule.source.strip(), rule.kind
        assert "http" not in rule.source, rule.kind
        assert set(rule.signature.stages) <= set(PLACES)


def test_every_signature_states_something() -> None:
    for rule in rules():
        assert rule.signature.lines or rule.signature.conditions, rule.kind


def test_patterns_compile_repeat_nothing_twice_and_can_be_ruled_out_fast() -> None:
    for kind, pattern in _patterns():
        assert pattern.regex.pattern == pattern.source
        assert not nested_quantifier(pattern.source), (kind, pattern.source)
        assert pattern.needles, (kind, pattern.source)
        assert pattern.regex.search("") is None, (kind, pattern.source)


def test_no_pattern_matches_ordinary_progress() -> None:
    """Lines that every good run prints."""
    lines = [
        "Loading checkpoint shards: 100%|##########| 4/4 [00:12<00:00,  3.1s/it]",
        "{'loss': 1.2214, 'grad_norm': 0.61, 'learning_rate': 3.1e-05, 'epoch': 0.42}",
        "Collecting torch==2.1.2",
        "> initializing tensor model parallel with size 8",
        "Successfully installed torch-2.1.2",
        "Compiler status PASS",
        "+ source /fsx/w/envs/neuron-0123/bin/activate",
        "Submitted batch job 413",
        "step 12/100 loss 2.31 lr 1.0e-04 1234 tokens/s",
    ]
    firing = [
        (rule.kind, line)
        for rule in rules()
        for line in lines
        if any(pattern.regex.search(line) for pattern in rule.lines) and rule.signature.priority > 57
    ]
    assert firing == []


def test_no_signature_is_keyed_to_details_of_the_examples() -> None:
    for kind, pattern in _patterns():
        found = [detail for detail in INCIDENTAL if detail in pattern.source.lower()]
        assert not found, (kind, pattern.source, found)


def test_a_line_that_matches_holds_one_of_the_patterns_needles() -> None:
    rows = [row for case in [*given_cases(), *wordings()] for row in case.symptoms.log.split("\n")]
    matched = 0
    for _, pattern in _patterns():
        for row in rows:
            if pattern.regex.search(row):
                matched += 1
                assert any(needle in row.lower() for needle in pattern.needles), (pattern, row)
    assert matched > 1000


def test_whole_logs_are_found_the_same_with_and_without_needles() -> None:
    for case in given_cases():
        log = LogText(case.symptoms.log)
        for _, pattern in _patterns():
            plain = next((i for i, line in enumerate(log.lines) if pattern.regex.search(line.text)), None)
            found = log.find(pattern)
            assert (found.index if found else None) == plain, (case.name, pattern)


@pytest.mark.parametrize(
    ("source", "needles"),
    [
        (r"No space left", ("no space left",)),
        (r"\bSocket (?:was )?timed out\b", ("timed out",)),
        (r"colou?rs of", ("rs of",)),
        (r"(?:abc|defg) x+yz", ("abc", "defg")),
        (r"one|two three", ("one", "two three")),
        (r"a\|b (?!not this)", ("a|b ",)),
        (r"[abc]+\d*", ()),
        (r"(?P<name>\w+) => found", (" => found",)),
        (r"(?:optional text)?end", ("end",)),
    ],
)
def test_needles(source: str, needles: tuple[str, ...]) -> None:
    assert needles_of(source) == needles


@pytest.mark.parametrize(
    ("source", "nested"),
    [
        (r"(a+)+", True),
        (r"(?:a*b)*", True),
        (r"((?:x{2,})y)+z", True),
        (r"(?:ab)+", False),
        (r"(?:a+)?b", False),
        (r"[(a+)+]", False),
        (r"\(a+\)+", False),
    ],
)
def test_nested_quantifiers_are_seen(source: str, nested: bool) -> None:
    assert nested_quantifier(source) is nested


def test_a_wrong_entry_is_refused() -> None:
    good = {"priority": 50, "lines": ["x"]}
    assert Signature.model_validate(good).lines == ("x",)
    for wrong in ({"lines": ["(a+)+"]}, {"stages": ["finetuning"]}, {"line": ["x"]}, {"priority": 100}):
        with pytest.raises(ValidationError):
            Signature.model_validate(good | wrong)
    with pytest.raises(ValidationError):
        Kind.model_validate({"cause": "c", "fix": "", "source": "s", "signature": [good]})


def test_every_field_that_a_kind_names_is_asked_for_in_the_wizard() -> None:
    named = {kind.field for kind in kinds().values()} - {""}
    asked = {field for step in STEPS for field in step.fields} | {"token"}
    assert named
    assert named <= asked
    assert asked - {"token"} <= set(field_names(Settings))


@pytest.mark.parametrize(
    ("symptoms", "field"),
    [
        (Symptoms("", slurm_state="TIMEOUT", stage="finetune"), "resources.time_limit"),
        (Symptoms("OSError: [Errno 28] No space left on device", "finetune", 1), "paths.workspace"),
        (Symptoms("sbatch: error: invalid partition specified: x", "submit", 1), "resources.partition"),
        (Symptoms("error: too long\nhint: raise training.seed, or not", "finetune", 1), "training.seed"),
        (Symptoms("error: too long\nhint: raise training.nothing", "finetune", 1), ""),
        (Symptoms("", "finetune", 1), ""),
    ],
)
def test_a_diagnosis_names_the_field_to_change(symptoms: Symptoms, field: str) -> None:
    assert diagnose(symptoms).field == field
