"""The Neuron back end, as far as it goes without the chip: its names against the packages' own source, and its parts.

optimum-neuron's training modules do not import without the Neuron packages, so their source is read instead.
"""

import ast
import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.conftest import JOBS, REPOSITORY, Bench

CACHE = REPOSITORY / ".cache/neuron-source"
# As templates/stacks/neuron.toml pins them.
PACKAGES = ["optimum-neuron==0.4.5", "trl==0.24.0", "transformers==4.57.1", "peft==0.17.0"]


@pytest.fixture(scope="session")
def source() -> Path:
    """The pinned packages' source, fetched once from the package index and never imported."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / ".complete").exists():
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-compile",
            ]
            subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(CACHE), *PACKAGES], check=True)
            (CACHE / ".complete").touch()
    return CACHE


def module(source: Path, dotted: str) -> ast.Module:
    """The source of a module, parsed."""
    path = source / dotted.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


def class_of(tree: ast.Module, name: str) -> ast.ClassDef:
    """A class of a module."""
    return next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)


def fields(definition: ast.ClassDef) -> set[str]:
    """The fields of a data class."""
    return {
        node.target.id
        for node in definition.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def parameters(function: ast.FunctionDef) -> set[str]:
    """The names of a function's parameters."""
    return {one.arg for one in [*function.args.args, *function.args.kwonlyargs]}


def method(definition: ast.ClassDef, name: str) -> ast.FunctionDef:
    """A method of a class."""
    return next(node for node in definition.body if isinstance(node, ast.FunctionDef) and node.name == name)


def keywords(call_name: str) -> set[str]:
    """The keyword arguments with which backend_neuron.py calls something."""
    tree = ast.parse((JOBS / "backend_neuron.py").read_text())
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == call_name
    ]
    assert calls, f"backend_neuron.py does not call {call_name}"
    return {keyword.arg for call in calls for keyword in call.keywords if keyword.arg}


@pytest.mark.ml
def test_the_argument_object_has_every_argument_we_give(source: Path) -> None:
    known = fields(
        class_of(module(source, "optimum.neuron.trainers.training_args"), "NeuronTrainingArguments")
    )
    known |= fields(class_of(module(source, "trl.trainer.sft_config"), "SFTConfig"))
    given = keywords("NeuronSFTConfig")
    assert given <= known, given - known
    assert "tensor_parallel_size" in given and "max_lengths" not in known


@pytest.mark.ml
def test_the_trainer_and_the_loaders_take_what_we_give(source: Path) -> None:
    trainer = class_of(module(source, "optimum.neuron.trainers.sft_trainer"), "NeuronSFTTrainer")
    assert keywords("InOrder") <= parameters(method(trainer, "__init__"))
    base = class_of(module(source, "optimum.neuron.trainers.transformers"), "NeuronTrainer")
    assert parameters(method(base, "_get_train_sampler")) == {"self", "train_dataset"}
    setup = ast.unparse(method(base, "setup_training"))
    assert "global_step_last_logged" in setup and "on_train_begin" in setup
    mixin = class_of(module(source, "optimum.neuron.models.training.modeling_utils"), "NeuronModelMixin")
    load = method(mixin, "from_pretrained")
    popped = {word for word in ("dtype", "attn_implementation") if f"'{word}'" in ast.unparse(load)}
    assert keywords("NeuronModelForCausalLM.from_pretrained") <= parameters(load) | popped | {
        "attn_implementation"
    }
    peft = class_of(module(source, "optimum.neuron.peft.peft_model"), "NeuronPeftModel")
    given = keywords("NeuronPeftModelForCausalLM.from_pretrained")
    assert given <= parameters(method(peft, "from_pretrained"))
    assert keywords("LoraConfig") <= fields(
        class_of(module(source, "peft.tuners.lora.config"), "LoraConfig")
    ) | fields(class_of(module(source, "peft.config"), "PeftConfig"))


