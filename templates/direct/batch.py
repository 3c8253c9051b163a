#!/usr/bin/env python3
"""A batch queue for one machine without Slurm: one job at a time, afterok dependencies, nothing resident.

    batch.py submit --name N --comment C --output FILE [--after ID] SCRIPT    prints the job's id
    batch.py queue                                                          one line a job, fields by 0x1f
    batch.py cancel ID [ID ...]

Every job is a process of its own that waits for its turn, so jobs outlive whoever submitted them. What it knows is
kept in `jobs/<id>.json` beside this file. Needs Python 3.8 and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

HOME = Path(__file__).resolve().parent
JOBS = HOME / "jobs"
KILL_WAIT = 30.0
TURN_PERIOD = 0.2
# Ended jobs are forgotten after so many seconds, as Slurm does.
MIN_JOB_AGE = 24 * 3600.0
FIELD = "\x1f"
FINAL = ("COMPLETED", "FAILED", "CANCELLED")

Job = Dict[str, Any]


def load(job_id: str) -> Optional[Job]:
    """A job's record; None where there is no such job."""
    try:
        job: Job = json.loads((JOBS / (job_id + ".json")).read_text())
    except (OSError, ValueError):
        return None
    return job


def save(job: Job) -> None:
    """Replaces a job's record in one step."""
    handle, temporary = tempfile.mkstemp(dir=str(JOBS), suffix=".tmp")
    with os.fdopen(handle, "w") as stream:
        json.dump(job, stream)
    os.replace(temporary, str(JOBS / (job["id"] + ".json")))


def started_at(pid: int) -> str:
    """When a process started, in the kernel's ticks: with its number, it names one process for good."""
    try:
        fields = Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def alive(job: Job) -> bool:
    """Whether a process of the job (the one that waits, or its script) is there."""
    for role in ("keeper", "script"):
        pid = job.get(role)
        if pid and started_at(pid) and started_at(pid) == job.get(role + "_started"):
            return True
    return False


def state_of(job: Job) -> str:
    """The job's state in Slurm's words; a job whose processes are gone without a word has failed."""
    if job["state"] in FINAL or alive(job):
        return str(job["state"])
    # Its last word may be younger than the record at hand.
    latest = load(job["id"]) or job
    return str(latest["state"]) if latest["state"] in FINAL or alive(latest) else "FAILED"


def submit(arguments: argparse.Namespace) -> None:
    """Records the job and leaves a process that waits for its turn."""
    job = {
        "id": new_id(),
        "name": arguments.name,
        "comment": arguments.comment,
        "output": arguments.output,
        "after": arguments.after,
        "path": os.path.abspath(arguments.script),
        "state": "PENDING",
        "submitted": int(time.time()),
    }
    ready, done = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        detach()
        job.update(keeper=os.getpid(), keeper_started=started_at(os.getpid()))
        save(job)
        os.close(done)
        keep(job)
        os._exit(0)
    os.close(done)
    os.read(ready, 1)
    if load(job["id"]) is None:
        sys.exit("error: the job's process could not be started")
    print(job["id"])


def detach() -> None:
    """Leaves the caller's session, so that closing its terminal ends nothing."""
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")


def new_id() -> str:
    """The next free number."""
    JOBS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (HOME / "last-id").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        number = int(stream.read() or 0) + 1
        stream.truncate(0)
        stream.write(str(number))
    return str(number)


