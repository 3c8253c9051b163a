"""How long each stage takes: as in an earlier run, else by a stated formula.

The constants, and where they are from:

- Training on Neuron: 6 x parameters x tokens operations. LoRA with gradient checkpointing goes forward (2), forward again
  (2), and back to the activations (2); the frozen weights get no gradient. A CPU keeps the activations: 4 x.
- UTILISATION 0.15 of the peak. Neuron's own benchmark (training_data_decoder.csv, SDK 2.24, 32 nodes of trn1.32xlarge,
  8,192 tokens) gives 47.95 sequences/s for pre-training Llama 3.1 8B and 7.94 for 70B: 6 x parameters x tokens over the
  peak is 0.195 and 0.28. Short sequences, a batch of 1 and LoRA's thin matrices keep the engines less busy: assumed.
- CPU_RATE 50e9 operations/s a process. Two shared cores gave 110 (while busy with other work), 168, 267 and 299 tokens/s
  of SmolLM2: 30e9, 45e9, 72e9 and 80e9 a process. Off by 1.7 either way.
- Start of the training on Neuron: 180 s, and the model read at 0.5 GB/s. Assumed.
- create_env 60 s (measured: 41 s with a warm package cache; 600 s for the far larger neuron stack, assumed); download
  50 MB/s; compile_model on Neuron 30 min (assumed, and once for each layout: the cache keeps it); consolidation 10 s
  (measured: 1 s in the demo).
- merge 440 MB/s (measured: 16.1 GB in 36.5 s) and 10 s for the probe (7 s in all in the demo).
- inference: a token reads all weights once, 6 GB/s on two cores (measured: 9-13 tokens/s of SmolLM2 in fp32) and
  60 GB/s on a Trainium host, assumed; held-out loss at 2 x parameters x tokens, 1e12 operations/s there, assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llama_tui.backend.catalog.machines import Machine
from llama_tui.backend.catalog.models import Model
from llama_tui.backend.figures import Figure, Unit
from llama_tui.backend.lengths import why_unknown
from llama_tui.backend.measured import Measured
from llama_tui.backend.settings import Settings, Stack
from llama_tui.backend.stages import STAGES, Stage

UTILISATION = 0.15
OPERATIONS_NEURON = 6
OPERATIONS_CPU = 4
CPU_RATE = 50e9
NEURON_START = 180.0
CPU_START = 10.0
READ_RATE = 0.5e9
CREATE_ENV = {Stack.CPU: 60.0, Stack.NEURON: 600.0}
DOWNLOAD_RATE = 50e6
COMPILE_NEURON = 1800.0
REHEARSED_STEPS = 2
CONSOLIDATION = 10.0
MERGE_RATE = 440e6
PROBE = 10.0
WEIGHTS_RATE = {Stack.CPU: 6e9, Stack.NEURON: 60e9}
HOST_RATE = 1e12


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        tokens: that training computes; None when the data set is not known.
        steps: optimizer steps; None when not known.
        record_tokens: mean length of a record; None when not known.
    """

    settings: Settings
    model: Model | None
    machine: Machine | None
    measured: Measured | None
    tokens: float | None
    steps: float | None
    record_tokens: float | None


def stage_times(work: Work) -> dict[Stage, Figure]:
    """Seconds of each stage."""
    return {stage: _of_stage(work, stage) for stage in STAGES}


def _of_stage(work: Work, stage: Stage) -> Figure:
    if stage is Stage.FINETUNE:
        return _training(work)
    known = work.measured.stage_seconds(stage, work.settings) if work.measured else None
    if known is not None:
        return Figure(known[0], Unit.SECONDS, known[1], measured=True)
    match stage:
        case Stage.CREATE_ENV:
            return Figure(
                CREATE_ENV[work.settings.stack], Unit.SECONDS, "assumed; seconds when it is there already"
            )
        case Stage.DOWNLOAD_MODEL:
            return _download(work)
        case Stage.COMPILE_MODEL:
            return _compile(work)
        case Stage.MODEL_CONSOLIDATION:
            return Figure(CONSOLIDATION, Unit.SECONDS, "assumed: an adapter is small")
        case Stage.MERGE_LORA_WEIGHTS:
            return _merge(work)
        case Stage.INFERENCE:
            return _inference(work)


def _unknown(why: str) -> Figure:
    return Figure(None, Unit.SECONDS, why)


def _model_unknown(work: Work) -> Figure:
    return _unknown(f"{work.settings.model.model} is not in our catalogue, and no earlier run measured it")