_CALLS = """
import json, sys, types
from pathlib import Path
import backend_neuron, options, plan
given = {}
def stand_in(name):
    return lambda *_, **values: given.update({name: values})
optimum, neuron, peft = (types.ModuleType(name) for name in ("optimum", "optimum.neuron", "peft"))
neuron.NeuronSFTConfig = stand_in("NeuronSFTConfig")
peft.LoraConfig = stand_in("LoraConfig")
training, adapters = types.ModuleType("optimum.neuron.models.training"), types.ModuleType("optimum.neuron.peft")
training.NeuronModelForCausalLM = types.SimpleNamespace(from_pretrained=stand_in("model"))
adapters.NeuronPeftModelForCausalLM, adapters.get_peft_model = None, stand_in("peft")
sys.modules |= {"optimum": optimum, "optimum.neuron": neuron, "peft": peft, training.__name__: training,
    adapters.__name__: adapters, "optimum.neuron.models": types.ModuleType("optimum.neuron.models")}
model, data, run = sys.argv[1:]
asked = options.parse(["--model-dir", model, "--dataset-dir", data, "--run-dir", run, "--backend", "neuron"])
backend_neuron.training_arguments(asked, plan.prepare(asked, 1, lambda _: None))
arguments = types.SimpleNamespace(trn_config=None, gradient_checkpointing=False)
backend_neuron.build_model(asked, arguments, None)
print(json.dumps({call: {name: type(value).__name__ for name, value in given[call].items()}
    for call in ("NeuronSFTConfig", "LoraConfig")}))
"""


def outer_types(annotation: ast.expr) -> set[str]:
    """The alternatives of an annotation, each without what stands in its brackets: dict[str, Any] | None is dict, None."""
    if isinstance(annotation, ast.BinOp):
        return outer_types(annotation.left) | outer_types(annotation.right)
    if isinstance(annotation, ast.Subscript):
        name = ast.unparse(annotation.value).rpartition(".")[2]
        if name in ("Optional", "Union"):
            inside = annotation.slice
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return set().union(*map(outer_types, parts))
        return {name}
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return outer_types(ast.parse(annotation.value, mode="eval").body)
    return {ast.unparse(annotation).rpartition(".")[2]}


def annotations(*definitions: ast.ClassDef) -> dict[str, set[str]]:
    """The types that each field of the data classes takes, by name; a later class is the base of an earlier one."""
    found: dict[str, set[str]] = {}
    for definition in reversed(definitions):
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = outer_types(node.annotation)
    return found


@pytest.mark.ml
def test_what_we_give_is_of_the_type_that_is_asked_for(bench: Bench, source: Path) -> None:
    """Our calls are made for real, to stand-ins that note each value's type; the packages' annotations judge them."""
    given = json.loads(bench.script(_CALLS, bench.model, bench.dataset, bench.run_dir()))
    known = {
        "NeuronSFTConfig": annotations(
            class_of(module(source, "optimum.neuron.trainers.training_args"), "NeuronTrainingArguments"),
            class_of(module(source, "trl.trainer.sft_config"), "SFTConfig"),
        ),
        "LoraConfig": annotations(
            class_of(module(source, "peft.tuners.lora.config"), "LoraConfig"),
            class_of(module(source, "peft.config"), "PeftConfig"),
        ),
    }
    # These data classes take an enumeration by its word.
    words = {"lr_scheduler_type": "SchedulerType", "save_strategy": "SaveStrategy", "task_type": "TaskType"}
    wrong = {}
    for call, values in given.items():
        for name, kind in values.items():
            takes = known[call][name]
            fits = kind in takes or (kind == "int" and "float" in takes) or "Any" in takes
            if not (fits or (kind == "str" and (words.get(name) in takes or "Literal" in takes))):
                wrong[name] = (kind, sorted(takes))
    assert not wrong
    assert len(given["NeuronSFTConfig"]) > 20 and len(given["LoraConfig"]) == 6


@pytest.mark.ml
def test_every_attribute_that_we_use_is_there(source: Path) -> None:
    arguments = ast.unparse(module(source, "optimum.neuron.trainers.training_args"))
    for name in ("self.trn_config", "def world_size"):
        assert name in arguments, name
    trainer = ast.unparse(module(source, "optimum.neuron.trainers.transformers"))
    for name in ("self.lr_scheduler", "self.train_dataset", "self.global_step_last_logged"):
        assert name in trainer, name
    peft = ast.unparse(module(source, "optimum.neuron.peft.mapping_func"))
    assert "def get_peft_model(model" in peft


