"""The link over SSH: shells, noise, limits, cuts and silence, with a real sshd."""

import hashlib
import itertools
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_tui.backend.errors import HostError, LinkLost
from llama_tui.backend.hosts import ssh_transport
from llama_tui.backend.hosts.base import Channel, Host
from llama_tui.backend.hosts.openssh import OpenSshHost
from llama_tui.backend.hosts.ssh import SshHost
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.link import DEAD_AFTER, Event, Link
from tests.cluster import wait_until
from tests.ssh.answers import Answers
from tests.ssh.keys import public
from tests.ssh.users import throw_away_user
from tests.sshd import Sshd

pytestmark = pytest.mark.ssh

SHELLS = ["dash", "bash", "zsh", "fish", "tcsh"]
# What the shells read differently: quotes, backslashes, exclamation marks, dollars, newlines.
AWKWARD = "printf %s 'a\\\\b!c $HOME \"q\"'\"'\"'`x`\n~*'"
# A busy machine takes seconds for what waits for nothing; what waits for a dead peer takes DEAD_AFTER.
AT_ONCE = DEAD_AFTER * 2 / 3
AWKWARD_OUTPUT = b'a\\\\b!c $HOME "q"\'`x`\n~*'


@pytest.fixture(params=["paramiko", "openssh"])
def connect(request: pytest.FixtureRequest) -> Callable[..., Host]:
    """Either of the two ways to a host: `connect(config, as_user=None)`."""

    def connect(config: Path, as_user: str | None = None) -> Host:
        if request.param == "openssh":
            return OpenSshHost("host", config, as_user)
        return SshHost("host", Answers(), config, as_user)

    return connect


def ssh_host(server: Sshd) -> SshHost:
    return SshHost("host", Answers(), server.client_config("host"))


def read_all(channel: Channel) -> bytes:
    received = []
    while data := channel.read(1 << 20):
        received.append(data)
    return b"".join(received)


def collected(link: Link, path: Path, offset: int = 0) -> tuple[list[Event], Callable[[], str]]:
    """Follows a file; the events, and the text they make."""
    events: list[Event] = []
    link.follow(str(path), events.append, offset=offset)
    return events, lambda: "".join(event["text"] for event in events)


