"""What finetune is told on its command line, checked."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Options:
    """The options of finetune; `max_steps` 0 means as many as the epochs take, `save_total_limit` 0 means keep all."""

    model_dir: Path
    dataset_dir: Path
    run_dir: Path
    backend: str
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    lora_targets: tuple[str, ...]
    sequence_length: int
    epochs: float
    max_steps: int
    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    save_steps: int
    logging_steps: int
    seed: int
    tensor_parallel: int
    pipeline_parallel: int
    packing: bool
    response_loss_only: bool
    save_total_limit: int
    rehearse: int
    report: Path | None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints of the run are."""
        return self.run_dir / "checkpoints"


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; wrong options end the program with 2, as argparse does."""
    parser = argparse.ArgumentParser(description="Stage 3: trains the LoRA adapter. Started by torchrun.")
    whole, positive = _whole(0), _whole(1)
    for name in ("model-dir", "dataset-dir", "run-dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--backend", choices=("cpu", "neuron"), required=True)
    parser.add_argument("--lora-r", type=positive, default=16)
    parser.add_argument("--lora-alpha", type=positive, default=16)
    parser.add_argument("--lora-dropout", type=_share, default=0.05)
    parser.add_argument("--lora-targets", type=_names, default=("q_proj", "v_proj"))
    parser.add_argument("--sequence-length", type=_whole(8), default=1024)
    parser.add_argument("--epochs", type=_above_zero, default=1.0)
    parser.add_argument("--max-steps", type=whole, default=0)
    parser.add_argument("--batch-size", type=positive, default=1)
    parser.add_argument("--gradient-accumulation", type=positive, default=1)
    parser.add_argument("--learning-rate", type=_above_zero, default=2e-5)
    parser.add_argument("--weight-decay", type=_not_negative, default=0.01)
    parser.add_argument("--warmup-steps", type=whole, default=0)
    parser.add_argument("--save-steps", type=positive, default=400)
    parser.add_argument("--save-total-limit", type=whole, default=2)
    parser.add_argument("--logging-steps", type=positive, default=1)
    parser.add_argument("--seed", type=whole, default=42)
    parser.add_argument("--tensor-parallel", type=positive, default=1)
    parser.add_argument("--pipeline-parallel", type=positive, default=1)
    parser.add_argument("--packing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--response-loss-only", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--rehearse", type=whole, default=0, metavar="STEPS", help="try STEPS steps, keep nothing"
    )
    parser.add_argument("--report", type=Path)
    return Options(**vars(parser.parse_args(arguments)))


def _whole(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return whole_number


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from zero up")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to below 1")
    return value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("no layer is named")
    return names
