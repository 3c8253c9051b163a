"""The settings of an SSH host: as OpenSSH reads them, and read by ourselves where there is no ssh."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_config import HostConfig, host_aliases, resolve, route

# As easy-ssh.sh of HyperPod writes it.
HYPERPOD = """\
Host my-cluster
    User ubuntu
    ProxyCommand sh -c "aws ssm start-session --target sagemaker-cluster:abc_controller-i-0 --document-name AWS-StartSSHSession --parameters 'portNumber=%p'"
"""


@pytest.fixture(params=["openssh", "ourselves"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to read a config: with and without an `ssh` on the machine."""
    if request.param == "ourselves":
        monkeypatch.setattr("llama_tui.backend.hosts.ssh_config.shutil.which", lambda _: None)
    return str(request.param)


def written(folder: Path, text: str, name: str = "config") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def read(folder: Path, text: str, alias: str = "a") -> HostConfig:
    return resolve(alias, written(folder, text))


@pytest.mark.usefixtures("reader")
class TestBothReaders:
    def test_hyperpod(self, tmp_path: Path, home: Path) -> None:
        config = read(tmp_path, HYPERPOD, "my-cluster")
        assert (config.user, config.hostname, config.port) == ("ubuntu", "my-cluster", 22)
        assert config.proxy_command is not None
        assert config.proxy_command.startswith('sh -c "aws ssm start-session')
        assert config.proxy_command.endswith("--parameters 'portNumber=22'\"")
        assert home / ".ssh" / "id_ed25519" in config.identity_files

    def test_everything_that_is_honoured(
        self, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEYS", str(tmp_path))
        config = read(
            tmp_path,
            """\
Host a
    HostName 10.0.0.5
    User me
    Port 2222
    IdentityFile ~/.ssh/one-%h
    IdentityFile ${KEYS}/two
    CertificateFile ~/.ssh/one-cert.pub
    IdentityAgent /run/my-agent
    IdentitiesOnly yes
    UserKnownHostsFile ~/.ssh/known_here /etc/known_there
    GlobalKnownHostsFile /etc/ssh/all
    StrictHostKeyChecking accept-new
    HostKeyAlias head
    HashKnownHosts yes
    RevokedHostKeys /etc/revoked
    ServerAliveInterval 7
    ConnectTimeout 3
    AddressFamily inet
    BindAddress 127.0.0.1
    PreferredAuthentications password,publickey,gssapi-with-mic
    NumberOfPasswordPrompts 1
""",
        )
        assert (config.hostname, config.user, config.port) == ("10.0.0.5", "me", 2222)
        assert config.identity_files == (home / ".ssh" / "one-10.0.0.5", tmp_path / "two")
        assert config.certificate_files == (home / ".ssh" / "one-cert.pub",)
        assert (config.identity_agent, config.identities_only) == ("/run/my-agent", True)
        assert config.user_known_hosts == (home / ".ssh" / "known_here", Path("/etc/known_there"))
        assert config.global_known_hosts == (Path("/etc/ssh/all"),)
        assert (config.strict, config.host_key_alias, config.hash_known_hosts) == ("accept-new", "head", True)
        assert config.revoked_host_keys == Path("/etc/revoked")
        assert (config.keepalive, config.connect_timeout) == (7, 3.0)
        assert (config.address_family, config.bind_address) == ("inet", "127.0.0.1")
        assert (config.methods, config.password_prompts) == (("password", "publickey"), 1)

    def test_patterns_and_the_first_value_win(self, tmp_path: Path) -> None:
        config = read(
            tmp_path, "Host login?\n User first\nHost * !login2\n User second\n Port 23\n", "login1"
        )
        assert (config.user, config.port) == ("first", 23)

    def test_include_inside_and_outside_of_a_block(self, tmp_path: Path) -> None:
        written(tmp_path, "User inner\nHost other\n Port 9\n", "inner")
        written(tmp_path, "Host a\n Port 77\n", "outer")
        text = f"Include {tmp_path}/out*\nHost a\n Include {tmp_path}/inner\n IdentitiesOnly yes\n"
        config = read(tmp_path, text)
        assert (config.port, config.user, config.identities_only) == (77, "inner", True)

    def test_match_host(self, tmp_path: Path) -> None:
        assert read(tmp_path, "Match host a user nobody-here\n Port 1\nMatch host a\n Port 2\n").port == 2

    def test_a_proxy_command_of_none(self, tmp_path: Path) -> None:
        config = read(tmp_path, "Host a\n ProxyCommand none\nHost *\n ProxyCommand nc %h %p\n")
        assert config.proxy_command is None

    def test_tokens_of_a_proxy_command(self, tmp_path: Path) -> None:
        config = read(tmp_path, "Host a\n HostName b\n User u\n Port 5\n ProxyCommand nc %h %p as %r\n")
        assert config.proxy_command == "nc b 5 as u"

    def test_the_user_may_be_in_the_name(self, tmp_path: Path) -> None:
        config = read(tmp_path, "Host a\n HostName b\n User u\n", "me@a")
        assert (config.user, config.hostname) == ("me", "b")

    def test_no_agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
        assert read(tmp_path, "Host a\n IdentityAgent none\n").identity_agent is None
        assert read(tmp_path, "Host b\n").identity_agent == "/run/agent"

    def test_several_jumps(self, tmp_path: Path) -> None:
        config = written(
            tmp_path,
            "Host a\n ProxyJump one,me@two:2222\nHost two\n HostName 10.0.0.2\n ProxyJump never\n"
            "Host one\n User first\n",
        )
        hops = route("a", config)
        assert [hop.where.partition("@")[2] for hop in hops] == ["one", "10.0.0.2:2222", "a"]
        assert [hop.user for hop in hops[:2]] == ["first", "me"]

    def test_a_jump_has_a_jump_of_its_own(self, tmp_path: Path) -> None:
        config = written(tmp_path, "Host a\n ProxyJump b\nHost b\n ProxyJump [::1]:24\n")
        assert [(hop.hostname, hop.port) for hop in route("a", config)] == [("::1", 24), ("b", 22), ("a", 22)]

    def test_jumps_in_a_circle(self, tmp_path: Path) -> None:
        config = written(tmp_path, "Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
        with pytest.raises(NeedsYou, match="circle"):
            route("a", config)

    @pytest.mark.parametrize(
        "name", ["", "-oProxyCommand=x", "a;b", "a b", "$(id)", "a`id`", "u@-x", "a'b", "a\nb"]
    )
    def test_names_that_a_shell_could_misread(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(NeedsYou, match="cannot be the name"):
            read(tmp_path, "Host *\n ProxyCommand nc %h\n", name)


def test_an_unknown_match_keyword_holds_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_tui.backend.hosts.ssh_config.shutil.which", lambda _: None)
    assert read(tmp_path, "Match host a tagged x\n Port 1\nHost a\n Port 2\n").port == 2


def test_openssh_says_what_is_wrong_with_the_config(tmp_path: Path) -> None:
    with pytest.raises(NeedsYou, match="line 2: Bad configuration option: bogus"):
        read(tmp_path, "Host a\n Bogus yes\n")


def test_what_is_not_honoured_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, "Host a\n PKCS11Provider /usr/lib/x.so\n")
    assert config.not_honoured == ("PKCS11Provider",)
    assert read(tmp_path, "Host a\n ProxyUseFdpass no\n").not_honoured == ()


def test_the_home_of_the_environment_counts(home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host mine\n Port 29\n")
    config = resolve("mine")
    assert config.port == 29
    assert config.user_known_hosts[0] == home / ".ssh" / "known_hosts"
    assert host_aliases()[0] == "mine"


def test_aliases_are_concrete_names_of_all_files(tmp_path: Path) -> None:
    written(tmp_path, "Host deep *.example\n", "more.conf")
    config = written(
        tmp_path, f'Host one "two"\n User x\nInclude {tmp_path}/*.conf\nHost web* !no\nHost=three # last\n'
    )
    assert host_aliases(config) == ["one", "two", "deep", "three"]


def test_a_config_that_includes_itself_ends(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host one\nInclude {config}\n")
    assert host_aliases(config) == ["one"]


def test_importing_the_host_does_not_import_paramiko() -> None:
    code = "import sys, llama_tui.backend.hosts.ssh as s; s.SshHost('x'); sys.exit('paramiko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0


def test_paramiko_comes_without_what_only_match_exec_needs() -> None:
    """In a process of its own: here both were imported long ago."""
    code = (
        "import sys; from llama_tui.backend.hosts.paramiko_import import import_paramiko; import_paramiko();"
        "import llama_tui.backend.hosts.ssh_transport; sys.exit('invoke' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ), check=False).returncode == 0


def test_match_exec_is_run_where_there_is_no_ssh_program(tmp_path: Path) -> None:
    config = written(tmp_path, "Match exec true\n Port 1\nHost a\n Port 2\n")
    code = (
        "import shutil, sys; from pathlib import Path; shutil.which = lambda _: None;"
        "from llama_tui.backend.hosts.paramiko_import import import_paramiko; import_paramiko();"
        "from llama_tui.backend.hosts.ssh_config import resolve; print(resolve('a', Path(sys.argv[1])).port)"
    )
    done = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