class TestLink:
    def test_all_that_the_link_can(self, sshd: Sshd, connect: Callable[..., Host], tmp_path: Path) -> None:
        link = Link(connect(sshd.client_config("host")), sys.executable)
        assert link.greeting.user == sshd.user
        assert link.run(["sh", "-c", "cat; exit 3"], stdin="in").exit == 3
        link.write_text(f"{tmp_path}/deep/file", "text é\n")
        assert link.read_text(f"{tmp_path}/deep/file") == "text é\n"
        log = tmp_path / "log"
        log.write_text("first\n")
        _, text = collected(link, log)
        with log.open("a") as stream:
            stream.write("second\n")
        wait_until(lambda: text() == "first\nsecond\n", "the second line")
        link.close()

    def test_one_connection_serves_many_starts(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        before = _logins(sshd)
        channels = [host.start("cat") for _ in range(4)]
        for number, channel in enumerate(channels):
            channel.write(b"%d\n" % number)
            assert channel.read(100) == b"%d\n" % number
        assert _logins(sshd) - before == 1
        host.close()
        assert host.start("echo again").read(100) == b"again\n"
        host.close()

    def test_stderr_is_kept_and_never_blocks(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        channel = host.start("head -c 5000000 /dev/zero | tr '\\0' e >&2; echo last-words >&2; echo done")
        assert read_all(channel) == b"done\n"
        wait_until(lambda: channel.errors().endswith("last-words"), "stderr")
        host.close()

    def test_writing_to_a_command_that_has_ended(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        channel = host.start("true")
        assert read_all(channel) == b""
        with pytest.raises(OSError):
            for _ in range(100):
                channel.write(b"x" * 65536)
        channel.close()
        channel.close()
        host.close()

    def test_no_python_there(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        with pytest.raises(HostError, match="no-such-python") as caught:
            Link(host, "no-such-python")
        assert "not found" in caught.value.message
        host.close()


class TestVolume:
    SIZE = 30_000_000

    def test_much_output(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        received = read_all(host.start(f"head -c {self.SIZE} /dev/zero"))
        assert received == bytes(self.SIZE)
        host.close()

    def test_much_input(self, sshd: Sshd) -> None:
        host = ssh_host(sshd)
        data = bytes(range(256)) * (self.SIZE // 256)
        channel = host.start(f"head -c {len(data)} | sha256sum")
        channel.write(data)
        assert channel.read(100).split()[0].decode() == hashlib.sha256(data).hexdigest()
        host.close()

    def test_a_big_file_through_the_link(self, sshd: Sshd, tmp_path: Path) -> None:
        host = ssh_host(sshd)
        link = Link(host, sys.executable)
        text = "".join(f"line {number}\n" for number in range(300_000))
        link.write_text(f"{tmp_path}/big", text)
        assert link.read_text(f"{tmp_path}/big") == text
        link.close()
        host.close()


class TestShells:
    @pytest.mark.parametrize("shell", SHELLS)
    def test_every_login_shell_runs_the_same(
        self, tmp_path: Path, connect: Callable[..., Host], shell: str
    ) -> None:
        program = shutil.which(shell)
        if program is None:
            pytest.skip(f"{shell} is not installed")
        with Sshd(tmp_path, {"AuthorizedKeysFile": ".ssh/authorized_keys"}) as server:
            config = server.client_config("host")
            with throw_away_user(program, public(server.key) + "\n") as user:
                config.write_text(f"Host host\n User {user.name}\n" + config.read_text())
                host = connect(config)
                assert read_all(host.start(AWKWARD)) == AWKWARD_OUTPUT
                link = Link(host)
                assert link.greeting.user == user.name
                link.close()
                server.stop()

    @pytest.mark.parametrize("shell", SHELLS)
    def test_continuing_as_another_user(self, sshd: Sshd, connect: Callable[..., Host], shell: str) -> None:
        program = shutil.which(shell)
        if program is None or shutil.which("sudo") is None:
            pytest.skip(f"{shell} or sudo is not installed")
        with throw_away_user(program) as user:
            host = connect(sshd.client_config("host"), user.name)
            assert read_all(host.start(AWKWARD)) == AWKWARD_OUTPUT
            link = Link(host)
            assert link.greeting.user == user.name
            assert link.greeting.home == str(user.home)
            link.close()
            wait_until(lambda: not _processes_of(user.name), "the agent's end")

    def test_a_user_that_is_none(self, sshd: Sshd) -> None:
        with pytest.raises(NeedsYou, match="cannot be a user's name"):
            SshHost("host", Answers(), sshd.client_config("host"), "a b").start("true")

    def test_an_account_without_a_shell(self, tmp_path: Path) -> None:
        with Sshd(tmp_path, {"AuthorizedKeysFile": ".ssh/authorized_keys"}) as server:
            config = server.client_config("host")
            with throw_away_user("/usr/sbin/nologin", public(server.key) + "\n") as user:
                config.write_text(f"Host host\n User {user.name}\n" + config.read_text())
                with pytest.raises(HostError, match="not available"):
                    Link(SshHost("host", Answers(), config))
                server.stop()


def _logins(server: Sshd) -> int:
    return (server.root / "sshd.log").read_text().count("Accepted publickey")


def _processes_of(name: str) -> bool:
    return subprocess.run(["ps", "-u", name], capture_output=True, check=False).returncode == 0


class TestHostsAsTheyAre:
    def test_noise_before_the_agent(self, tmp_path: Path, connect: Callable[..., Host]) -> None:
        (tmp_path / "banner").write_text("*** property of the lab ***\n" * 50)
        with Sshd(tmp_path, {"Banner": str(tmp_path / "banner")}) as server:
            (server.home / ".bashrc").write_text("echo loading modules; printf '{\"x\": '; echo oops >&2\n")
            link = Link(connect(server.client_config("host")))
            assert link.run(["echo", "clean"]).stdout == "clean\n"
            link.close()

    def test_a_start_up_file_that_exits(self, tmp_path: Path) -> None:
        with Sshd(tmp_path) as server:
            (server.home / ".bashrc").write_text("echo quota exceeded; exit 7\n")
            with pytest.raises(HostError, match="quota exceeded"):
                Link(ssh_host(server))

    def test_one_session_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # A busy machine takes longer to end a process.
        monkeypatch.setattr(ssh_transport, "_SLOT_IS_FREED_WITHIN", 60.0)
        with Sshd(tmp_path, {"MaxSessions": "1"}) as server:
            host = ssh_host(server)
            first = Link(host)
            # The second has to come over a connection of its own.
            second = Link(host)
            assert first.run(["echo", "1"]).stdout + second.run(["echo", "2"]).stdout == "1\n2\n"
            second.close()
            for _ in range(3):
                # The slot of the last agent is free again as soon as that has ended.
                first.close()
                first = Link(host)
            assert first.run(["echo", "3"]).stdout == "3\n"
            assert _logins(server) == 2
            first.close()
            host.close()

    def test_no_session_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssh_transport, "_SLOT_IS_FREED_WITHIN", 0.1)
        with (
            Sshd(tmp_path, {"MaxSessions": "0"}) as server,
            pytest.raises(HostError, match="no further session"),
        ):
            ssh_host(server).start("true")

    def test_without_sftp(self, tmp_path: Path) -> None:
        with Sshd(tmp_path, {"Subsystem": "sftp /bin/false"}) as server:
            link = Link(ssh_host(server))
            link.write_text(f"{tmp_path}/x", "x")
            assert link.read_text(f"{tmp_path}/x") == "x"
            link.close()


class _Silent:
    """A link to a host that will go silent, and a big write to it on a thread of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.lost = threading.Event()
        self.link = Link(host, on_lost=lambda _: self.lost.set())
        self.errors: list[BaseException] = []
        self.writer = threading.Thread(target=self._write, args=(folder / "big",))

    def _write(self, file: Path) -> None:
        try:
            self.link.write_text(str(file), "x" * 50_000_000)
        except HostError as error:
            self.errors.append(error)


class TestCuts:
    def test_a_cut_is_noticed_at_once_and_the_log_goes_on(self, sshd: Sshd, tmp_path: Path) -> None:
        host = ssh_host(sshd)
        log = tmp_path / "log"
        log.write_text("")
        text, cut_enough = "", threading.Event()

        def write() -> None:
            with log.open("a", buffering=1) as stream:
                for number in itertools.count():
                    stream.write(f"line {number}\n")
                    if number % 10 == 0 and cut_enough.wait(0.01):
                        return

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(5):
            lost = threading.Event()
            link = Link(host, on_lost=lambda _, lost=lost: lost.set())  # type: ignore[misc]
            events, _ = collected(link, log, offset=len(text))
            wait_until(lambda events=events: bool(events), "more of the log")  # type: ignore[misc]
            sshd.kill_sessions()
            # Silence would tell it as well, much later.
            assert lost.wait(DEAD_AFTER / 2)
            link.close()
            text += "".join(event["text"] for event in events)
        cut_enough.set()
        writer.join()
        link = Link(host)
        _, rest = collected(link, log, offset=len(text))
        wait_until(lambda: text + rest() == log.read_text(), "the rest of the log")
        link.close()
        assert log.read_text() == "".join(f"line {number}\n" for number in range(log.read_text().count("\n")))
        host.close()

    def test_silence_is_a_dead_link(self, sshd: Sshd, tmp_path: Path) -> None:
        """Also in the middle of a big write, whose bytes nobody takes any more; by both ways at once, as it takes long."""
        config = sshd.client_config("host")
        silent = [
            _Silent(host, tmp_path)
            for host in (SshHost("host", Answers(), config), OpenSshHost("host", config))
        ]
        sshd.freeze()
        try:
            for one in silent:
                one.writer.start()
            for one in silent:
                assert one.lost.wait(2 * DEAD_AFTER)
                one.writer.join(DEAD_AFTER)
                assert [type(error) for error in one.errors] == [LinkLost]
                closing = time.monotonic()
                one.link.close()
                assert time.monotonic() - closing < AT_ONCE
        finally:
            sshd.thaw()
        for one in silent:
            again = time.monotonic()
            link = Link(one.link.host)
            assert link.run(["echo", "back"]).stdout == "back\n"
            assert time.monotonic() - again < AT_ONCE
            link.close()

    def test_a_dead_server_does_not_keep_the_program(self, sshd: Sshd) -> None:
        """The program ends at once, whatever state its connections are in."""
        code = (
            "import os, sys\nfrom pathlib import Path\n"
            "from llama_tui.backend.hosts.ssh import SshHost\nfrom llama_tui.backend.link import Link\n"
            "link = Link(SshHost('host', None, Path(sys.argv[1])))\nprint('up', flush=True)\nsys.stdin.readline()\n"
        )
        argv = [sys.executable, "-c", code, str(sshd.client_config("host"))]
        program = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        sshd.freeze()
        try:
            _, said = program.communicate(b"\n", timeout=AT_ONCE)
        finally:
            sshd.thaw()
            if program.poll() is None:
                program.send_signal(signal.SIGKILL)
        assert (program.returncode, said) == (0, b"")
