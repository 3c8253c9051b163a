"""comparison.json: what both models answered, and how well each knows the held-out records."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llama_tui.backend.errors import RunError
from llama_tui.backend.runs import Run
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState

# Losses (nats) that are closer than this are the same for a person.
SAME_LOSS = 0.0005

Count = Annotated[int, Field(ge=0, le=10**12)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Answer(_Part):
    """What one model said. `tokens` of the answer, `seconds` to make it."""

    content: str
    tokens: Count = 0
    seconds: float = 0.0


class Pair(_Part):
    """One prompt and both answers."""

    name: str
    system: str | None = None
    user: str
    mode: str
    base: Answer
    fine_tuned: Answer
    identical: bool = False


class Model(_Part):
    """Which files answered: a fingerprint of the weights, and for the fine-tuned one of its adapter."""

    path: str
    fingerprint: str
    adapter_fingerprint: str = ""


class HeldOut(_Part):
    """Mean loss per token (nats) of both models on the answers of records that training never saw."""

    records: Count
    tokens: Count
    base_loss: float
    fine_tuned_loss: float
    base_perplexity: float
    fine_tuned_perplexity: float

    @property
    def words(self) -> str:
        """What the change means, in a sentence."""
        before, after = self.base_perplexity, self.fine_tuned_perplexity
        if abs(self.base_loss - self.fine_tuned_loss) < SAME_LOSS:
            return "Both models know the held-out answers equally well: training changed next to nothing."
        part = abs(before - after) / before if before else 0.0
        if after < before:
            return f"Better: the fine-tuned model is {part:.0%} less perplexed by answers that training never saw."
        return (
            f"Worse: the fine-tuned model is {part:.0%} more perplexed by answers that training never saw. "
            "Fewer epochs or a lower learning rate may help."
        )


class Comparison(_Part):
    """Stage 6's result, or that of prompts asked later. `held_out` is None where no records were held out."""

    created: float
    base: Model
    fine_tuned: Model
    held_out: HeldOut | None = None
    answers: list[Pair]
    settings: dict[str, float | int | str | None] = {}

    @property
    def warnings(self) -> list[str]:
        """What a person should know before believing it."""
        found = []
        if self.base.fingerprint == self.fine_tuned.fingerprint:
            found.append("Both sides are the same files: nothing was merged. Rerun merge_lora_weights.")
        same = sum(pair.identical for pair in self.answers)
        if self.all_identical:
            found.append("Every answer is the same on both sides. Was the adapter merged?")
        elif same:
            found.append(f"{same} of {len(self.answers)} answers are the same on both sides.")
        return found

    @property
    def settings_words(self) -> str:
        """How the answers were made, in one line."""
        return ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in self.settings.items() if value is not None
        )

    @property
    def all_identical(self) -> bool:
        """Whether the fine-tuned model says nothing that the base does not: a sign that nothing was merged."""
        return bool(self.answers) and all(pair.identical for pair in self.answers)


def read_comparison(run: Run) -> Comparison:
    """The run's comparison.

    Raises:
        RunError: stage 6 has not ended, or its file cannot be read.
    """
    text = run.site.link.read_text(run.layout.file("comparison.json"))
    if text is None:
        state = run.snapshot().view(Stage.INFERENCE).state
        rerun = (
            ""
            if state is StageState.DONE
            else f"{Stage.INFERENCE} is {state}; its answers come when it is done."
        )
        raise RunError(f"{run.run_id} has no comparison yet", rerun)
    return parse_comparison(text, f"comparison.json of {run.run_id}")


def parse_comparison(text: str, where: str) -> Comparison:
    """A comparison from a file's text.

    Raises:
        RunError: it is none.
    """
    try:
        return Comparison.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise RunError(f"{where} cannot be read: {field}: {first['msg']}", "Rerun inference.") from None
