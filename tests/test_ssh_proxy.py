"""The way to the host: addresses, proxies and jumps, and what is said when it is barred."""

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_tui.backend.errors import HostError, LinkLost
from llama_tui.backend.hosts.proxy import ProxyCommand, connect_tcp
from llama_tui.backend.hosts.ssh import SshHost
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_config import HostConfig
from llama_tui.backend.hosts.ssh_transport import PROXY_TIMEOUT
from llama_tui.backend.link import DEAD_AFTER, Link
from tests.cluster import wait_until
from tests.ports import PortLease
from tests.ssh.answers import Answers
from tests.sshd import Sshd

RELAY = shlex.join([sys.executable, str(Path(__file__).parent / "ssh" / "relay.py")])


def with_lines(server: Sshd, *lines: str, alias: str = "host") -> Path:
    """The server's client config with more lines, which win."""
    path = server.client_config(alias)
    more = "".join(f"    {line}\n" for line in lines)
    path.write_text(path.read_text().replace(f"Host {alias}\n", f"Host {alias}\n{more}"))
    return path


def failure(config: Path, alias: str = "host") -> HostError:
    """What is said when connecting fails."""
    with pytest.raises(HostError) as caught:
        SshHost(alias, Answers(), config).start("true")
    return caught.value


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nobody listens."""
    lease = PortLease()
    yield lease.port
    lease.release()


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestAddresses:
    def test_all_addresses_are_tried(self, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", free_port)),
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", free_port, 0, 0)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
            with connect_tcp(HostConfig("a", "a", port, "me")) as connection:
                assert connection.getpeername()[1] == port
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_nobody_listens(self, tmp_path: Path, free_port: int) -> None:
        config = tmp_path / "config"
        config.write_text(f"Host host\n HostName 127.0.0.1\n Port {free_port}\n")
        error = failure(config)
        assert (
            f"127.0.0.1 cannot be reached at port {free_port}: 127.0.0.1: connection refused" in error.message
        )
        assert not isinstance(error, NeedsYou)

    def test_no_such_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        (tmp_path / "config").write_text("")
        error = failure(tmp_path / "config", "no-such-host")
        assert "The name no-such-host is not known" in error.message
        assert "~/.ssh/config" in error.hint

    def test_no_answer(self, tmp_path: Path, mute_port: int) -> None:
        config = tmp_path / "config"
        config.write_text(f"Host host\n HostName 127.0.0.1\n Port {mute_port}\n ConnectTimeout 1\n")
        started = time.monotonic()
        assert "did not answer as an SSH server" in failure(config).message
        # Without that line it would be 15 s.
        assert time.monotonic() - started < 12

    def test_a_web_server(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            threading.Thread(target=serve, daemon=True).start()
            config = tmp_path / "config"
            config.write_text(f"Host host\n HostName 127.0.0.1\n Port {listener.getsockname()[1]}\n")
            error = failure(config)
        assert "did not answer as an SSH server" in error.message


@pytest.mark.ssh
class TestProxyCommand:
    def test_the_whole_link_through_a_relay(self, sshd: Sshd, tmp_path: Path) -> None:
        config = with_lines(sshd, f"ProxyCommand {RELAY} %h %p")
        host = SshHost("host", Answers(), config)
        link = Link(host)
        (tmp_path / "log").write_text("line\n" * 100_000)
        assert link.read_text(f"{tmp_path}/log") == "line\n" * 100_000
        link.close()
        host.close()

    def test_its_end_is_noticed_at_once(self, sshd: Sshd, tmp_path: Path) -> None:
        pid = tmp_path / "pid"
        config = with_lines(
            sshd, f"ProxyCommand sh -c 'echo $$ >{pid}; echo tunnel-is-up >&2; exec {RELAY} %h %p'"
        )
        lost = threading.Event()
        said: list[LinkLost] = []

        def on_lost(error: LinkLost) -> None:
            said.append(error)
            lost.set()

        link = Link(SshHost("host", Answers(), config), on_lost=on_lost)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        assert lost.wait(DEAD_AFTER / 2), "only silence tells it"
        assert "tunnel-is-up" in said[0].message
        link.close()

    @pytest.mark.parametrize(
        ("words", "hint", "person"),
        [
            ("An error occurred (TargetNotConnected) when calling StartSession", "easy-ssh.sh", False),
            ("An error occurred (ExpiredTokenException) when calling", "aws sso login", True),
            ("SessionManagerPlugin is not found. Please refer to", "session-manager-plugin", True),
            ("something new", "by hand", False),
        ],
    )
    def test_what_it_says_is_told(self, sshd: Sshd, words: str, hint: str, person: bool) -> None:
        config = with_lines(sshd, f"ProxyCommand sh -c \"echo '{words}' >&2; exit 254\"")
        started = time.monotonic()
        error = failure(config)
        # A tunnel that is not up yet is waited for.
        assert time.monotonic() - started < PROXY_TIMEOUT / 2
        assert f"The ProxyCommand of host ended (exit code 254). It said:\n{words}" in error.message
        assert hint in error.hint
        assert isinstance(error, NeedsYou) is person

    def test_a_program_that_is_not_there(self, sshd: Sshd) -> None:
        error = failure(with_lines(sshd, "ProxyCommand no-such-program --port %p"))
        assert "no-such-program" in error.message
        assert "Install that program" in error.hint

    def test_closing_ends_all_its_processes(self, tmp_path: Path) -> None:
        # As aws does it: a child that does the work, and does not care for SIGTERM.
        script = f"trap '' TERM; sleep 300 & echo $! >{tmp_path}/child.tmp; mv {tmp_path}/child.tmp {tmp_path}/child; wait"
        proxy = ProxyCommand(f"sh -c {shlex.quote(script)}")
        wait_until((tmp_path / "child").exists, "the child")
        child = int((tmp_path / "child").read_text())
        proxy.close()
        proxy.close()
        # It returned at once: what does not care for SIGTERM is killed after two seconds.
        assert _runs(child)
        wait_until(lambda: not _runs(child), "the child's end")
        assert proxy.ended(60) is not None

    def test_a_child_that_holds_the_pipe_does_not_hide_the_end(self) -> None:
        proxy = ProxyCommand("sh -c 'trap \"\" TERM; (sleep 300) & printf last-words; exit 3'")
        received = b""
        proxy.settimeout(60)
        while data := proxy.recv(100):
            received += data
        assert received == b"last-words"
        assert proxy.ended(60) == 3
        proxy.close()

    def test_waiting_costs_no_time_of_the_processor(self, sshd: Sshd) -> None:
        host = SshHost("host", Answers(), with_lines(sshd, f"ProxyCommand {RELAY} %h %p"))
        channel = host.start("cat")
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.4
        channel.close()
        host.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.ssh
class TestProxyJump:
    @pytest.fixture(scope="class")
    def second(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
        """Another sshd, with keys of its own."""
        with Sshd(tmp_path_factory.mktemp("second")) as server:
            yield server

    def config(self, folder: Path, jump: str, *servers: tuple[str, Sshd]) -> Path:
        """The last of the servers is reached through the others."""
        path = folder / "config"
        texts = [server.client_config(alias).read_text() for alias, server in servers]
        path.write_text(f"Host {servers[-1][0]}\n ProxyJump {jump}\n" + "".join(texts))
        return path

    def test_one_and_two_hops(self, sshd: Sshd, second: Sshd, tmp_path: Path) -> None:
        one = self.config(tmp_path, "bastion", ("bastion", sshd), ("inner", second))
        with_one = SshHost("inner", Answers(), one)
        assert Link(with_one).run(["echo", "in"]).stdout == "in\n"
        before = len(second.sessions())
        with_one.close()
        wait_until(lambda: len(second.sessions()) < before, "the inner session to end")
        two = self.config(
            tmp_path, "bastion,middle", ("bastion", sshd), ("middle", second), ("inner", second)
        )
        with_two = SshHost("inner", Answers(), two)
        assert Link(with_two).run(["echo", "in"]).stdout == "in\n"
        with_two.close()

    def test_the_first_hop_dies(self, sshd: Sshd, second: Sshd, tmp_path: Path) -> None:
        lost = threading.Event()
        config = self.config(tmp_path, "bastion", ("bastion", sshd), ("inner", second))
        host = SshHost("inner", Answers(), config)
        Link(host, on_lost=lambda _: lost.set())
        sshd.kill_sessions()
        assert lost.wait(DEAD_AFTER / 2)
        assert Link(host).run(["true"]).exit == 0
        host.close()

    def test_which_hop_failed(self, sshd: Sshd, second: Sshd, tmp_path: Path, free_port: int) -> None:
        config = self.config(tmp_path, "bastion", ("bastion", sshd), ("inner", second))
        text = config.read_text()
        config.write_text(f"Host inner\n Port {free_port}\n" + text)
        error = failure(config, "inner")
        assert "Hop 2 of 2 (inner): The host before it cannot reach 127.0.0.1" in error.message
        config.write_text(f"Host bastion\n Port {free_port}\n" + text)
        assert "Hop 1 of 2 (bastion): 127.0.0.1 cannot be reached" in failure(config, "inner").message

    def test_forwarding_is_forbidden(self, second: Sshd, tmp_path: Path) -> None:
        with Sshd(tmp_path / "strict", {"AllowTcpForwarding": "no"}) as strict:
            config = self.config(tmp_path, "bastion", ("bastion", strict), ("inner", second))
            error = failure(config, "inner")
        assert "does not allow to go on to" in error.message
        assert "AllowTcpForwarding" in error.hint


def test_settings_that_we_cannot_follow_are_named_in_the_error(tmp_path: Path, free_port: int) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host host\n HostName 127.0.0.1\n Port {free_port}\n PKCS11Provider /usr/lib/x.so\n")
    error = failure(config)
    assert "PKCS11Provider, which we cannot follow" in error.hint
    assert "system's own ssh" in error.hint
