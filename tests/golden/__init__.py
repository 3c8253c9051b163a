"""Whole scripts of the neuron stack as they should be, for people to read and for tests to compare.

`python -m tests.golden` writes them anew after a wanted change; look at what `git diff` shows then.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_tui.backend.render import plan_run, render_script
from llama_tui.backend.settings import Settings
from llama_tui.backend.stages import STAGES, Stage

FOLDER = Path(__file__).parent
WORKSPACE = "/fsx/ubuntu/llama-tui"
_TRAINING = (Stage.COMPILE_MODEL, Stage.FINETUNE)


@dataclass(frozen=True)
class Golden:
    """Settings whose scripts are kept, and of which stages."""

    name: str
    settings: Settings
    stages: tuple[Stage, ...]

    def scripts(self) -> dict[str, str]:
        """{file name: text} of its scripts."""
        plan = plan_run(self.settings, WORKSPACE, self.name)
        return {f"{self.name}.{stage}.sbatch": render_script(plan, stage, 1) for stage in self.stages}


def neuron_settings(
    model: str = "meta-llama/Meta-Llama-3-8B-Instruct",
    training: dict[str, Any] | None = None,
    **resources: Any,
) -> Settings:
    """The neuron stack's defaults with another model, training values or resources."""
    data = {
        "model": {"model": model},
        "training": training or {},
        "resources": resources,
        "paths": {"workspace": WORKSPACE},
    }
    return Settings.model_validate(data)


GOLDEN = (
    Golden("8b-trn1", neuron_settings(machine="trn1.32xlarge"), tuple(STAGES)),
    Golden(
        "70b-4-trn1n",
        neuron_settings(
            "meta-llama/Llama-3.1-70B-Instruct",
            {"tensor_parallel": 8, "pipeline_parallel": 4},
            machine="trn1n.32xlarge",
            nodes=4,
            time_limit="2-00:00:00",
        ),
        _TRAINING,
    ),
    Golden("8b-trn2", neuron_settings(machine="trn2.48xlarge", processes_per_node=64), _TRAINING),
    Golden(
        "8b-hyperpod-2-trn1",
        neuron_settings(
            nodes=2,
            partition="dev",
            account="research",
            qos="high",
            reservation="week-48",
            constraint="trn1",
            exclude="ip-10-1-2-3",
            time_limit="12:00:00",
            extra=["--mail-type=END"],
        ),
        _TRAINING,
    ),
)


def golden_scripts() -> dict[str, str]:
    """All of them: {file name: text as rendered now}."""
    return {name: text for golden in GOLDEN for name, text in golden.scripts().items()}
