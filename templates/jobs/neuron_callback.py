"""What follows NeuronTrainer step by step: metrics, where a resumed run begins, stopping on SIGTERM, manifests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plan as planning
from checkpoints import RESUME_FILE
from common import atomic_write_json
from metrics import MetricsWriter, Step
from shards import write_manifest
from transformers import TrainerCallback

if TYPE_CHECKING:
    from options import Options


def only_extracting() -> bool:
    """Whether this run only collects graphs to compile (neuron_parallel_compile): what it computes is not valid."""
    return os.environ.get("NEURON_EXTRACT_GRAPHS_ONLY") == "1"


class Agreement:
    """Lets all processes stop after the same step, by way of torchrun's store.

    An exchange on the device would be another graph to compile. All come here after each step anyway.
    """

    def __init__(self, size: int, told_to_stop: Callable[[], bool], store: Any = None) -> None:
        self._size = size
        self._told_to_stop = told_to_stop
        self._store = store

    def stop_after(self, step: int) -> bool:
        """Whether any process was told to stop before it came to the end of this step; the same answer on all."""
        store = self._store = self._store or _default_store()
        if self._told_to_stop():
            store.add(f"llama_tui/stop/{step}", 1)
        if store.add(f"llama_tui/arrived/{step}", 1) == self._size:
            # The last one to arrive has seen everyone's word.
            asked = store.add(f"llama_tui/stop/{step}", 0)
            store.set(f"llama_tui/verdict/{step}", "stop" if asked else "go")
        return bool(store.get(f"llama_tui/verdict/{step}") == b"stop")


def _default_store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


class Follower(TrainerCallback):
    """The callback that makes NeuronTrainer behave as our CPU back end does."""

    def __init__(
        self, options: Options, prepared: planning.Prepared, start: int, agreement: Agreement
    ) -> None:
        self._options = options
        self._prepared = prepared
        self._start = start
        self._agreement = agreement
        self._writer: MetricsWriter | None = None
        self._trainer: Any = None
        self._last_time = time.monotonic()
        self._last_step = start
        self._lines: list[Step] = []
        self.step = start
        self.stopped = False

    def attach(self, trainer: Any) -> None:
        """Tell which trainer is followed."""
        self._trainer = trainer

    def figures(self) -> dict[str, Any]:
        """First and last loss, and mean speed, for the report."""
        if not self._lines:
            return {}
        speeds = [line.tokens_per_second for line in self._lines]
        return {
            "first_loss": self._lines[0].loss,
            "last_loss": self._lines[-1].loss,
            "tokens_per_second": round(sum(speeds) / len(speeds), 1),
        }

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_others: Any) -> None:
        """Move the step and the learning rate to where the checkpoint left them."""
        state.global_step = self._start
        self._trainer.global_step_last_logged = self._start
        for _ in range(self._start):
            self._trainer.lr_scheduler.step()
        self._last_time = time.monotonic()
        if state.is_world_process_zero and not only_extracting():
            path = self._options.run_dir / "metrics.jsonl"
            self._writer = MetricsWriter(path, self._prepared.plan.max_steps)
            if self._start:
                self._writer.event("resumed", self._start)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_others: Any) -> None:
        """Stop, with a checkpoint, when any process was told to."""
        self.step = state.global_step
        if self._agreement.stop_after(self.step) and self.step < state.max_steps:
            self.stopped = True
            control.should_save = not only_extracting()
            control.should_training_stop = True

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_others: Any) -> None:
        """Write a line of metrics; all processes have the same loss, and all stop when it is not a number."""
        if not logs or "loss" not in logs or only_extracting():
            return
        now, steps = time.monotonic(), max(1, state.global_step - self._last_step)
        seconds = (now - self._last_time) / steps
        self._last_time, self._last_step = now, state.global_step
        text = (
            self._prepared.facts["text_share"] * self._prepared.plan.per_step * self._options.sequence_length
        )
        line = Step(
            step=state.global_step,
            epoch=round(state.global_step / self._prepared.plan.steps_per_epoch, 4),
            loss=float(logs["loss"]),
            learning_rate=float(logs.get("learning_rate", 0.0)),
            grad_norm=float(logs.get("grad_norm", 0.0)),
            tokens_per_second=round(text / seconds, 1) if seconds else 0.0,
            step_seconds=round(seconds, 3),
        )
        self._lines.append(line)
        if self._writer:
            self._writer.step(line)

    def on_save(self, args: Any, state: Any, _control: Any, **_others: Any) -> None:
        """Record the sizes and hashes of the shards, and what they were trained with, beside them."""
        if os.environ.get("RANK", "0") != "0" or only_extracting():
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        size = int(os.environ.get("WORLD_SIZE", "1"))
        print_of = planning.fingerprint(self._options, self._prepared.facts, size)
        content = {"step": state.global_step, "files": {}, "fingerprint": print_of}
        atomic_write_json(checkpoint / RESUME_FILE, content)
        write_manifest(checkpoint, state.global_step)
