"""Why a stage of a run failed: its log, its codes and the scheduler's words, given to the diagnosis together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_tui.backend.diagnosis.symptoms import Symptoms
from llama_tui.backend.runs import Run, Snapshot
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState, StageView

if TYPE_CHECKING:
    from llama_tui.backend.diagnosis.diagnose import Diagnosis

LOG_END = 1024 * 1024


def explain(run: Run, snapshot: Snapshot, stage: Stage) -> Diagnosis:
    """The diagnosis of a stage's last attempt. Blocks for as long as it takes to read the log's end.

    Raises:
        LinkLost: the connection ended.
    """
    # Its catalogue takes a tenth of a second to read, which a run that goes well is spared.
    from llama_tui.backend.diagnosis.diagnose import diagnose

    view = snapshot.view(stage)
    log = run.layout.log(stage, max(1, view.attempt))
    there = run.site.link.collect([log])
    text = run.site.link.call("read", path=log, offset=-LOG_END, limit=LOG_END)["text"] if there else ""
    return diagnose(symptoms_of(view, snapshot, text))


def symptoms_of(view: StageView, snapshot: Snapshot, log: str) -> Symptoms:
    """What is known of a stage, as the diagnosis wants it."""
    job = next((one for one in snapshot.jobs or () if one.id == view.job_id), None)
    if job is not None and view.state in _WORDS and not job.state.final:
        # The queue is older than what the stage's own script said at its end.
        job = None
    refused = view.state is StageState.FAILED and not view.job_id
    word = job.word if job else _WORDS.get(view.state)
    return Symptoms(
        log=log or (view.reason if refused else ""),
        stage="submit" if refused else view.stage.value,
        exit_code=view.exit_code if view.exit_code is not None else (1 if refused else None),
        slurm_state=None if refused else word,
        slurm_reason=(job.reason if job else view.reason) or None,
    )


_WORDS = {StageState.FAILED: "FAILED", StageState.CANCELLED: "CANCELLED", StageState.DONE: "COMPLETED"}
