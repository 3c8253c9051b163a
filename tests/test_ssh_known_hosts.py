"""Host keys: what known_hosts says about them, and what a real server's key leads to."""

import base64
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llama_tui.backend.hosts.host_certificate import authority_of
from llama_tui.backend.hosts.known_hosts import KnownHosts, append_entry, fingerprint, read_entries
from llama_tui.backend.hosts.ssh import SshHost
from llama_tui.backend.hosts.ssh_ask import Cancelled, NeedsYou
from llama_tui.backend.hosts.ssh_config import HostConfig
from tests.ssh.answers import Answers
from tests.ssh.keys import certify, make_key, public
from tests.sshd import Sshd

NOBODY = Answers()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, bytes]]:
    """Public keys by name: their text and their wire format."""
    folder = tmp_path_factory.mktemp("keys")
    texts = {name: public(make_key(folder / name)) for name in ("one", "two")}
    texts["rsa"] = public(make_key(folder / "rsa", "rsa"))
    return {name: (text, base64.b64decode(text.split()[1])) for name, text in texts.items()}


Keys = dict[str, tuple[str, bytes]]


def known(folder: Path, *lines: str, port: int = 22, **changes: object) -> KnownHosts:
    file = folder / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    config = HostConfig("alias", "Head.example", port, "me", user_known_hosts=(file,))
    return KnownHosts(replace(config, **changes), set())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names", ["head.example", "other,head.example", "*.example", "h?ad.example", "HEAD.example"]
)
def test_names_that_match(tmp_path: Path, keys: Keys, names: str) -> None:
    known(tmp_path, f"{names} {keys['one'][0]}").verify(keys["one"][1], None, NOBODY)


@pytest.mark.parametrize("names", ["head", "[head.example]:22", "*,!head.example", "|1|bad|base64"])
def test_names_that_do_not_match(tmp_path: Path, keys: Keys, names: str) -> None:
    with pytest.raises(NeedsYou, match="not in known_hosts"):
        known(tmp_path, f"{names} {keys['one'][0]}", strict="yes").verify(keys["one"][1], None, NOBODY)


def test_a_port_is_part_of_the_name(tmp_path: Path, keys: Keys) -> None:
    text, blob = keys["one"]
    known(tmp_path, f"[head.example]:2222 {text}", port=2222).verify(blob, None, NOBODY)
    # As OpenSSH: the very key that is known for the usual port will do.
    known(tmp_path, f"head.example {text}", port=2222).verify(blob, None, NOBODY)
    with pytest.raises(NeedsYou, match="not in known_hosts"):
        known(tmp_path, f"head.example {text}", port=2222, strict="yes").verify(keys["two"][1], None, NOBODY)


def test_names_hashed_by_openssh(tmp_path: Path, keys: Keys) -> None:
    hosts = known(tmp_path, f"[head.example]:2222 {keys['one'][0]}", port=2222)
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", str(tmp_path / "known_hosts")], check=True, capture_output=True
    )
    assert "head.example" not in (tmp_path / "known_hosts").read_text()
    hosts = KnownHosts(hosts._config, set())
    hosts.verify(keys["one"][1], None, NOBODY)


def test_the_alias_has_no_port(tmp_path: Path, keys: Keys) -> None:
    text, blob = keys["one"]
    known(tmp_path, f"head {text}", port=2222, host_key_alias="head").verify(blob, None, NOBODY)


def test_any_of_several_keys_will_do(tmp_path: Path, keys: Keys) -> None:
    hosts = known(tmp_path, *(f"head.example {keys[name][0]}" for name in ("rsa", "two", "one")))
    for name in keys:
        hosts.verify(keys[name][1], None, NOBODY)


def test_a_changed_key_shows_both_fingerprints_and_the_way_out(tmp_path: Path, keys: Keys) -> None:
    hosts = known(tmp_path, "# mine", f"[head.example]:2222 {keys['one'][0]}", port=2222, strict="no")
    with pytest.raises(NeedsYou) as caught:
        hosts.verify(keys["two"][1], None, Answers(trust=True))
    message = caught.value.message + caught.value.hint
    assert fingerprint(keys["one"][1]) in message
    assert fingerprint(keys["two"][1]) in message
    assert f"{tmp_path}/known_hosts:2" in message
    assert f'ssh-keygen -R "[head.example]:2222" -f "{tmp_path}/known_hosts"' in message


def test_another_type_of_key_counts_as_changed(tmp_path: Path, keys: Keys) -> None:
    hosts = known(tmp_path, f"head.example {keys['rsa'][0]}", strict="accept-new")
    with pytest.raises(NeedsYou, match="has changed"):
        hosts.verify(keys["one"][1], None, NOBODY)


