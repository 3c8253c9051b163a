"""A real sshd on the loopback that lets in the current user with a key of its own."""

import getpass
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster import program, wait_until
from tests.ports import PortLease, listening
from tests.supervisor import Daemon, send_signal

APT_LINE = "apt-get install --no-install-recommends openssh-server"


class Sshd:
    """An sshd below `root`; a context manager.

    `options` are lines of sshd_config, for example `{"MaxSessions": "1", "Banner": "/path"}`, and win over ours.
    `env` is set in every session; HOME is `home` unless given there, so that nothing lands in the real one (sshd
    still starts commands in the real one: use absolute paths). The same `root` keeps keys and port over stop() and start(); delete
    `root / "host_key"` between the two for a server whose host key has changed.
    """

    def __init__(
        self, root: Path, options: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.root = root.absolute()
        self.home = self.root / "home"
        self.key = self.root / "user_key"
        self.host_key = self.root / "host_key"
        self.known_hosts = self.root / "known_hosts"
        self.user = getpass.getuser()
        self.options = dict(options or {})
        self.env = {"HOME": str(self.home), "PATH": os.environ.get("PATH", os.defpath), **(env or {})}
        self._lease: PortLease | None = None
        self._daemon: Daemon | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, from the first start() on."""
        assert self._lease is not None, "call start() first"
        return self._lease.port

    @property
    def daemon(self) -> Daemon:
        """The running sshd."""
        assert self._daemon is not None, "call start() first"
        return self._daemon

    def start(self) -> None:
        """Start and wait until it accepts connections. Raises ClusterError with the way to its log."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._lease = self._lease or PortLease()
        for key in (self.key, self.host_key):
            if not key.exists():
                key.with_suffix(".pub").unlink(missing_ok=True)
                command = [
                    "ssh-keygen",
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    "llama-tui test",
                    "-f",
                    str(key),
                ]
                subprocess.run(command, check=True)
        (self.root / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        host_key = " ".join(self.host_key.with_suffix(".pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        if os.geteuid() == 0:
            # The one directory sshd wants outside its configuration; its path is compiled in.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        conf = self.root / "sshd_config"
        conf.write_text(self._conf())
        log = self.root / "sshd.log"
        self._daemon = Daemon([program("sshd"), "-D", "-e", "-f", str(conf)], log)
        wait_until(lambda: listening(self.port) or not self.daemon.running, f"sshd; see {log}")
        if not self.daemon.running:
            self.stop()
            raise RuntimeError(f"sshd did not start: {log.read_text().strip()}")

    def _conf(self) -> str:
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self.root / "authorized_keys"),
            "PidFile": str(self.root / "sshd.pid"),
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            # Its directory belongs to the test, not to the user's home.
            "StrictModes": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            # Several clients may knock at once; the default begins to drop the eleventh.
            "MaxStartups": "100",
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in self.env.items()),
        }
        # One program cannot spell a keyword in two ways: sshd takes the first line it meets.
        given = {name.lower() for name in self.options}
        merged = self.options | {name: value for name, value in lines.items() if name.lower() not in given}
        return "".join(f"{name} {value}\n" for name, value in merged.items())

    def client_config(self, alias: str) -> Path:
        """Write an ssh_config that knows this server as `alias`, for `ssh -F`; its path.

        An `Include` of the path works too, since the alias is in the file's name.
        """
        path = self.root / f"config-{alias}"
        lines = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        path.write_text(f"Host {alias}\n" + "".join(f"    {name} {value}\n" for name, value in lines.items()))
        return path

    def sessions(self) -> list[int]:
        """The sshd processes that serve live connections."""
        return [pid for pid in self.daemon.descendants() if _command(pid).startswith("sshd")]

    def kill_sessions(self) -> None:
        """Pull the cable: every connection ends at once. Commands detached from their session run on."""
        doomed = set(self.sessions())
        for pid in doomed:
            send_signal(pid, signal.SIGKILL)
        # Whoever was cut off may be back already, in a session of its own.
        wait_until(lambda: not doomed & set(self.sessions()), "the sessions of sshd to end", every=0.01)

    def freeze(self) -> None:
        """The network goes silent: connections stay open and nothing answers, until `thaw()`."""
        for pid in [self.daemon.pid, *self.sessions()]:
            send_signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """End a `freeze()`."""
        for pid in [self.daemon.pid, *self.sessions()]:
            send_signal(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server, its connections and everything started through them; the port stays ours."""
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._lease is not None:
            self._lease.release()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""