@contextlib.contextmanager
def table() -> Iterator[None]:
    """Holds the table of jobs still while a job changes its state."""
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(job: Job) -> None:
    """Waits for the job before it and for the machine, then runs the script to its end."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not dependency_met(job):
        finish(job, "CANCELLED", None, "DependencyNeverSatisfied")
        return
    with (HOME / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        run(job, turn.fileno())


def dependency_met(job: Job) -> bool:
    """Waits until the job before has ended; whether it ended well."""
    while job["after"]:
        before = load(job["after"])
        state = state_of(before) if before else "FAILED"
        if state in FINAL:
            return state == "COMPLETED"
        time.sleep(TURN_PERIOD)
    return True


def run(job: Job, turn: int) -> None:
    """Runs the script in a session of its own, its output appended to the job's log."""
    with table():
        job = load(job["id"]) or job
        if job["state"] in FINAL:
            return
        process = start(job, turn)
        if process is None:
            # Slurm shows the same case as exit 0:53.
            finish(job, "FAILED", 53, "OutputFileNotWritable")
            return
        job.update(state="RUNNING", started=int(time.time()))
        job.update(script=process.pid, script_started=started_at(process.pid))
        save(job)
    code = process.wait()
    with table():
        job = load(job["id"]) or job
        state = "CANCELLED" if job.get("cancelled") else "COMPLETED" if code == 0 else "FAILED"
        finish(job, state, code, "None")


def start(job: Job, turn: int) -> Optional["subprocess.Popen[bytes]"]:
    """The job's script as a process; None when its log cannot be written."""
    environment = dict(os.environ, DIRECT_JOB_ID=job["id"], DIRECT_JOB_COMMENT=job["comment"])
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        environment.pop(name, None)
    try:
        with open(job["output"], "ab") as log:
            return subprocess.Popen(
                ["/bin/bash", job["path"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                # The turn stays with a script that outlives this process.
                pass_fds=(turn,),
            )
    except OSError:
        return None


def finish(job: Job, state: str, code: Optional[int], reason: str) -> None:
    """Records how the job ended."""
    job.update(state=state, exit=code, reason=reason, ended=int(time.time()))
    save(job)


def cancel(job_ids: List[str]) -> None:
    """Ends jobs: TERM first, KILL for what is left after KILL_WAIT seconds."""
    for job_id in job_ids:
        with table():
            job = load(job_id)
            if job is None or state_of(job) in FINAL:
                continue
            job["cancelled"] = True
            if job["state"] == "PENDING":
                finish(job, "CANCELLED", None, "None")
                _signal(job["keeper"], signal.SIGKILL)
                continue
            save(job)
        _signal_group(job["script"], signal.SIGTERM)
        _kill_later(job)


def _kill_later(job: Job) -> None:
    if os.fork() != 0:
        return
    detach()
    deadline = time.monotonic() + KILL_WAIT
    while time.monotonic() < deadline:
        if started_at(job["script"]) != job["script_started"]:
            os._exit(0)
        time.sleep(TURN_PERIOD)
    _signal_group(job["script"], signal.SIGKILL)
    os._exit(0)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except OSError:
        pass


def queue() -> None:
    """Prints id, state, reason, submitted, started, ended, exit code, name and comment of the jobs of late."""
    for path in sorted(JOBS.glob("*.json"), key=lambda path: int(path.stem)):
        job = load(path.stem)
        if job is None:
            continue
        if state_of(job) in FINAL and time.time() - (job.get("ended") or job["submitted"]) > MIN_JOB_AGE:
            path.unlink()
            continue
        fields = [job["id"], state_of(job), job.get("reason") or waiting_for(job)]
        fields += [str(job.get(key) or "") for key in ("submitted", "started", "ended")]
        code = job.get("exit")
        fields += ["" if code is None else str(code), job["name"], job["comment"]]
        print(FIELD.join(fields))


def waiting_for(job: Job) -> str:
    """Why a job does not run yet, in Slurm's words."""
    if job["state"] != "PENDING":
        return "None"
    before = load(job["after"]) if job["after"] else None
    return "Dependency" if before and state_of(before) not in FINAL else "Priority"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    submitting = commands.add_parser("submit")
    for option in ("--name", "--comment", "--output"):
        submitting.add_argument(option, required=True)
    submitting.add_argument("--after", default="")
    submitting.add_argument("script")
    commands.add_parser("queue")
    commands.add_parser("cancel").add_argument("ids", nargs="+")
    arguments = parser.parse_args()
    os.umask(0o077)
    if arguments.command == "submit":
        submit(arguments)
    elif arguments.command == "cancel":
        cancel(arguments.ids)
    else:
        queue()


if __name__ == "__main__":
    main()