def _training(work: Work) -> Figure:
    if work.tokens is None:
        return _unknown(why_unknown(work.settings))
    speed = work.measured.speed(work.settings) if work.measured else None
    if speed is not None:
        seconds = work.tokens / speed.tokens + speed.startup
        return Figure(
            seconds, Unit.SECONDS, f"{speed.basis}, and {speed.startup:.0f} s around it", measured=True
        )
    if work.model is None:
        return _model_unknown(work)
    if work.settings.stack is Stack.CPU:
        return _training_cpu(work, work.model, work.tokens)
    if work.machine is None:
        return _unknown("the machine is not in our catalogue")
    return _training_neuron(work, work.model, work.machine, work.tokens)


def _training_neuron(work: Work, model: Model, machine: Machine, tokens: float) -> Figure:
    cores = work.settings.resources.nodes * work.settings.resources.processes_per_node
    operations = OPERATIONS_NEURON * model.multiplied_parameters * tokens
    start = NEURON_START + model.bytes_on_disk / READ_RATE
    seconds = operations / (cores * machine.peak_per_core * UTILISATION) + start
    basis = (
        f"{OPERATIONS_NEURON} x {model.multiplied_parameters / 1e9:.2f}e9 parameters x {tokens / 1e6:.2f}e6 tokens over "
        f"{cores} cores x {machine.peak_tflops_per_core:g} TFLOPS x {UTILISATION:.0%} (assumed), and {start:.0f} s to start; "
        "by formula: nothing like it was measured here yet, it may be off by two or more"
    )
    return Figure(seconds, Unit.SECONDS, basis)


def _training_cpu(work: Work, model: Model, tokens: float) -> Figure:
    processes = work.settings.resources.nodes * work.settings.resources.processes_per_node
    rate = processes * CPU_RATE
    seconds = OPERATIONS_CPU * model.multiplied_parameters * tokens / rate + CPU_START
    basis = (
        f"{OPERATIONS_CPU} x {model.multiplied_parameters / 1e6:.0f}e6 parameters x {tokens:,.0f} tokens over {processes} "
        f"processes x {CPU_RATE / 1e9:.0f} GFLOPS (assumed), and {CPU_START:.0f} s to start; by formula: off by 1.7 or more"
    )
    return Figure(seconds, Unit.SECONDS, basis)


def _download(work: Work) -> Figure:
    if work.settings.model.model.startswith("/"):
        return Figure(60.0, Unit.SECONDS, "assumed: the model is on disk, only its checksums are computed")
    if work.model is None:
        return _model_unknown(work)
    seconds = 30 + work.model.bytes_on_disk / DOWNLOAD_RATE
    return Figure(
        seconds,
        Unit.SECONDS,
        f"the model at {DOWNLOAD_RATE / 1e6:.0f} MB/s (assumed); seconds when it is there",
    )


def _compile(work: Work) -> Figure:
    if work.settings.stack is Stack.NEURON:
        return Figure(
            COMPILE_NEURON, Unit.SECONDS, "assumed for the first time; minutes when the compile cache has it"
        )
    training = _training(work)
    if training.value is None or not work.steps:
        return training
    seconds = CPU_START + (training.value - CPU_START) / work.steps * REHEARSED_STEPS
    return Figure(
        max(CPU_START, seconds), Unit.SECONDS, f"a start and {REHEARSED_STEPS} steps of the training"
    )


def _merge(work: Work) -> Figure:
    if work.model is None:
        return _model_unknown(work)
    seconds = work.model.bytes_on_disk / MERGE_RATE + PROBE
    return Figure(
        seconds,
        Unit.SECONDS,
        f"{MERGE_RATE / 1e6:.0f} MB/s (measured on two cores) and {PROBE:.0f} s of probe",
    )


def _inference(work: Work) -> Figure:
    if work.model is None:
        return _model_unknown(work)
    settings, stack = work.settings, work.settings.stack
    # Two models, each greedy and sampled.
    written = 4 * len(settings.inference.prompts) * settings.inference.max_new_tokens
    weight = 4 if stack is Stack.CPU else 2
    writing = written * weight * work.model.parameters / WEIGHTS_RATE[stack]
    read = 2 * settings.model.held_out * (work.record_tokens or 200)
    rate = HOST_RATE if stack is Stack.NEURON else 2 * CPU_RATE
    reading = read * 2 * work.model.multiplied_parameters / rate
    basis = (
        f"{written:,} tokens to write at most, each reading the weights at {WEIGHTS_RATE[stack] / 1e9:.0f} GB/s, and "
        f"{read:,.0f} held-out tokens, on the node's CPU; by formula"
    )
    return Figure(writing + reading, Unit.SECONDS, basis)
