"""A real Slurm cluster of two nodes on the loopback, without touching anything outside its own directories.

By hand, from the repository: `python -m tests.cluster DIRECTORY`.
"""

import argparse
import getpass
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tests.ports import PortLease, listening
from tests.supervisor import Daemon

if TYPE_CHECKING:
    from tests.cluster_accounting import Accounting

APT_LINE = "apt-get install --no-install-recommends slurm-wlm munge"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
CPUS_PER_NODE = 2
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

_CONF = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={munge_socket}
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={run}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/linux
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=60
KillWait=30
ReturnToService=2
{extra}
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports} CPUs={cpus} RealMemory={memory}
PartitionName=dev Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(RuntimeError):
    """The cluster, or a program it needs, is not there; the message says what to do."""


def missing_programs(programs: Sequence[str] = PROGRAMS) -> list[str]:
    """Those programs of a cluster that this machine lacks."""
    return [name for name in programs if shutil.which(name, path=_PATH) is None]


def program(name: str) -> str:
    """The path of a daemon; distributions keep them off an ordinary user's PATH."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise ClusterError(f"{name} is not installed")
    return path


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 60, every: float = 0.05) -> None:
    """Poll until `condition()`; after `timeout` seconds raises ClusterError naming `what`.

    The time is for a hang: a busy machine may need several seconds for what is done at once on an idle one.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"still waiting after {timeout:g} s for: {what}")
        time.sleep(every)


def _short_host() -> str:
    return socket.gethostname().partition(".")[0]


