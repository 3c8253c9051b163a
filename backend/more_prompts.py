"""More prompts for both models of a run: each time a short job of its own, beside the seven stages.

comparisons/<n>.prompts holds what is asked and when it was, comparisons/<n>.json what both models said. Script, log,
status and report are called inference-<n>, which is no stage's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from llama_tui.backend.comparison import Comparison, parse_comparison
from llama_tui.backend.errors import AgentError, RunError
from llama_tui.backend.render import JobHead, option, render_job
from llama_tui.backend.runs import Run
from llama_tui.backend.schedulers.base import Job, JobState, Submission
from llama_tui.backend.settings import Inference, SettingsError
from llama_tui.backend.settings_problems import problems_of
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import SUBMISSION_PATIENCE, StageState
from llama_tui.backend.submitting import Tell, run_lock, submit_once

FOLDER = "comparisons"
# A file of prompts is read up to this size, in bytes.
LARGEST_FILE = 1024 * 1024


class Questions(Inference):
    """What to ask, and how the answers are sampled."""

    seed: int = Field(
        42, title="Seed", ge=0, le=2**31 - 1, description="Same seed, same sampled answers. Default 42."
    )


class ExtraJob(str):
    """The name of such a job, which is like a stage's to a script and never one to the run's states."""

    number = Stage.INFERENCE.number
    purpose = "ask both models more"


def extra_job(number: int) -> ExtraJob:
    """inference-1, inference-2, ..."""
    return ExtraJob(f"{Stage.INFERENCE}-{number}")


@dataclass(frozen=True)
class Asked:
    """Prompts that were asked later.

    Attributes:
        reason: why it is in that state, or what to do; empty where there is nothing to say.
        comparison: the answers; None until they are there.
    """

    number: int
    prompts: tuple[str, ...]
    state: StageState
    job_id: str = ""
    reason: str = ""
    comparison: Comparison | None = None


def questions(**answers: Any) -> Questions:
    """Checked questions.

    Raises:
        SettingsError: with every problem found, by field.
    """
    try:
        return Questions.model_validate(answers)
    except ValidationError as error:
        raise SettingsError(problems_of(error)) from None


def split_prompts(text: str) -> list[str]:
    """Prompts from text as typed: one a paragraph; where there is no empty line, one a line."""
    text = text.replace("\r\n", "\n").strip()
    parts = re.split(r"\n[ \t]*\n+", text)
    if len(parts) == 1:
        parts = text.split("\n")
    return [part.strip() for part in parts if part.strip()]


def read_prompts_file(name: str) -> list[str]:
    """Prompts from a file on this computer: text as `split_prompts` takes it, or a run's prompts.json.

    Raises:
        RunError: it cannot be read, or holds no prompts.
    """
    path = Path(name).expanduser()
    try:
        with path.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise RunError(f"{path} is larger than 1 MB", "Name a file of prompts, one a line.")
        text = data.decode("utf-8")
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not text in UTF-8") from None
    found = _from_json(text, path) if path.suffix == ".json" else split_prompts(text)
    if not found:
        raise RunError(
            f"{path} holds no prompts", "Write one a line, or paragraphs with an empty line between."
        )
    return found


def _from_json(text: str, path: Path) -> list[str]:
    try:
        return [str(one["user"]) for one in json.loads(text)["prompts"]]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise RunError(
            f"{path} is not a file of prompts", 'It should be {"prompts": [{"user": "..."}]}.'
        ) from None


def ask_more(run: Run, asked: Questions, tell: Tell | None = None) -> int:
    """Submits a job that answers; gives its number. The run's seven stages are not touched.

    Raises:
        RunError: there is no merged model to ask yet.
        SchedulerError, LinkLost: it was refused, or no answer came; `asked_later` says what became of it.
    """
    merged = run.snapshot().view(Stage.MERGE_LORA_WEIGHTS).state
    if merged is not StageState.DONE:
        raise RunError(
            f"There is no fine-tuned model to ask: {Stage.MERGE_LORA_WEIGHTS} is {merged}",
            "Ask when it is done.",
        )
    with run_lock(run.site, run.layout.path):
        number = max(_numbers(run), default=0) + 1
        job = extra_job(number)
        script = run.layout.file(f"scripts/{job}.1.sbatch")
        run.site.link.write_files(
            {
                _prompts_path(run, number): _prompts_text(asked, run.site.now()),
                script: render_question(run, number, asked),
            },
            mode=0o700,
        )
        comment = comment_of_question(run, number)
        log = log_of_question(run, number)
        submission = Submission(Stage.INFERENCE, script, log, comment, comment)
        submit_once(run.site, run.plan, submission, tell or (lambda _: None))
    return number


def comment_of_question(run: Run, number: int) -> str:
    """What the job carries, so that it is found again."""
    return f"{run.run_id}/{extra_job(number)}/1"


def log_of_question(run: Run, number: int) -> str:
    """What the job printed."""
    return run.layout.file(f"logs/{extra_job(number)}.1.log")


def _prompts_path(run: Run, number: int) -> str:
    # Not *.json: the directory's *.json are answers.
    return run.layout.file(f"{FOLDER}/{number}.prompts")


def _prompts_text(asked: Questions, now: float) -> str:
    prompts = [
        {"name": f"prompt-{number}", "system": asked.system_prompt or None, "user": user}
        for number, user in enumerate(asked.prompts, 1)
    ]
    return json.dumps({"asked": round(now, 3), "prompts": prompts}, indent=2, ensure_ascii=False) + "\n"


def render_question(run: Run, number: int, asked: Questions) -> str:
    """The sbatch script that answers."""
    job = extra_job(number)
    program = run.site.link.read_text(run.layout.file("jobs/inference.py")) or ""
    arguments = [
        '--model-dir "$MODEL_DIR"',
        '--run-dir "$RUN_DIR"',
        '--dataset-dir "$DATASET_DIR"',
        f'--prompts "$RUN_DIR/{FOLDER}/{number}.prompts"',
        f'--output "$RUN_DIR/{FOLDER}/{number}.json"',
        option("max-new-tokens", asked.max_new_tokens),
        option("temperature", asked.temperature),
        option("top-p", asked.top_p),
        option("seed", asked.seed),
        # A run keeps the programs that it was made with; older ones know less.
        *(
            [option("repetition-penalty", asked.repetition_penalty)]
            if "--repetition-penalty" in program
            else []
        ),
        *(["--answers-only"] if "--answers-only" in program else []),
        f'--report "$RUN_DIR/reports/{job}.json"',
    ]
    head = JobHead(job, 1, comment_of_question(run, number), log_of_question(run, number))
    return render_job(run.plan, "ask.sh.j2", Stage.INFERENCE, head, arguments)


def _numbers(run: Run) -> list[int]:
    try:
        entries = run.site.link.call("list", path=run.layout.file(FOLDER))["entries"]
    except AgentError as error:
        if error.kind == "missing":
            return []
        raise
    found = (re.fullmatch(r"(\d{1,6})\.prompts", entry["name"]) for entry in entries)
    return sorted(int(one[1]) for one in found if one)


def asked_later(run: Run) -> list[Asked]:
    """All that was asked later, oldest first, with its answers where they are there.

    Raises:
        LinkLost: the connection ended.
        SchedulerError: the queue had to be asked and gave no answer.
    """
    numbers = _numbers(run)
    if not numbers:
        return []
    found = [_asked(run, number, *_files(run, number), []) for number in numbers]
    if all(one.comparison is not None for one in found):
        return found
    # The queue first: a job that has left it wrote its last word before.
    jobs = run.site.scheduler.queue()
    return [
        one if one.comparison is not None else _asked(run, one.number, *_files(run, one.number), jobs)
        for one in found
    ]


def _files(run: Run, number: int) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """(what was asked, what the script says of itself, the answers)"""
    written, status = _prompts_path(run, number), run.layout.file(f"status/{extra_job(number)}.json")
    files = run.site.link.collect([written, status])
    # By itself: the answers to many prompts are longer than what is collected.
    answers = run.site.link.read_text(run.layout.file(f"{FOLDER}/{number}.json"))
    return _read(files.get(written)), _read(files.get(status)), answers


def _asked(
    run: Run,
    number: int,
    written: Mapping[str, Any],
    status: Mapping[str, Any],
    answer: str | None,
    jobs: list[Job],
) -> Asked:
    prompts = tuple(str(one.get("user", "")) for one in written.get("prompts", []) if isinstance(one, dict))
    if answer is not None:
        try:
            comparison = parse_comparison(answer, f"{FOLDER}/{number}.json")
        except RunError as error:
            return Asked(number, prompts, StageState.FAILED, reason=error.message)
        return Asked(number, prompts, StageState.DONE, comparison=comparison)
    comment = comment_of_question(run, number)
    job = next((one for one in reversed(jobs) if comment in {one.comment, one.name}), None)
    state, reason = _state(job, status, run.site.now() - float(written.get("asked") or 0))
    return Asked(number, prompts, state, job.id if job else str(status.get("job_id") or ""), reason)


def _state(job: Job | None, status: Mapping[str, Any], age: float) -> tuple[StageState, str]:
    """What became of a job that has not answered: (state, why). `age` in seconds since it was asked for."""
    if job is not None and not job.state.final:
        word = {JobState.WAITING: StageState.PENDING, JobState.STUCK: StageState.HELD}
        return word.get(job.state, StageState.RUNNING), job.reason
    if job is not None and job.state is JobState.CANCELLED:
        return StageState.CANCELLED, "the job was cancelled"
    if status.get("state") == "done" and status.get("exit_code") != 0:
        return StageState.FAILED, f"exit code {status.get('exit_code')}"
    if job is not None and job.state is JobState.FAILED:
        return StageState.FAILED, job.word
    if job is not None or status.get("state") == "done":
        return StageState.UNKNOWN, "the job ended, its answers are not here yet"
    if age < SUBMISSION_PATIENCE:
        return StageState.SUBMITTING, "no answer from the scheduler yet"
    return StageState.FAILED, "the scheduler knows no such job, and it left no answers: ask again"


def _read(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