@pytest.mark.ml
def test_every_name_is_imported_from_where_it_is(source: Path) -> None:
    tree = ast.parse((JOBS / "backend_neuron.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    ours = [node for node in imports if str(node.module).startswith(("optimum", "peft"))]
    assert len(ours) >= 4
    for node in ours:
        text = ast.unparse(module(source, str(node.module)))
        for name in node.names:
            assert name.name in text, f"{node.module} has no {name.name}"
    training = ast.unparse(module(source, "optimum.neuron.models.training"))
    assert "NeuronModelForCausalLM" in training
    lazy = ast.unparse(module(source, "optimum.neuron"))
    assert "models.inference.modeling_utils import NeuronModelForCausalLM" in lazy, (
        "the trap is gone: one import will do"
    )


@pytest.mark.ml
def test_the_trainer_still_cannot_resume_by_itself(source: Path) -> None:
    trainer = class_of(module(source, "optimum.neuron.trainers.transformers"), "NeuronTrainer")
    assert "`resume_from_checkpoint` is not supported" in ast.unparse(method(trainer, "_train"))


_PARTS = """
import json, os, shlex, sys, threading
from pathlib import Path
import backend_neuron, common, graphs, neuron_callback, options, plan
model, data, run = sys.argv[1:]
asked = options.parse(["--model-dir", model, "--dataset-dir", data, "--run-dir", run, "--backend", "neuron",
    "--sequence-length", "128", "--max-steps", "6", "--batch-size", "2", "--gradient-accumulation", "2"])
prepared = plan.prepare(asked, 2, lambda _: None)
whole, rest = (backend_neuron.Rows(asked, prepared, start) for start in (0, 4))
assert len(whole) == 6 * 8 and len(rest) == 2 * 8
assert [rest[index] for index in range(16)] == [whole[index] for index in range(32, 48)]
assert {len(values) for row in whole for values in row.values()} == {128}
assert all((label == -100) or (token == label) for row in whole for token, label in zip(row["input_ids"], row["labels"]))
assert all(label == -100 for row in whole for label, seen in zip(row["labels"], row["attention_mask"]) if not seen)
batch = backend_neuron.collate([whole[0], whole[1]])
assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(batch, (2, 128))

from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, is_master=True)
told = [False, False, False]
verdicts = [[], [], []]
def process(rank):
    client = TCPStore("127.0.0.1", store.port, is_master=False)
    agreement = neuron_callback.Agreement(3, lambda: told[rank], client)
    for step in range(1, 50):
        if rank == 1 and step == 7:
            told[1] = True
        verdicts[rank].append(agreement.stop_after(step))
        if verdicts[rank][-1]:
            return
threads = [threading.Thread(target=process, args=(rank,)) for rank in range(3)]
[thread.start() for thread in threads]; [thread.join(30) for thread in threads]
assert verdicts == [[False] * 6 + [True]] * 3, verdicts

def refused(targets, heads, size):
    try:
        backend_neuron.check_targets(targets, heads, size)
    except common.StageError as error:
        return error.message
    return ""
os.environ["NEURON_CC_FLAGS"] = "--model-type=transformer " + shlex.quote(f"--cache_dir={run}/cache")
graph = Path(run) / "cache/a/MODULE_1"; graph.mkdir(parents=True); (graph / "model.neff").touch()
print(json.dumps({"plain": refused(("q_proj", "v_proj"), 8, 8), "repeated": refused(("q_proj", "v_proj"), 8, 16),
    "half": refused(("gate_proj",), 8, 8), "graphs": len(graphs.compiled_graphs())}))
"""


@pytest.mark.ml
def test_the_parts_that_need_no_chip(bench: Bench) -> None:
    found = json.loads(bench.script(_PARTS, bench.model, bench.dataset, bench.run_dir()))
    assert found["plain"] == "" and found["graphs"] == 1
    assert "k_proj, q_proj, v_proj or none" in found["repeated"]
    assert "gate_proj, up_proj or none" in found["half"]
