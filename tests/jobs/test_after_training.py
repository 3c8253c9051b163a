"""Stages 4 to 6: consolidation, merge with the probe, comparison."""

import json
import shutil
from pathlib import Path

import pytest

from tests.jobs.conftest import FIXTURES, Bench, mark_complete

pytestmark = pytest.mark.ml


def checkpoint_of(bench: Bench, layout: str) -> Path:
    """A run directory whose checkpoint is one of the fixtures; gives the run directory."""
    run = bench.run_dir(layout)
    source = FIXTURES / layout / "adapter_default"
    shutil.copytree(source, run / "checkpoints/checkpoint-7/adapter_default")
    return run


def shard(run: Path, rank: int) -> Path:
    """A shard file of the fixture's checkpoint."""
    name = f"dp_rank_00_tp_rank_0{rank}_pp_rank_00.pt"
    return run / "checkpoints/checkpoint-7/adapter_default/adapter_shards/model" / name


@pytest.mark.parametrize("layout", ["tp2", "tp4"])
def test_consolidation_equals_optimum_neurons_own(bench: Bench, layout: str) -> None:
    run = checkpoint_of(bench, layout)
    done = bench.run("model_consolidation.py", "--run-dir", run)
    assert done.returncode == 0, done.stderr
    code = """
import sys, torch
from safetensors.torch import load_file
ours, expected = (load_file(f"{folder}/adapter_model.safetensors") for folder in sys.argv[1:])
assert set(ours) == set(expected)
for name, tensor in expected.items():
    assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name
print(len(expected))
"""
    assert bench.script(code, run / "adapter", FIXTURES / layout / "expected").strip() == "28"
    theirs = json.loads((FIXTURES / layout / "expected/adapter_config.json").read_text())
    assert json.loads((run / "adapter/adapter_config.json").read_text()) == theirs


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda run: (shutil.rmtree(f"{shard(run, 1)}.tensors"), shard(run, 1).unlink()),
            "missing 1 of 2 shards",
        ),
        (lambda run: shard(run, 1).write_bytes(shard(run, 1).read_bytes()[:300]), "truncated or damaged"),
        (lambda run: (shard(run, 0).parent.parent / "done").unlink(), "is not complete"),
    ],
)
def test_a_bad_shard_is_named(bench: Bench, harm: object, words: str) -> None:
    run = checkpoint_of(bench, "tp2")
    harm(run)  # type: ignore[operator]
    failed = bench.run("model_consolidation.py", "--run-dir", run)
    assert failed.returncode == 1
    assert words in failed.stdout and "run finetune again" in failed.stderr
    assert not (run / "adapter").exists()


_PROBE = """
import json, sys, torch
from pathlib import Path
import probe
run, trained = map(Path, sys.argv[1:3])
ids, logits = torch.load(trained)
ids = ids[0].tolist()
rows = [probe.Row(ids, 1, list(range(len(ids) - 1)))]
facts = {"backend": "neuron", "step": 7, "replica_difference": json.loads((run / "r.json").read_text())["replica_difference"]}
probe.save(run / "probe", rows, probe.answer_of(rows, [logits[0, : len(ids)]]), facts)
"""


@pytest.mark.parametrize(("layout", "agrees"), [("tp2", True), ("tp4", False)])
def test_the_probe_tells_whether_the_merged_model_is_the_trained_one(
    bench: Bench, layout: str, agrees: bool
) -> None:
    run = checkpoint_of(bench, layout)
    assert bench.run("model_consolidation.py", "--run-dir", run, "--report", run / "r.json").returncode == 0
    bench.script(_PROBE, run, FIXTURES / layout / "trained-logits.pt")
    done = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert done.returncode == (0 if agrees else 1), done.stderr
    assert (run / "merged").exists() is agrees
    if not agrees:
        assert "does not answer as the trained model did" in done.stderr
        assert "before the merge" in done.stderr and "differ by up to" in done.stderr


_PEFT = """
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
model, run = sys.argv[1:3]
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
expected = PeftModel.from_pretrained(base, f"{run}/adapter").merge_and_unload().state_dict()
merged = AutoModelForCausalLM.from_pretrained(f"{run}/merged", dtype=torch.bfloat16).state_dict()
untouched = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
assert set(merged) == set(expected)
assert all(torch.equal(merged[name], expected[name]) for name in expected)
print(sum(not torch.equal(merged[name], untouched[name]) for name in merged))
"""

_SPLIT = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
folder = Path(sys.argv[1])
tensors = load_file(folder / "model.safetensors")
(folder / "model.safetensors").unlink()
names = sorted(tensors)
where = {name: f"model-0000{1 + index % 3}-of-00003.safetensors" for index, name in enumerate(names)}
for file in set(where.values()):
    save_file({name: tensors[name] for name in names if where[name] == file}, folder / file, metadata={"format": "pt"})
(folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
"""


@pytest.mark.parametrize("in_parts", [False, True])
def test_the_merge_is_pefts_bit_for_bit(bench: Bench, trained: tuple[Bench, Path], in_parts: bool) -> None:
    run = bench.run_dir()
    shutil.copytree(trained[1] / "checkpoints", run / "checkpoints")
    shutil.copytree(trained[1] / "probe", run / "probe")
    if in_parts:
        bench.script(_SPLIT, bench.model)
        mark_complete(bench.model)
    assert bench.run("model_consolidation.py", "--run-dir", run).returncode == 0
    done = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert done.returncode == 0, done.stderr
    assert bench.script(_PEFT, bench.model, run).strip() == "14"
    again = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert again.returncode == 0 and "used again" in again.stdout


def test_a_merge_that_went_wrong_is_told_apart_from_a_wrong_adapter(bench: Bench) -> None:
    code = """
import sys, torch, probe
from common import StageError
logits = torch.zeros(2, 5)
moved, off = probe.Answer(3.0, logits + 4.0), probe.Answer(2.0, logits + 2.0)
trained = probe.Answer(2.0, logits)
try:
    probe.compare(trained, moved, trained, off, {"backend": "cpu"})
except StageError as error:
    assert "arose in merging (stage 5)" in error.message, error.message
else:
    raise AssertionError("a wrong merge was let through")
try:
    probe.compare(trained, moved, trained, probe.Answer(float("nan"), logits), {"backend": "cpu"})
except StageError:
    print("ok")
"""
    assert bench.script(code).strip() == "ok"


def test_an_adapter_key_that_fits_nowhere_is_refused(bench: Bench) -> None:
    run = checkpoint_of(bench, "tp2")
    assert bench.run("model_consolidation.py", "--run-dir", run).returncode == 0
    (run / "probe").mkdir()
    (run / "probe/probe.json").write_text("{}")
    code = """
import sys
from safetensors.torch import load_file, save_file
tensors = load_file(sys.argv[1])
changed = {name.replace("layers.1.", "layers.5."): tensor for name, tensor in tensors.items()}
save_file(changed, sys.argv[1])
"""
    bench.script(code, run / "adapter/adapter_model.safetensors")
    failed = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert failed.returncode == 1 and "model.layers.5." in failed.stderr and not (run / "merged").exists()


def test_inference_compares_both_models(trained: tuple[Bench, Path]) -> None:
    bench, run = trained
    assert bench.run("model_consolidation.py", "--run-dir", run).returncode == 0
    merged = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert merged.returncode == 0, merged.stderr
    ask = [
        "--model-dir",
        bench.model,
        "--run-dir",
        run,
        "--dataset-dir",
        bench.dataset,
        "--prompts",
        run / "prompts.json",
    ]
    how = ["--max-new-tokens", "12", "--temperature", "0.7", "--top-p", "0.9", "--seed", "5"]
    contents = []
    for name in ("first.json", "second.json"):
        done = bench.run("inference.py", *ask, *how, "--output", run / name)
        assert done.returncode == 0, done.stderr
        contents.append(json.loads((run / name).read_text()))
    first, second = contents
    assert first["held_out"]["records"] == 8
    assert first["held_out"]["fine_tuned_loss"] < first["held_out"]["base_loss"] - 0.5
    asked = [(one["name"], one["mode"], one["system"]) for one in first["answers"]]
    assert asked == [
        ("one", "greedy", "You are a pirate."),
        ("two", "greedy", None),
        ("one", "sampled", "You are a pirate."),
        ("two", "sampled", None),
    ]
    for one, other in zip(first["answers"], second["answers"], strict=True):
        assert one["base"]["content"] == other["base"]["content"]
        assert one["fine_tuned"]["content"] == other["fine_tuned"]["content"]
        assert one["base"]["role"] == "assistant" and one["base"]["tokens"] <= 12
    assert first["probe"]["merged"]["agrees"] is True
    assert first["base"]["fingerprint"] != first["fine_tuned"]["fingerprint"]


def test_stages_out_of_order_name_the_one_that_is_missing(bench: Bench) -> None:
    run = bench.run_dir()
    consolidation = bench.run("model_consolidation.py", "--run-dir", run)
    assert consolidation.returncode == 1 and "run finetune first" in consolidation.stderr
    merge = bench.run("merge_lora_weights.py", "--model-dir", bench.model, "--run-dir", run)
    assert merge.returncode == 1 and "run model_consolidation first" in merge.stderr
    ask = [
        "--model-dir",
        bench.model,
        "--run-dir",
        run,
        "--dataset-dir",
        bench.dataset,
        "--prompts",
        run / "prompts.json",
    ]
    inference = bench.run("inference.py", *ask)
    assert inference.returncode == 1 and "run merge_lora_weights first" in inference.stderr
