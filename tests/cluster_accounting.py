"""slurmdbd on a private MariaDB, for a test cluster with accounting."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.cluster import ClusterError, missing_programs, program, wait_until
from tests.ports import PortLease, listening
from tests.supervisor import Daemon

APT_LINE = "apt-get install --no-install-recommends slurmdbd mariadb-server"
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")

_CONF = """\
AuthType=auth/munge
AuthInfo=socket={munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct
"""


class Accounting:
    """A MariaDB without a network, reached on a socket below `run`, and the slurmdbd that uses it."""

    def __init__(self, root: Path, run: Path, munge_socket: Path) -> None:
        self.root = root
        self.socket = run / "mysql"
        self.data = root / "mysql"
        self._munge_socket = munge_socket
        self._lease = PortLease()
        self._daemons: list[Daemon] = []

    def conf_lines(self) -> list[str]:
        """What slurm.conf needs to use it."""
        return [
            "AccountingStorageType=accounting_storage/slurmdbd",
            "AccountingStorageHost=127.0.0.1",
            f"AccountingStoragePort={self._lease.port}",
            f"AccountingStoragePass={self._munge_socket}",
            "JobAcctGatherFrequency=5",
        ]

    def start(self) -> None:
        """Make the database and start both. Raises ClusterError when a program is missing or does not start."""
        missing = missing_programs(PROGRAMS)
        if missing:
            raise ClusterError(f"{', '.join(missing)} not found. Install with: {APT_LINE}")
        self._start_database()
        conf = self.root / "slurmdbd.conf"
        user = pwd.getpwuid(os.geteuid()).pw_name
        port = self._lease.port
        conf.touch(mode=0o600)
        conf.chmod(0o600)
        conf.write_text(_CONF.format(munge_socket=self._munge_socket, port=port, user=user, root=self.root))
        # slurmdbd looks for its configuration beside slurm.conf; the client library takes the socket from here.
        env = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf"), "MYSQL_UNIX_PORT": str(self.socket)}
        self._daemons.append(Daemon([program("slurmdbd"), "-D"], self.root / "slurmdbd.out", env=env))
        wait_until(lambda: listening(port), f"slurmdbd; see {self.root}/slurmdbd.log")

    def register(self, conf: Path, cluster: str) -> None:
        """Make the cluster known to slurmdbd before its slurmctld asks. Raises ClusterError with sacctmgr's words."""
        env = {**os.environ, "SLURM_CONF": str(conf)}
        argv = ["sacctmgr", "--immediate", "add", "cluster", cluster]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ClusterError(f"sacctmgr add cluster failed: {done.stderr.strip() or done.stdout.strip()}")

    def _start_database(self) -> None:
        """An empty database whose only user is the current one, known by the socket's peer."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        shutil.rmtree(self.data, ignore_errors=True)
        argv = [program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", f"--user={user}"]
        argv += ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}"]
        made = subprocess.run([*argv, "--skip-test-db"], capture_output=True, text=True, timeout=120)
        if made.returncode:
            raise ClusterError(f"mariadb-install-db failed: {made.stderr.strip() or made.stdout.strip()}")
        server = [program("mariadbd"), "--no-defaults", f"--datadir={self.data}", f"--socket={self.socket}"]
        server += ["--skip-networking", f"--user={user}", f"--pid-file={self.root}/mariadb.pid"]
        server += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M"]
        self._daemons.append(Daemon(server, self.root / "mariadb.log"))
        wait_until(self.socket.exists, f"mariadbd; see {self.root}/mariadb.log")

    def stop(self) -> None:
        """Kill both."""
        for daemon in reversed(self._daemons):
            daemon.close()
        self._daemons = []
        self._lease.release()