def test_a_revoked_key_is_refused_even_when_known(tmp_path: Path, keys: Keys) -> None:
    text, blob = keys["one"]
    with pytest.raises(NeedsYou, match="revoked"):
        known(tmp_path, f"head.example {text}", f"@revoked * {text}").verify(blob, None, NOBODY)


def test_a_file_of_revoked_keys(tmp_path: Path, keys: Keys) -> None:
    text, blob = keys["one"]
    (tmp_path / "revoked").write_text(f"# stolen\n{text} comment\n")
    hosts = known(tmp_path, f"head.example {text}", revoked_host_keys=tmp_path / "revoked")
    with pytest.raises(NeedsYou, match="revoked"):
        hosts.verify(blob, None, NOBODY)


def test_damaged_lines_are_passed_over(tmp_path: Path, keys: Keys) -> None:
    text, blob = keys["one"]
    lines = [
        "@nonsense x y z",
        "head.example ssh-rsa ///",
        "head.example",
        "@cert-authority *",
        f"head.example {text}",
    ]
    known(tmp_path, *lines).verify(blob, None, NOBODY)


def test_the_key_that_is_known_is_asked_for_first(tmp_path: Path, keys: Keys) -> None:
    offered = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512")
    assert known(tmp_path, f"head.example {keys['rsa'][0]}").order(offered)[0] == "rsa-sha2-512"
    assert known(tmp_path).order(offered) == offered
    authority = known(tmp_path, f"@cert-authority *.example {keys['one'][0]}").order(offered)
    assert authority[0] == "ssh-ed25519-cert-v01@openssh.com"
    assert authority[-3:] == offered


def test_an_unknown_key_is_asked_about_and_then_known(tmp_path: Path, keys: Keys) -> None:
    somebody = Answers(trust=True)
    hosts = known(tmp_path, f"elsewhere {keys['one'][0]}")
    hosts.verify(keys["one"][1], None, somebody)
    [question] = somebody.keys
    assert (question.host, question.key_type) == ("head.example", "ssh-ed25519")
    assert question.fingerprint == fingerprint(keys["one"][1])
    assert question.known_as == ("elsewhere",)
    assert question.stored_in == str(tmp_path / "known_hosts")
    [_, entry] = read_entries([tmp_path / "known_hosts"])
    assert entry.matches("head.example")
    assert entry.blob == keys["one"][1]


def test_a_no_leaves_nothing_behind(tmp_path: Path, keys: Keys) -> None:
    hosts = known(tmp_path)
    with pytest.raises(Cancelled):
        hosts.verify(keys["one"][1], None, Answers(trust=False))
    assert (tmp_path / "known_hosts").read_text() == ""


@pytest.mark.parametrize("policy", ["accept-new", "no"])
def test_policies_that_take_any_new_key(tmp_path: Path, keys: Keys, policy: str) -> None:
    known(tmp_path, strict=policy).verify(keys["one"][1], None, NOBODY)
    assert len(read_entries([tmp_path / "known_hosts"])) == 1


def test_what_cannot_be_stored_is_remembered_in_this_process(keys: Keys) -> None:
    config = HostConfig("a", "b", 22, "me", user_known_hosts=(Path("/dev/null"),))
    accepted: set[tuple[str, bytes]] = set()
    KnownHosts(config, accepted).verify(keys["one"][1], None, Answers(trust=True))
    KnownHosts(config, accepted).verify(keys["one"][1], None, NOBODY)
    with pytest.raises(Cancelled):
        KnownHosts(config, set()).verify(keys["one"][1], None, Answers(trust=False))


class TestAppending:
    def test_makes_a_private_file_in_a_private_directory(self, tmp_path: Path, keys: Keys) -> None:
        file = tmp_path / "new" / "known_hosts"
        append_entry(file, "a", keys["one"][1])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_after_a_line_without_end(self, tmp_path: Path, keys: Keys) -> None:
        file = tmp_path / "known_hosts"
        file.write_text(f"a {keys['one'][0]}")
        append_entry(file, "b", keys["two"][1])
        assert [entry.names for entry in read_entries([file])] == ["a", "b"]

    def test_hashed_as_openssh_finds_it(self, tmp_path: Path, keys: Keys) -> None:
        file = tmp_path / "known_hosts"
        append_entry(file, "[head]:2222", keys["one"][1], hashed=True)
        assert "head" not in file.read_text()
        argv = ["ssh-keygen", "-F", "[head]:2222", "-f", str(file)]
        assert (
            keys["one"][0].split()[1]
            in subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        )

    def test_a_file_that_cannot_be_written_is_no_error(self, keys: Keys) -> None:
        append_entry(Path("/proc/version"), "a", keys["one"][1])


