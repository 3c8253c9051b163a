"""The seven stages of a run, in order."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """One of the seven; the names are the recipe's."""

    CREATE_ENV = "create_env"
    DOWNLOAD_MODEL = "download_model"
    COMPILE_MODEL = "compile_model"
    FINETUNE = "finetune"
    MODEL_CONSOLIDATION = "model_consolidation"
    MERGE_LORA_WEIGHTS = "merge_lora_weights"
    INFERENCE = "inference"

    @property
    def number(self) -> int:
        """0 to 6, as in the recipe's file names."""
        return STAGES.index(self)

    @property
    def following(self) -> tuple[Stage, ...]:
        """The stages that need this one, in order."""
        return STAGES[self.number + 1 :]

    @property
    def purpose(self) -> str:
        """What the stage is for, in a few words for the screen."""
        return _PURPOSE[self]


STAGES: tuple[Stage, ...] = tuple(Stage)

_PURPOSE = {
    Stage.CREATE_ENV: "build the pinned environment",
    Stage.DOWNLOAD_MODEL: "fetch model and data set",
    Stage.COMPILE_MODEL: "compile or rehearse the training",
    Stage.FINETUNE: "train the LoRA adapter",
    Stage.MODEL_CONSOLIDATION: "join the adapter's shards",
    Stage.MERGE_LORA_WEIGHTS: "merge adapter and base",
    Stage.INFERENCE: "ask both models",
}


def parse_stage(text: str) -> Stage:
    """The stage called `text`, by name, number, or unambiguous beginning of a name.

    Raises:
        ValueError: no stage or more than one fits; the message lists the right ones.
    """
    wanted = text.strip().lower().replace("-", "_")
    if wanted.isdecimal() and int(wanted) < len(STAGES):
        return STAGES[int(wanted)]
    fitting = [stage for stage in STAGES if wanted and stage.value.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    raise ValueError(f"no stage is called {text!r}; the stages are: {', '.join(STAGES)}")
