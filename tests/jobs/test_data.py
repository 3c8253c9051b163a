"""Packing, plan, learning rate, metrics and options: what both back ends share, without torch."""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import metrics
import options
import packing
import plan
import pytest

from tests.jobs.conftest import Bench


@dataclass(frozen=True)
class Example:
    """As chat.Example."""

    ids: list[int]
    answer_start: int


def examples(count: int, seed: int = 0, longest: int = 100) -> list[Example]:
    """Records of random lengths, each with tokens of its own number."""
    source = random.Random(seed)
    return [Example([number] * source.randint(4, longest), 2) for number in range(count)]


def chosen(**changes: Any) -> options.Options:
    """Options with the defaults of the command line, changed as told."""
    words = [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return options.parse(
        ["--model-dir", "m", "--dataset-dir", "d", "--run-dir", "r", "--backend", "cpu", *words]
    )


@pytest.mark.parametrize("seed", range(5))
def test_packing_keeps_every_record_once_and_whole(seed: int) -> None:
    items = examples(200, seed)
    packed = packing.pack(items, 256, seed)  # type: ignore[arg-type]
    assert all(sequence.length <= 256 for sequence in packed)
    found = Counter(example.ids[0] for sequence in packed for example in sequence.examples)
    assert found == Counter(range(200))
    assert packing.share_of_text(packed, 256) > 0.95


def test_packing_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    items = examples(100)
    first, again, other = (packing.pack(items, 256, seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert first == again != other


def test_a_record_longer_than_a_sequence_is_no_record_to_pack() -> None:
    with pytest.raises(ValueError, match="more than 8"):
        packing.pack([Example([1] * 9, 1)], 8, 0)  # type: ignore[list-item]


def test_a_row_carries_loss_on_answers_only_and_positions_begin_again() -> None:
    sequence = packing.Sequence((Example([5, 6, 7, 8], 2), Example([9, 10], 1)))  # type: ignore[arg-type]
    lists = packing.row(sequence, response_only=True)
    assert lists["input_ids"] == [5, 6, 7, 8, 9, 10]
    assert lists["labels"] == [-100, -100, 7, 8, -100, 10]
    assert lists["position_ids"] == [0, 1, 2, 3, 0, 1]
    assert lists["records"] == [0, 0, 0, 0, 1, 1]
    everything = packing.row(sequence, response_only=False)
    assert everything["labels"] == [-100, 6, 7, 8, -100, 10]
    assert packing.padded(lists, 8, 3)["input_ids"] == [5, 6, 7, 8, 9, 10, 3, 3]
    assert packing.padded(lists, 8, 3)["labels"][6:] == [-100, -100]


def test_an_epoch_uses_every_sequence_and_fills_its_last_step() -> None:
    sequences = packing.one_each(examples(10))  # type: ignore[arg-type]
    one = plan.Plan(sequences, per_step=4, max_steps=6, seed=3)
    assert one.steps_per_epoch == 3
    epochs = [[one.of_step(step) for step in range(first, first + 3)] for first in (0, 3)]
    for epoch in epochs:
        used = [sequence for step in epoch for sequence in step]
        assert len(used) == 12 and len({id(sequence) for sequence in used}) == 10
    assert epochs[0] != epochs[1]
    assert plan.Plan(sequences, 4, 6, 3).of_step(4) == epochs[1][1]


def test_more_processes_than_sequences_still_fill_a_step() -> None:
    one = plan.Plan(packing.one_each(examples(3)), per_step=8, max_steps=2, seed=0)  # type: ignore[arg-type]
    assert len(one.of_step(0)) == 8


def test_the_learning_rate_goes_up_and_then_down_to_almost_nothing() -> None:
    asked = chosen(learning_rate=1.0, warmup_steps=4)
    rates = [plan.learning_rate(asked, 20, step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[19] == pytest.approx(1 / 16)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_parallel_sizes_must_divide_the_processes() -> None:
    assert plan.data_parallel_size(chosen(tensor_parallel=8), 32) == 4
    with pytest.raises(common.StageError, match="24 processes cannot be divided"):
        plan.data_parallel_size(chosen(tensor_parallel=8, pipeline_parallel=2), 24)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max-steps", "-1"),
        ("batch-size", "0"),
        ("learning-rate", "nan"),
        ("learning-rate", "0"),
        ("lora-dropout", "1"),
        ("lora-targets", " , "),
        ("backend", "gpu"),
        ("epochs", "two"),
    ],
)
def test_a_bad_option_ends_with_2_and_names_it(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        chosen(**{name: value})
    assert ended.value.code == 2
    assert f"--{name}" in capsys.readouterr().err


def told(step: int, loss: float) -> metrics.Step:
    """One step's figures."""
    return metrics.Step(step, 0.1, loss, 1e-3, 0.5, 100.0, 1.5)


def test_metrics_are_lines_of_json_also_after_a_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_TUI_ATTEMPT", "3")
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2, "lo')
    writer = metrics.MetricsWriter(file, 10)
    writer.event("resumed", 1)
    writer.step(told(2, 1.25))
    lines = file.read_text().splitlines()
    assert lines[1] == '{"step": 2, "lo'
    event, step = map(json.loads, lines[2:])
    assert event["event"] == "resumed" and event["step"] == 1
    assert step["attempt"] == 3 and step["max_steps"] == 10 and step["loss"] == 1.25


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_never_written(tmp_path: Path, loss: float) -> None:
    writer = metrics.MetricsWriter(tmp_path / "metrics.jsonl", 10)
    with pytest.raises(common.StageError, match="step 4: loss is"):
        writer.step(told(4, loss))
    assert not (tmp_path / "metrics.jsonl").exists()


_CHAT = """
import json, sys
from pathlib import Path
import chat
model, data = map(Path, sys.argv[1:])
tokenizer = chat.load_tokenizer(model)
ends = chat.end_of_turn_ids(tokenizer, model)
record = {"instruction": "Hi?", "context": "Some facts.", "response": "Arr <3", "category": ""}
one = chat.encode(tokenizer, ends, record, "Be brief.")
asked = chat.to_ids(tokenizer, chat.render(tokenizer, chat.question(record, "Be brief."), answered=False))
cut = chat.load_examples(tokenizer, model, data / "train.jsonl", None, 60)
print(json.dumps({
    "question": tokenizer.decode(one.ids[: one.answer_start]),
    "answer": tokenizer.decode(one.ids[one.answer_start :]),
    "same": one.ids[: one.answer_start] == asked,
    "bos": one.ids.count(tokenizer.bos_token_id),
    "last": one.ids[-1] in ends,
    "cut": cut.cut, "left_out": cut.left_out, "longest": max(len(item.ids) for item in cut.items),
}))
"""


@pytest.mark.ml
def test_a_record_is_trained_as_it_will_be_asked(bench: Bench) -> None:
    found = json.loads(bench.script(_CHAT, bench.model, bench.dataset))
    assert (
        found["question"]
        == "<|begin_of_text|><system>Be brief.<|eot_id|><user>Hi?\n\nSome facts.<|eot_id|><assistant>"
    )
    assert found["answer"] == "Arr <3<|eot_id|>"
    assert found["same"] and found["last"] and found["bos"] == 1
    assert found["cut"] > 0 and found["longest"] == 60


_SEPARATE = """
import sys, torch
from pathlib import Path
import chat, losses, packing
from transformers import AutoModelForCausalLM
model_dir, data = map(Path, sys.argv[1:])
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa").eval()
items = chat.load_examples(chat.load_tokenizer(model_dir), model_dir, data / "train.jsonl", None, 128).items[:3]
with torch.no_grad():
    alone = [losses.summed_loss(model, packing.batch([one], 3, True)) for one in packing.one_each(items)]
    together, tokens = losses.summed_loss(model, packing.batch([packing.Sequence(tuple(items))], 3, True))
    padded, _ = losses.summed_loss(model, packing.batch(packing.one_each(items), 3, True))
    ids = torch.tensor([items[0].ids])
    labels = torch.tensor([[-100] * items[0].answer_start + items[0].ids[items[0].answer_start :]])
    reference = model(input_ids=ids, labels=labels).loss * alone[0][1]
apart = float(sum(loss for loss, _ in alone))
assert tokens == sum(count for _, count in alone)
assert abs(apart - float(together)) < 1e-3 * apart and abs(apart - float(padded)) < 1e-3 * apart
assert abs(float(reference) - float(alone[0][0])) < 1e-3 * float(reference)
print("ok")
"""


@pytest.mark.ml
def test_records_in_one_sequence_never_see_each_other(bench: Bench) -> None:
    assert bench.script(_SEPARATE, bench.model, bench.dataset).strip() == "ok"
