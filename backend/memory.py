"""How much memory a process of the training needs, part by part, by stated formulas.

Neuron (bf16, LoRA, gradient checkpointing, sequence parallel, ZeRO-1: what templates/jobs/backend_neuron.py asks for):

- weights: 2 bytes a parameter over the tensor-parallel cores; a pipeline stage holds its share of the layers, and the
  first or last one an embedding or the head; key-value projections are repeated where their heads are;
- adapter: 2 bytes a parameter, and 4 for its gradient in fp32 (optimum-neuron 0.4.5's optimizer_use_fp32_grad_acc);
  lora_A of the layers cut by rows and lora_B of those cut by columns are whole on every core;
- optimizer: 12 bytes a parameter of the adapter (fp32 master weights and Adam's two moments), over the data-parallel
  copies (zero_1, on by default);
- activations: the input of each layer, 2 bytes x tokens x hidden, kept for the backward pass, and one layer at work,
  34 bytes x tokens x hidden (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
  without the attention scores, which the flash kernel does not keep), both over the tensor-parallel cores; a pipeline
  keeps the inputs of as many sequences as it has stages;
- logits: 10 bytes x tokens x vocabulary over the tensor-parallel cores (bf16, fp32, and the gradient in fp32);
- runtime: 2 GiB a core for the program, its collectives and fragmentation. Assumed: never measured on a chip.

CPU (fp32, no checkpointing, one sequence at a time): 4 bytes a parameter and 2 for the bf16 file that they are read from,
16 of the adapter (weight, gradient, two moments), twice the above for the activations of every layer, with attention
scores (10 bytes x heads x tokens x tokens: they are kept here), 12 bytes x tokens x vocabulary, and 0.35 GB for Python
(measured: a process that has imported torch 2.13, transformers and peft). A demo run (SmolLM2, 2 processes) measured
2.03 GB a process where this gives 1.87: 8 % too little.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from llama_tui.backend.catalog.machines import GIB
from llama_tui.backend.catalog.models import Model
from llama_tui.backend.settings import Settings

RUNTIME_NEURON = 2 * GIB
RUNTIME_CPU = 350_000_000
_CUT_BY_ROWS = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}


@dataclass(frozen=True, order=True)
class Layout:
    """How many cores share each layer, and how many groups of layers there are."""

    tensor: int
    pipeline: int

    def __str__(self) -> str:
        return f"tensor parallel {self.tensor} x pipeline parallel {self.pipeline}"

    @property
    def cores(self) -> int:
        """Cores that hold one copy of the model."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by what they are for."""

    weights: float
    adapter: float
    optimizer: float
    activations: float
    logits: float
    runtime: float

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    @property
    def words(self) -> str:
        """The parts, largest first."""
        parts = sorted(((getattr(self, field.name), field.name) for field in fields(self)), reverse=True)
        return ", ".join(f"{name} {size / GIB:.2f}" for size, name in parts) + " GiB"


def layout_of(settings: Settings) -> Layout:
    """The layout that the settings ask for."""
    return Layout(settings.training.tensor_parallel, settings.training.pipeline_parallel)


def kv_copies(model: Model, tensor: int) -> int:
    """How often optimum-neuron repeats the key-value heads (its auto_kv_size_multiplier)."""
    return max(1, tensor // model.kv_heads)


def neuron_memory(settings: Settings, model: Model, layout: Layout) -> Memory:
    """Device memory of one Neuron core, on the fullest pipeline stage."""
    training = settings.training
    workers = settings.resources.nodes * settings.resources.processes_per_node
    copies = max(1, workers // layout.cores)
    stage_layers = -(-model.layers // layout.pipeline)
    # optimum-neuron makes a pipeline's batch of single sequences, as many in flight as it has stages.
    batch = training.batch_size if layout.pipeline == 1 else 1
    in_flight = min(layout.pipeline, training.batch_size * training.gradient_accumulation)
    tokens = batch * training.sequence_length
    adapter = stage_layers * _adapter_on_core(settings, model, layout.tensor)
    inputs = 2 * tokens * model.hidden * stage_layers * in_flight
    working = 34 * tokens * model.hidden
    return Memory(
        weights=2 * _weights_on_core(model, layout, stage_layers),
        adapter=6 * adapter,
        optimizer=12 * adapter / copies,
        activations=(inputs + working) / layout.tensor,
        logits=10 * tokens * model.vocabulary / layout.tensor,
        runtime=RUNTIME_NEURON,
    )


def _weights_on_core(model: Model, layout: Layout, stage_layers: int) -> float:
    keys_and_values = 2 * model.kv_heads * model.head_dim * model.hidden
    layer = model.layer_parameters + keys_and_values * (kv_copies(model, layout.tensor) - 1)
    tables = 1 if layout.pipeline > 1 or model.tied_embeddings else 2
    return (stage_layers * layer + tables * model.embedding_parameters) / layout.tensor


def _adapter_on_core(settings: Settings, model: Model, tensor: int) -> float:
    total = 0.0
    for target in settings.lora.targets:
        rows, columns = model.linear_shapes[target.value]
        total += rows / tensor + columns if target.value in _CUT_BY_ROWS else rows + columns / tensor
    return settings.lora.r * total


def replicated_adapter(settings: Settings, model: Model, tensor: int) -> float:
    """Parameters of the adapter on all cores of one copy together: what is alike on all is counted for each."""
    return model.layers * tensor * _adapter_on_core(settings, model, tensor)


def cpu_memory(settings: Settings, model: Model) -> Memory:
    """Memory of one process of the cpu stack."""
    tokens = settings.training.sequence_length
    adapter = model.adapter_parameters(settings.lora.r, settings.lora.targets)
    return Memory(
        weights=6 * model.parameters,
        adapter=8 * adapter,
        optimizer=8 * adapter,
        activations=model.layers * tokens * (68 * model.hidden + 10 * model.heads * tokens),
        logits=12 * tokens * model.vocabulary,
        runtime=RUNTIME_CPU,
    )
