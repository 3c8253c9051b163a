"""What the queue pane asks of a real Slurm of two nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_tui.backend.errors import SchedulerError
from llama_tui.backend.site import Site

pytestmark = pytest.mark.slurm


@pytest.fixture
def site(slurm_site: Callable[[Path], Site], tmp_path: Path) -> Site:
    return slurm_site(tmp_path / "workspace")


def test_everyones_jobs_one_jobs_details_and_the_nodes(site: Site) -> None:
    options = ["--parsable", "--job-name=of somebody", "--output=/dev/null", "--wrap", "sleep 60"]
    job_id = site.link.run(["sbatch", *options]).stdout.strip()
    deadline = time.monotonic() + 20
    while not any(job.id == job_id and job.word == "RUNNING" for job in site.scheduler.everyone()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    job = next(job for job in site.scheduler.everyone() if job.id == job_id)
    assert (job.name, job.user) == ("of somebody", "root")
    detail = site.scheduler.detail(job_id)
    assert f"JobId={job_id}" in detail
    assert "TimeLimit=" in detail
    nodes = site.scheduler.nodes()
    assert ": " in nodes
    assert sum(int(word) for word in nodes.replace(",", "").replace(";", "").split() if word.isdecimal()) >= 2
    site.scheduler.cancel([job_id])
    while any(job.id == job_id for job in site.scheduler.everyone()):
        assert time.monotonic() < deadline + 20
        time.sleep(0.2)


def test_a_job_that_is_not_there_is_told_in_slurms_words(site: Site) -> None:
    with pytest.raises(SchedulerError, match="Invalid job id"):
        site.scheduler.detail("99999999")
