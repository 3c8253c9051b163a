"""Every way to log in, against real servers."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llama_tui.backend.hosts.ssh import SshHost
from llama_tui.backend.hosts.ssh_ask import Cancelled, NeedsYou, Prompt
from llama_tui.backend.hosts.ssh_auth import Secrets
from tests.ssh.answers import Answers
from tests.ssh.keys import add_to_agent, agent, certify, make_key, public
from tests.ssh.users import User, throw_away_user
from tests.sshd import Sshd

pytestmark = pytest.mark.ssh

PASSWORD = {
    "UsePAM": "yes",
    "PasswordAuthentication": "yes",
    "KbdInteractiveAuthentication": "yes",
    "AuthorizedKeysFile": ".ssh/authorized_keys",
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that signs certificates."""
    return make_key(tmp_path_factory.mktemp("authority") / "authority")


@pytest.fixture(scope="module")
def server(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that trusts certificates of `authority` and the keys that `allow` adds."""
    options = {"TrustedUserCAKeys": f"{authority}.pub", "LogLevel": "VERBOSE"}
    with Sshd(tmp_path_factory.mktemp("sshd"), options) as running:
        yield running


@pytest.fixture(autouse=True)
def allowed(request: pytest.FixtureRequest) -> None:
    """Nobody but the server's own key at the start of each test."""
    if "server" in request.fixturenames:
        running: Sshd = request.getfixturevalue("server")
        (running.root / "authorized_keys").write_text(public(running.key) + "\n")


def allow(server: Sshd, *keys: Path) -> None:
    (server.root / "authorized_keys").write_text("".join(public(key) + "\n" for key in keys))


def config_for(server: Sshd, folder: Path, user: str = "", **settings: str | Path) -> Path:
    """A client's config that brings no key of its own."""
    lines: Mapping[str, str | Path] = {
        "HostName": "127.0.0.1",
        "Port": str(server.port),
        "User": user or server.user,
        "UserKnownHostsFile": server.known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentityAgent": "none",
        **settings,
    }
    path = folder / "config"
    path.write_text("Host host\n" + "".join(f"    {name} {value}\n" for name, value in lines.items()))
    return path


def whoami(host: SshHost) -> str:
    try:
        return host.start("id -un").read(100).decode().strip()
    finally:
        host.close()


def enters(config: Path, *secrets: list[str] | None) -> Answers:
    """Gets in with these answers, all of which are asked for."""
    answers = Answers(*secrets)
    assert whoami(SshHost("host", answers, config))
    assert len(answers.asked) == len(secrets)
    return answers


class TestKeys:
    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_a_file(self, server: Sshd, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind)
        allow(server, key)
        enters(config_for(server, tmp_path, IdentityFile=key))
        assert "Accepted publickey" in (server.root / "sshd.log").read_text()

    @pytest.mark.parametrize("options", [("-m", "PEM"), ("-m", "PKCS8")])
    @pytest.mark.parametrize("passphrase", ["", "open sesame"])
    def test_older_formats(
        self, server: Sshd, tmp_path: Path, options: tuple[str, ...], passphrase: str
    ) -> None:
        key = make_key(tmp_path / "key", "rsa", passphrase, *options)
        allow(server, key)
        enters(config_for(server, tmp_path, IdentityFile=key), *([[passphrase]] if passphrase else []))

    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_a_locked_file(self, server: Sshd, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind, "open sesame")
        allow(server, key)
        answers = enters(config_for(server, tmp_path, IdentityFile=key), ["wrong"], ["open sesame"])
        [(first, prompts), (second, _)] = answers.asked
        assert str(key) in first
        assert "does not open it" in second
        assert prompts == [Prompt("Passphrase", echo=False)]

    def test_no_passphrase_is_asked_for_where_the_key_would_not_do(
        self, server: Sshd, tmp_path: Path
    ) -> None:
        locked, right = make_key(tmp_path / "locked", "ed25519", "secret"), make_key(tmp_path / "right")
        allow(server, right)
        config = config_for(server, tmp_path, IdentityFile=f"{locked}\n    IdentityFile {right}")
        enters(config)

    def test_an_empty_passphrase_skips_the_key(self, server: Sshd, tmp_path: Path) -> None:
        locked, right = make_key(tmp_path / "locked", "ed25519", "secret"), make_key(tmp_path / "right")
        allow(server, locked, right)
        enters(config_for(server, tmp_path, IdentityFile=f"{locked}\n    IdentityFile {right}"), [""])

    def test_giving_up(self, server: Sshd, tmp_path: Path) -> None:
        locked = make_key(tmp_path / "locked", "ed25519", "secret")
        allow(server, locked)
        with pytest.raises(Cancelled):
            enters(config_for(server, tmp_path, IdentityFile=locked), None)

    def test_the_passphrase_is_typed_once_in_a_process(self, server: Sshd, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key", "ed25519", "open sesame")
        allow(server, key)
        answers = Answers(["open sesame"])
        host = SshHost("host", answers, config_for(server, tmp_path, IdentityFile=key))
        for _ in range(2):
            assert host.start("echo x").read(10) == b"x\n"
            server.kill_sessions()
        assert len(answers.asked) == 1
        host.close()

    def test_a_key_that_others_can_read_is_not_used(self, server: Sshd, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key")
        key.chmod(0o644)
        allow(server, key)
        with pytest.raises(NeedsYou, match="chmod 600"):
            enters(config_for(server, tmp_path, IdentityFile=key))

    def test_what_was_tried_and_what_is_offered(self, server: Sshd, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key")
        (tmp_path / "broken").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n")
        (tmp_path / "broken").chmod(0o600)
        config = config_for(server, tmp_path, IdentityFile=f"{key}\n    IdentityFile {tmp_path}/broken")
        with pytest.raises(NeedsYou) as caught:
            enters(config)
        assert "It offers publickey; tried in vain" in caught.value.message
        assert f"{key}: refused" in caught.value.message
        assert f"{tmp_path}/broken: not a key that we can use" in caught.value.message
        assert "authorized_keys" in caught.value.hint

    def test_too_many_keys(self, server: Sshd, tmp_path: Path) -> None:
        keys = [make_key(tmp_path / f"key{number}") for number in range(7)]
        allow(server, keys[-1])
        names = "\n    IdentityFile ".join(map(str, keys))
        with pytest.raises(NeedsYou, match="Too many authentication failures") as caught:
            enters(config_for(server, tmp_path, IdentityFile=names))
        assert "IdentitiesOnly" in caught.value.hint


class TestAgent:
    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_an_agent(self, server: Sshd, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        key = make_key(tmp_path / "key", kind)
        allow(server, key)
        with agent(tmp_path, key) as socket:
            enters(config_for(server, tmp_path, IdentityAgent=socket))
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            enters(config_for(server, tmp_path, IdentityAgent="SSH_AUTH_SOCK"))

    def test_the_named_key_comes_first_and_needs_no_passphrase(self, server: Sshd, tmp_path: Path) -> None:
        named = make_key(tmp_path / "named")
        others = [make_key(tmp_path / f"other{number}") for number in range(7)]
        allow(server, named)
        with agent(tmp_path, *others, named) as socket:
            named.unlink()
            make_key(tmp_path / "unrelated")
            config = config_for(server, tmp_path, IdentityAgent=socket, IdentityFile=f"{named}.pub")
            enters(config)

    def test_identities_only(self, server: Sshd, tmp_path: Path) -> None:
        right, other = make_key(tmp_path / "right"), make_key(tmp_path / "other")
        allow(server, right)
        with agent(tmp_path, right) as socket:
            config = config_for(
                server, tmp_path, IdentityAgent=socket, IdentitiesOnly="yes", IdentityFile=other
            )
            with pytest.raises(NeedsYou, match="does not let us in"):
                enters(config)

    def test_an_agent_that_does_not_answer_is_passed_over(self, server: Sshd, tmp_path: Path) -> None:
        allow(server, make_key(tmp_path / "key"))
        enters(config_for(server, tmp_path, IdentityAgent=tmp_path / "nobody", IdentityFile=tmp_path / "key"))

    def test_an_agent_that_will_not_sign_costs_that_key_only(self, server: Sshd, tmp_path: Path) -> None:
        first, second = make_key(tmp_path / "first"), make_key(tmp_path / "second")
        allow(server, first, second)
        with agent(tmp_path) as socket:
            # -c: sign only when a person agrees in a window, which there is none of here.
            add_to_agent(socket, "-c", str(first))
            add_to_agent(socket, str(second))
            enters(config_for(server, tmp_path, IdentityAgent=socket, IdentityFile=f"{first}.pub"))


class TestCertificates:
    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_beside_the_key(self, server: Sshd, authority: Path, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind)
        certify(authority, key, server.user)
        enters(config_for(server, tmp_path, IdentityFile=key))

    def test_named_with_a_locked_key(self, server: Sshd, authority: Path, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key", "ed25519", "open sesame")
        certificate = certify(authority, key, server.user).rename(tmp_path / "elsewhere.pub")
        config = config_for(server, tmp_path, IdentityFile=key, CertificateFile=certificate)
        enters(config, ["open sesame"])

    @pytest.mark.parametrize("kind", ["ed25519", "rsa"])
    def test_in_an_agent_alone(self, server: Sshd, authority: Path, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind)
        certify(authority, key, server.user)
        with agent(tmp_path, key) as socket:
            # Only the certificate is left, as single sign-on tools load it.
            add_to_agent(socket, "-k", "-d", str(key))
            enters(config_for(server, tmp_path, IdentityAgent=socket))

    def test_named_with_the_key_in_an_agent(self, server: Sshd, authority: Path, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key")
        certificate = certify(authority, key, server.user)
        with agent(tmp_path) as socket:
            add_to_agent(socket, "-k", str(key))
            key.unlink()
            enters(config_for(server, tmp_path, IdentityAgent=socket, CertificateFile=certificate))

    def test_an_expired_one_is_called_so(self, server: Sshd, authority: Path, tmp_path: Path) -> None:
        key = make_key(tmp_path / "key")
        certify(authority, key, server.user, "-V", "-2d:-1d")
        with pytest.raises(NeedsYou, match=r"-cert\.pub \(expired") as caught:
            enters(config_for(server, tmp_path, IdentityFile=key))
        assert "Renew" in caught.value.hint


class TestPasswords:
    @pytest.fixture(scope="class")
    def user(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
        """With a password, and a key that is allowed in."""
        key = make_key(tmp_path_factory.mktemp("user") / "key")
        with throw_away_user("/bin/bash", public(key) + "\n") as user:
            key.rename(user.home / "key")
            yield user

    @pytest.fixture(scope="class")
    def pam(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
        """An sshd that asks for passwords, through PAM."""
        with Sshd(tmp_path_factory.mktemp("pam"), PASSWORD) as running:
            yield running

    def test_a_password(self, pam: Sshd, user: User, tmp_path: Path) -> None:
        config = config_for(pam, tmp_path, user.name, PreferredAuthentications="password")
        answers = Answers([user.password])
        assert whoami(SshHost("host", answers, config)) == user.name
        [(title, prompts)] = answers.asked
        assert user.name in title
        assert prompts == [Prompt("Password", echo=False)]

    def test_keyboard_interactive_comes_before_it(self, pam: Sshd, user: User, tmp_path: Path) -> None:
        answers = Answers([user.password])
        assert whoami(SshHost("host", answers, config_for(pam, tmp_path, user.name))) == user.name
        assert "keyboard-interactive" in (pam.root / "sshd.log").read_text()

    @pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
    def test_typed_wrong_it_is_asked_for_again(
        self, pam: Sshd, user: User, tmp_path: Path, method: str
    ) -> None:
        config = config_for(pam, tmp_path, user.name, PreferredAuthentications=method)
        answers = enters(config, ["wrong"], [user.password])
        assert "that was not it" in answers.asked[1][0]

    def test_wrong_too_often(self, pam: Sshd, user: User, tmp_path: Path) -> None:
        config = config_for(
            pam, tmp_path, user.name, PreferredAuthentications="password", NumberOfPasswordPrompts="2"
        )
        with pytest.raises(NeedsYou, match="password: refused"):
            enters(config, ["wrong"], ["wrong again"])

    @pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
    def test_giving_up(self, pam: Sshd, user: User, tmp_path: Path, method: str) -> None:
        config = config_for(pam, tmp_path, user.name, PreferredAuthentications=method)
        with pytest.raises(Cancelled, match="cancelled"):
            enters(config, None)

    @pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
    def test_a_reconnect_does_not_ask_again(self, pam: Sshd, user: User, tmp_path: Path, method: str) -> None:
        answers = Answers([user.password])
        config = config_for(pam, tmp_path, user.name, PreferredAuthentications=method)
        host = SshHost("host", answers, config)
        for _ in range(3):
            assert host.start("echo x").read(10) == b"x\n"
            pam.kill_sessions()
        assert len(answers.asked) == 1
        host.close()

    def test_nothing_typed_is_written_anywhere(
        self, pam: Sshd, user: User, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        logging.getLogger("paramiko").addHandler(caplog.handler)
        logging.getLogger("paramiko").setLevel(logging.DEBUG)
        try:
            host = SshHost(
                "host", Answers(["wrong secret"], [user.password]), config_for(pam, tmp_path, user.name)
            )
            assert host.start("echo x").read(10) == b"x\n"
            assert user.password not in repr(host._secrets)
            host.close()
        finally:
            logging.getLogger("paramiko").removeHandler(caplog.handler)
            logging.getLogger("paramiko").setLevel(logging.NOTSET)
        assert "userauth" in caplog.text
        assert not any(secret in caplog.text for secret in ("wrong secret", user.password))
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert user.password.encode() not in written

    def test_a_key_and_then_a_password(self, user: User, tmp_path: Path) -> None:
        options = PASSWORD | {"AuthenticationMethods": "publickey,keyboard-interactive"}
        key = user.home / "key"
        with Sshd(tmp_path, options) as server:
            answers = enters(config_for(server, tmp_path, user.name, IdentityFile=key), [user.password])
            assert len(answers.asked) == 1
            with pytest.raises(NeedsYou, match="accepted as a first step"):
                enters(
                    config_for(server, tmp_path, user.name, IdentityFile=key, NumberOfPasswordPrompts="1"),
                    ["wrong"],
                )

    def test_two_keys_one_after_the_other(self, tmp_path: Path) -> None:
        first, second = make_key(tmp_path / "first"), make_key(tmp_path / "second")
        with Sshd(tmp_path, {"AuthenticationMethods": "publickey,publickey"}) as server:
            allow(server, first, second)
            enters(config_for(server, tmp_path, IdentityFile=f"{first}\n    IdentityFile {second}"))


def test_secrets_do_not_show() -> None:
    assert "hunter2" not in repr(Secrets({Path("/key"): "hunter2"}, {"a": "hunter2"}))
