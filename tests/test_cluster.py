"""The daemons that other tests rely on are genuine: they do what a real cluster, login node and terminal do."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import SlurmCluster, wait_until
from tests.cpu_env import cpu_python
from tests.sshd import Sshd
from tests.supervisor import descendants
from tests.tmux import Tmux

REPOSITORY = Path(__file__).resolve().parent.parent
SLEEP = "#!/bin/bash\nsleep 300\n"


def runs(pid: int) -> bool:
    """Whether the process lives; a zombie, which its new parent has yet to collect, does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.slurm
class TestSlurm:
    """The session's cluster, left idle by every test."""

    def test_a_job_runs_on_both_nodes(self, slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
        script = "#!/bin/bash\nsrun bash -c 'echo on $SLURMD_NODENAME'\n"
        job = slurm_cluster.submit(script, "--nodes=2", f"--output={tmp_path}/log")
        assert slurm_cluster.wait_job(job, "COMPLETED")["ExitCode"] == "0:0"
        assert sorted((tmp_path / "log").read_text().splitlines()) == ["on trn1-1", "on trn1-2"]

    def test_what_follows_a_failure_never_starts(self, slurm_cluster: SlurmCluster) -> None:
        first = slurm_cluster.submit("#!/bin/bash\nexit 9\n", "--output=/dev/null")
        second = slurm_cluster.submit(SLEEP, "--output=/dev/null", f"--dependency=afterok:{first}")
        assert slurm_cluster.wait_job(first, "FAILED")["ExitCode"] == "9:0"
        wait_until(
            lambda: slurm_cluster.job(second)["Reason"] == "DependencyNeverSatisfied", "the reason", every=0.2
        )
        assert slurm_cluster.job(second)["JobState"] == "PENDING"
        slurm_cluster.run("scancel", second, check=True)
        slurm_cluster.wait_job(second, "CANCELLED")

    def test_scancel_ends_the_processes(self, slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
        script = (
            f"#!/bin/bash\necho $$ > {tmp_path}/pid.tmp\nmv {tmp_path}/pid.tmp {tmp_path}/pid\nsleep 300\n"
        )
        job = slurm_cluster.submit(script, "--output=/dev/null")
        wait_until((tmp_path / "pid").exists, "the job's first line")
        pid = int((tmp_path / "pid").read_text())
        slurm_cluster.run("scancel", job, check=True)
        slurm_cluster.wait_job(job, "CANCELLED")
        wait_until(lambda: not runs(pid), "the job's process to end")

    @pytest.mark.parametrize(("option", "state"), [("--no-requeue", "NODE_FAIL"), ("--requeue", "PENDING")])
    def test_a_dead_node_ends_or_requeues_its_job(
        self, slurm_cluster: SlurmCluster, option: str, state: str
    ) -> None:
        job = slurm_cluster.submit(SLEEP, "--output=/dev/null", "--nodelist=trn1-2", option)
        slurm_cluster.wait_job(job, "RUNNING")
        try:
            slurm_cluster.kill_node("trn1-2")
            fields = slurm_cluster.wait_job(job, state)
            assert fields["Restarts"] == str(int(state == "PENDING"))
            assert slurm_cluster.node_state("trn1-2").startswith("down")
        finally:
            slurm_cluster.run("scancel", job)
            slurm_cluster.start_node("trn1-2")

    def test_a_dead_slurmd_can_leave_the_job_behind(self, slurm_cluster: SlurmCluster) -> None:
        job = slurm_cluster.submit(SLEEP, "--output=/dev/null", "--nodelist=trn1-1", "--no-requeue")
        slurm_cluster.wait_job(job, "RUNNING")
        daemon = slurm_cluster.slurmd["trn1-1"]
        wait_until(lambda: len(daemon.descendants()) >= 3, "slurmstepd, the script and its sleep")
        try:
            slurm_cluster.kill_node("trn1-1", jobs_survive=True)
            slurm_cluster.wait_job(job, "NODE_FAIL")
            left = daemon.descendants()
            assert left
        finally:
            slurm_cluster.start_node("trn1-1")
        assert not any(map(runs, left))

    def test_without_controller_commands_fail_and_jobs_run_on(
        self, slurm_cluster: SlurmCluster, tmp_path: Path
    ) -> None:
        script = f"#!/bin/bash\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n"
        job = slurm_cluster.submit(script, "--output=/dev/null")
        slurm_cluster.wait_job(job, "RUNNING")
        try:
            slurm_cluster.stop_controller()
            failed = slurm_cluster.run("squeue")
            assert failed.returncode == 1
            assert "Unable to contact slurm controller" in failed.stderr
        finally:
            slurm_cluster.start_controller()
        assert slurm_cluster.job(job)["JobState"] == "RUNNING"
        (tmp_path / "go").touch()
        slurm_cluster.wait_job(job, "COMPLETED")

    def test_two_clusters_do_not_meet(self, slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
        with SlurmCluster(tmp_path / "other") as other:
            job = other.submit(SLEEP, "--output=/dev/null", "--job-name=only-in-the-other")
            other.wait_job(job, "RUNNING")
            assert "only-in-the-other" not in slurm_cluster.run("squeue", "-o", "%j", check=True).stdout
        assert slurm_cluster.run("srun", "true").returncode == 0

    def test_nothing_outlives_a_killed_owner(self, tmp_path: Path) -> None:
        owner = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", str(tmp_path / "slurm")],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert owner.stdout is not None
        line = owner.stdout.readline()
        assert line.startswith("export SLURM_CONF=")
        env = {**os.environ, "SLURM_CONF": line.strip().partition("=")[2]}
        script = "#!/bin/bash\nsetsid sleep 300 &\nsleep 300\n"
        submit = ["sbatch", "--output=/dev/null"]
        subprocess.run(submit, input=script, env=env, text=True, check=True, capture_output=True)
        # Four daemons with a supervisor each, a job's slurmstepd, script and two sleeps.
        wait_until(lambda: len(descendants(owner.pid)) >= 12, "the job's processes")
        processes = descendants(owner.pid)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
        wait_until(lambda: not any(map(runs, processes)), "every process of the cluster to end")


@pytest.mark.slurm
def test_with_accounting_a_job_is_found_after_its_end(slurm_cluster_accounting: SlurmCluster) -> None:
    cluster = slurm_cluster_accounting
    job = cluster.submit("#!/bin/bash\nexit 4\n", "--output=/dev/null")
    cluster.wait_job(job, "FAILED")
    query = ("sacct", "-X", "-P", "-n", "-j", job, "-o", "JobIDRaw,State,ExitCode")
    wait_until(lambda: f"{job}|FAILED|4:0" in cluster.run(*query).stdout, "sacct to know the job", every=0.2)


@pytest.mark.slurm
def test_without_accounting_sacct_says_so(slurm_cluster: SlurmCluster) -> None:
    done = slurm_cluster.run("sacct")
    assert done.returncode == 1
    assert "accounting storage is disabled" in done.stderr


def ssh(server: Sshd, *command: str) -> subprocess.Popen[str]:
    """OpenSSH's client, in the background."""
    argv = ["ssh", "-F", str(server.client_config("head")), "head", *command]
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.ssh
class TestSshd:
    """Login, cable, options."""

    def test_login_runs_a_command_in_its_own_home(self, sshd: Sshd) -> None:
        out, _ = ssh(sshd, 'echo "$HOME"; exit 7').communicate(timeout=60)
        assert out.strip() == str(sshd.home)

    def test_a_pulled_cable_ends_the_session_but_not_what_is_detached(self, sshd: Sshd) -> None:
        client = ssh(sshd, "setsid sleep 300 > /dev/null 2>&1 < /dev/null & echo $!; sleep 300")
        assert client.stdout is not None
        detached = int(client.stdout.readline())
        sshd.kill_sessions()
        assert client.wait(60) == 255
        client.communicate()
        assert runs(detached)
        os.kill(detached, signal.SIGKILL)

    def test_a_frozen_link_neither_answers_nor_ends(self, sshd: Sshd, tmp_path: Path) -> None:
        waits = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
        client = ssh(sshd, f"echo up; {waits}; echo end; touch {tmp_path}/said")
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        sshd.freeze()
        try:
            (tmp_path / "go").touch()
            wait_until((tmp_path / "said").exists, "the command's last word")
            with pytest.raises(subprocess.TimeoutExpired):
                client.wait(0.8)
        finally:
            sshd.thaw()
        assert client.communicate(timeout=60)[0] == "end\n"

    def test_options_reach_the_server(self, tmp_path: Path) -> None:
        (tmp_path / "banner").write_text("Trespassers will walk the plank\n")
        options = {"Banner": str(tmp_path / "banner"), "ForceCommand": "echo forced"}
        with Sshd(tmp_path / "sshd", options) as server:
            out, err = ssh(server, "echo asked").communicate(timeout=60)
        assert out == "forced\n"
        assert "walk the plank" in err

    def test_a_changed_host_key_is_refused(self, tmp_path: Path) -> None:
        with Sshd(tmp_path) as server:
            known = server.known_hosts.read_text()
            port = server.port
            server.stop()
            server.host_key.unlink()
            server.start()
            assert server.port == port
            server.client_config("head")
            server.known_hosts.write_text(known)
            client = ssh(server, "true")
            assert "IDENTIFICATION HAS CHANGED" in client.communicate(timeout=60)[1]
            assert client.returncode == 255

    @pytest.mark.slurm
    def test_a_session_uses_the_cluster(self, slurm_sshd: Sshd) -> None:
        out, _ = ssh(slurm_sshd, "sinfo -h -o %P").communicate(timeout=60)
        assert out.strip() == "dev*"


class TestTmux:
    """Keys in, text and exit code out."""

    def test_text_keys_and_exit_code(self, tmux: Tmux) -> None:
        tmux.start(
            "printf 'Ahoi, naïve %s\\n' \"$WHO\"; read x; echo got-$x; exit 3", 60, 10, {"WHO": "a $(b)"}
        )
        tmux.wait_for("Ahoi, naïve a $(b)")
        tmux.type_text("Enter")
        tmux.send("Enter")
        tmux.wait_for("got-Enter")
        assert tmux.wait_exit() == 3

    def test_a_click_arrives_as_mouse_report(self, tmux: Tmux) -> None:
        tmux.start("stty -icanon -echo; echo here; head -c 18 | od -An -c | tr -d ' \\n'; echo")
        tmux.wait_for("here")
        tmux.click(4, 2)
        tmux.wait_for("033[<0;5;3M033[<0;5;3m")

    def test_the_size_is_what_was_asked_for(self, tmux: Tmux) -> None:
        tmux.start("while sleep 0.1; do stty size; done", 90, 30)
        tmux.wait_for("30 90")
        tmux.resize(70, 20)
        tmux.wait_for("20 70")

    def test_a_missing_text_fails_with_the_screen(self, tmux: Tmux) -> None:
        tmux.start("echo something else; sleep 300")
        tmux.wait_for("something else")
        with pytest.raises(AssertionError, match="something else"):
            tmux.wait_for("treasure", timeout=0.2)


def test_tests_do_not_see_the_developer(home: Path) -> None:
    assert Path.home() == home
    assert not list(home.iterdir())
    assert not {"HF_TOKEN", "SSH_AUTH_SOCK", "SLURM_CONF"} & set(os.environ)


def test_the_cpu_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(folder: Path, requirements: list[str], _environment: object) -> None:
        assert requirements == ["tiny==1"]
        made.append(folder)
        (folder / "bin").mkdir(parents=True)
        (folder / ".complete").touch()

    monkeypatch.setattr("tests.cpu_env._make", make)
    stack = tmp_path / "tiny.toml"
    stack.write_text('requirements = ["tiny==1"]\n')
    first = cpu_python({}, stack, tmp_path / "cache")
    assert cpu_python({}, stack, tmp_path / "cache") == first == made[0] / "bin/python"
    (made[0] / ".complete").unlink()
    (made[0] / "bin").rmdir()
    cpu_python({}, stack, tmp_path / "cache")
    assert len(made) == 2


def test_a_named_cpu_environment_is_taken_or_refused() -> None:
    assert cpu_python({"LLAMA_TUI_CPU_PYTHON": sys.executable}) == Path(sys.executable)
    with pytest.raises(FileNotFoundError, match="LLAMA_TUI_CPU_PYTHON"):
        cpu_python({"LLAMA_TUI_CPU_PYTHON": "/nowhere/python"})