def test_a_forged_certificate(tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "key")
    certificate = base64.b64decode(certify(authority, key, "head", "-h").read_text().split()[1])
    assert authority_of(certificate, "head") == base64.b64decode(public(authority).split()[1])
    assert b"head" in certificate
    assert authority_of(certificate.replace(b"head", b"evil"), "evil") is None


def config_for(server: Sshd, known_hosts: str, *lines: str) -> Path:
    """The server's client config with another known_hosts and more lines."""
    file = server.root / "known_hosts of this test"
    file.write_text(known_hosts)
    path = server.client_config("host")
    more = "".join(f"    {line}\n" for line in (f'UserKnownHostsFile "{file}"', *lines))
    path.write_text(path.read_text().replace("Host host\n", f"Host host\n{more}"))
    return path


def get_in(config: Path, ask: Answers) -> None:
    host = SshHost("host", ask, config)
    try:
        channel = host.start("echo in")
        assert channel.read(100) == b"in\n"
    finally:
        host.close()


@pytest.mark.ssh
class TestWithAServer:
    def test_unknown_is_asked_once_and_openssh_knows_it_then(self, sshd: Sshd) -> None:
        config = config_for(sshd, "", "StrictHostKeyChecking ask")
        somebody = Answers(trust=True)
        get_in(config, somebody)
        get_in(config, somebody)
        [question] = somebody.keys
        said = subprocess.run(
            ["ssh-keygen", "-lf", f"{sshd.host_key}.pub"], check=True, capture_output=True, text=True
        ).stdout
        assert question.fingerprint == said.split()[1]
        argv = ["ssh", "-F", str(config), "-o", "StrictHostKeyChecking=yes", "host", "true"]
        subprocess.run(argv, check=True)

    def test_unknown_and_strict(self, sshd: Sshd) -> None:
        with pytest.raises(NeedsYou, match="StrictHostKeyChecking is `yes`"):
            get_in(config_for(sshd, ""), NOBODY)

    def test_the_server_came_back_with_another_key(self, tmp_path: Path) -> None:
        with Sshd(tmp_path) as server:
            before = server.known_hosts.read_text()
            server.stop()
            server.host_key.unlink()
            server.start()
            somebody = Answers(trust=True)
            with pytest.raises(NeedsYou, match="has changed"):
                get_in(config_for(server, before, "StrictHostKeyChecking ask"), somebody)
            assert somebody.keys == []

    def test_of_several_host_keys_the_known_one_is_used(self, tmp_path: Path) -> None:
        rsa = make_key(tmp_path / "rsa_host_key", "rsa")
        ed25519 = make_key(tmp_path / "host_key")
        options = {"HostKey": f"{rsa}\nHostKey {ed25519}"}
        with Sshd(tmp_path, options) as server:
            get_in(config_for(server, f"[127.0.0.1]:{server.port} {public(rsa)}\n"), NOBODY)
            get_in(config_for(server, f"[127.0.0.1]:{server.port} {public(ed25519)}\n"), NOBODY)

    @pytest.mark.parametrize(
        ("principals", "options", "works"),
        [
            ("127.0.0.1", [], True),
            ("127.*", [], True),
            ("another.host", [], False),
            ("127.0.0.1", ["-V", "-2d:-1d"], False),
        ],
    )
    def test_a_certified_host(self, tmp_path: Path, principals: str, options: list[str], works: bool) -> None:
        authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "host_key")
        certificate = certify(authority, key, principals, "-h", *options)
        with Sshd(tmp_path, {"HostCertificate": str(certificate)}) as server:
            config = config_for(server, f"@cert-authority * {public(authority)}\n")
            if works:
                get_in(config, NOBODY)
                return
            with pytest.raises(NeedsYou, match="not in known_hosts"):
                get_in(config, NOBODY)

    def test_a_certificate_of_somebody_else(self, tmp_path: Path) -> None:
        authority, key = make_key(tmp_path / "authority"), make_key(tmp_path / "host_key")
        other = make_key(tmp_path / "other")
        certificate = certify(authority, key, "127.0.0.1", "-h")
        with Sshd(tmp_path, {"HostCertificate": str(certificate)}) as server:
            with pytest.raises(NeedsYou, match="not in known_hosts"):
                get_in(config_for(server, f"@cert-authority * {public(other)}\n"), NOBODY)
            lines = f"@cert-authority * {public(authority)}\n@revoked * {public(authority)}\n"
            with pytest.raises(NeedsYou, match="revoked"):
                get_in(config_for(server, lines), NOBODY)