def _total_memory() -> int:
    """MiB of this machine; both nodes offer all of it, since CR_CPU does not count memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


class SlurmCluster:
    """slurmctld, two slurmd (trn1-1, trn1-2) and a munged of their own; a context manager.

    `root` takes configuration, state and logs. Sockets are in a short directory of their own under /tmp, since a
    socket's path is limited to 107 bytes. `accounting` adds slurmdbd on a private MariaDB. `extra` are further lines
    for slurm.conf. The daemons are `Daemon` objects: `cluster.controller.signal(signal.SIGSTOP)` hangs it.
    """

    def __init__(self, root: Path, *, accounting: bool = False, extra: Sequence[str] = ()) -> None:
        self.root = root.absolute()
        self.conf = self.root / "slurm.conf"
        self.nodes = ("trn1-1", "trn1-2")
        self.controller: Daemon | None = None
        self.slurmd: dict[str, Daemon] = {}
        self.accounting: Accounting | None = None
        self._with_accounting = accounting
        self._extra = list(extra)
        self._munged: Daemon | None = None
        self._leases: list[PortLease] = []

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start empty and wait until both nodes are idle. Raises ClusterError, with nothing left running."""
        missing = missing_programs()
        if missing:
            raise ClusterError(f"{', '.join(missing)} not found. Install with: {APT_LINE}")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        (self.root / "state").mkdir(parents=True, exist_ok=True)
        self._leases = [PortLease() for _ in range(1 + len(self.nodes))]
        run = Path(tempfile.mkdtemp(prefix="llama-tui-", dir="/tmp"))
        run.chmod(0o755)
        socket_path = self._start_munged(run)
        if self._with_accounting:
            from tests.cluster_accounting import Accounting

            self.accounting = Accounting(self.root, run, socket_path)
            self.accounting.start()
        self._write_conf(run, socket_path)
        if self.accounting is not None:
            self.accounting.register(self.conf, self.name)
        self._start_slurmctld("-c")
        for node in self.nodes:
            self._start_slurmd(node)
        wait_until(self._controller_answers, f"slurmctld; see {self.root}/slurmctld.log")
        for node in self.nodes:
            self._wait_idle(node)

    def _start_munged(self, run: Path) -> Path:
        """A munged with its own key; as root it runs as user munge, since it distrusts files of others."""
        home = run / "munge"
        home.mkdir(mode=0o755)
        key = home / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        user = "munge" if os.geteuid() == 0 else None
        if user:
            for path in (home, key):
                shutil.chown(path, user, user)
        socket_path = home / "socket"
        files = {"socket": socket_path, "key-file": key, "pid-file": home / "pid", "seed-file": home / "seed"}
        argv = [program("munged"), "--foreground", *(f"--{name}={path}" for name, path in files.items())]
        self._munged = Daemon(argv, self.root / "munged.log", user=user, remove=run)
        wait_until(socket_path.exists, f"munged; see {self.root}/munged.log")
        return socket_path

    def _write_conf(self, run: Path, munge_socket: Path) -> None:
        extra = [*(self.accounting.conf_lines() if self.accounting else []), *self._extra]
        controller, *nodes = (lease.port for lease in self._leases)
        self.conf.write_text(
            _CONF.format(
                name=self.name,
                host=_short_host(),
                user=pwd.getpwuid(os.geteuid()).pw_name,
                controller_port=controller,
                munge_socket=munge_socket,
                root=self.root,
                run=run,
                nodes=",".join(self.nodes),
                node_ports=",".join(map(str, nodes)),
                cpus=CPUS_PER_NODE,
                memory=_total_memory(),
                extra="\n".join(extra),
            )
        )

    @property
    def name(self) -> str:
        """The cluster's name, different for every running cluster of this machine."""
        return f"test{self._leases[0].port}"

    def stop(self) -> None:
        """Kill everything the cluster started, jobs too."""
        for daemon in [*self.slurmd.values(), self.controller]:
            if daemon is not None:
                daemon.close()
        if self.accounting is not None:
            self.accounting.stop()
        if self._munged is not None:
            self._munged.close()
        for lease in self._leases:
            lease.release()
        self.slurmd, self.controller, self.accounting, self._munged, self._leases = {}, None, None, None, []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(
        self, *argv: str, check: bool = False, stdin: str = "", timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command against the cluster, in `root`. Raises CalledProcessError with `check`."""
        return subprocess.run(
            argv,
            env={**os.environ, **self.env},
            cwd=self.root,
            input=stdin,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    def submit(self, script: str, *options: str) -> str:
        """Submit a batch script with sbatch and give its job id. Raises ClusterError with sbatch's words."""
        done = self.run("sbatch", "--parsable", *options, stdin=script)
        if done.returncode:
            raise ClusterError(done.stderr.strip())
        return done.stdout.strip().partition(";")[0]

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`, while the controller remembers the job."""
        text = self.run("scontrol", "-o", "show", "job", job_id, check=True).stdout
        pairs = (word.partition("=") for word in text.split())
        return {name: value for name, equals, value in pairs if equals}

    def wait_job(self, job_id: str, *states: str, timeout: float = 90) -> dict[str, str]:
        """Poll until the job is in one of `states`; raises ClusterError after `timeout` seconds."""
        wait_until(
            lambda: self.job(job_id)["JobState"] in states,
            f"job {job_id} to be {' or '.join(states)}",
            timeout,
            every=0.2,
        )
        return self.job(job_id)

    def clear(self) -> None:
        """Leave it as every test finds it: with a controller, and without a job, whatever the last test came to."""
        self.start_controller()
        self.run("scancel", "--full", f"--user={getpass.getuser()}")
        wait_until(lambda: not self.run("squeue", "-h", check=True).stdout, "all jobs to end", every=0.2)

    def start_requeued(self, job_id: str) -> None:
        """Let a requeued job start soon instead of after the two minutes that Slurm waits.

        Not at once: a slurmd refuses to start a job again in the second in which it killed it, and Slurm then fails it.
        Nor before its last life has ended on all nodes: until then Slurm may set the time itself.
        """
        wait_until(
            lambda: self.job(job_id)["JobState"] != "COMPLETING",
            f"the end of job {job_id}'s last life",
            every=0.1,
        )
        self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+3seconds")

    def node_state(self, node: str) -> str:
        """The node's state in lower case as sinfo says it, with its suffix (`idle*` = does not answer)."""
        # One line for each partition that the node is in.
        return self.run("sinfo", "-h", "-N", "-n", node, "-o", "%T").stdout.split("\n")[0].strip()

    def _wait_idle(self, node: str, timeout: float = 60) -> None:
        wait_until(
            lambda: self.node_state(node) == "idle",
            f"node {node} to be idle, not {self.node_state(node)}; see {self.root}/slurmd-{node}.log",
            timeout,
            every=0.1,
        )

    def _controller_answers(self) -> bool:
        return listening(self._leases[0].port) and "is UP" in self.run("scontrol", "ping").stdout

    def _start_slurmctld(self, *options: str) -> None:
        argv = [program("slurmctld"), "-D", "-f", str(self.conf), *options]
        self.controller = Daemon(argv, self.root / "slurmctld.out", env={**os.environ, **self.env})

    def start_controller(self) -> None:
        """Start slurmctld again with the state it saved, and wait for its answer."""
        if self.controller is None:
            self._start_slurmctld()
            wait_until(self._controller_answers, f"slurmctld; see {self.root}/slurmctld.log")

    def stop_controller(self) -> None:
        """End slurmctld in order; jobs run on."""
        if self.controller is not None:
            self.controller.terminate(60)
            self.controller.close()
            self.controller = None

    def _start_slurmd(self, node: str) -> None:
        argv = [program("slurmd"), "-D", "-f", str(self.conf), "-N", node]
        self.slurmd[node] = Daemon(argv, self.root / f"slurmd-{node}.out", env={**os.environ, **self.env})

    def start_node(self, node: str) -> None:
        """Start the node's slurmd, what is left of its last life ends, and wait until it is idle."""
        old = self.slurmd.pop(node, None)
        if old is not None:
            old.close()
        self._start_slurmd(node)
        try:
            self._wait_idle(node, 10)
        except ClusterError:
            # A slurmctld that was started anew can count a dead node's job for ever (22.05); it counts again as it starts.
            self.stop_controller()
            self.start_controller()
            self._wait_idle(node, 60)

    def kill_node(self, node: str, *, jobs_survive: bool = False) -> None:
        """Kill the node's slurmd and its jobs at once, as a power cut does.

        The controller is told that the node is down, which it would else find out itself after SlurmdTimeout.
        `jobs_survive`: only slurmd dies and the job's processes run on, unknown to Slurm.
        """
        if jobs_survive:
            self.slurmd[node].kill()
        else:
            self.slurmd.pop(node).close()
        if self.controller is not None:
            self.run(
                "scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=Not responding", check=True
            )


def main() -> None:
    """Run a cluster until Ctrl-C, SIGTERM or the end of the terminal."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description="Run a Slurm of two nodes on 127.0.0.1 until Ctrl-C."
    )
    parser.add_argument("directory", type=Path, help="configuration, state and logs; made when missing")
    parser.add_argument("--accounting", action="store_true", help="add slurmdbd on a private MariaDB")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with SlurmCluster(options.directory, accounting=options.accounting) as cluster:
            print(f"export SLURM_CONF={shlex.quote(str(cluster.conf))}", flush=True)
            print(f"# {getpass.getuser()}'s cluster {cluster.name} is up; Ctrl-C ends it", file=sys.stderr)
            signal.pause()
    except ClusterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
