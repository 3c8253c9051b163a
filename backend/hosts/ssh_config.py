"""The settings of an SSH host, as OpenSSH reads them."""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama_tui.backend.hosts.environment import child_environment
from llama_tui.backend.hosts.ssh_ask import NeedsYou
from llama_tui.backend.hosts.ssh_config_file import config_files, lookup, read_lines, split_words

CONNECT_TIMEOUT = 20.0
KEEPALIVE = 15
_MAX_HOPS = 8
# OpenSSH refuses them too: the name can end up in a ProxyCommand, which a shell reads.
_FORBIDDEN = re.compile(r"[\s'`\"$\\;&<>|(){}\x00-\x1f\x7f]|^-|@-")
_METHODS = ("publickey", "keyboard-interactive", "password")
_NOT_HONOURED = {
    "pkcs11provider": "PKCS11Provider",
    "knownhostscommand": "KnownHostsCommand",
    "bindinterface": "BindInterface",
    "proxyusefdpass": "ProxyUseFdpass",
}

Options = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class HostConfig:
    """How to reach one host and get in; paths are expanded.

    Attributes:
        alias: the name that was asked for.
        identity_agent: the agent's socket; None for no agent.
        proxy_command: ready for a shell.
        proxy_jump: hops as `[user@]host[:port]`, nearest to us first.
        strict: `ask`, `yes`, `no` or `accept-new`.
        keepalive: seconds between messages that keep the connection open.
        connect_timeout: seconds.
        methods: of authentication, in the order to try.
        not_honoured: settings that are set and that we do not follow.
    """

    alias: str
    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    certificate_files: tuple[Path, ...] = ()
    identity_agent: str | None = None
    identities_only: bool = False
    proxy_command: str | None = None
    proxy_jump: tuple[str, ...] = ()
    user_known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    revoked_host_keys: Path | None = None
    strict: str = "ask"
    host_key_alias: str | None = None
    hash_known_hosts: bool = False
    keepalive: int = KEEPALIVE
    connect_timeout: float = CONNECT_TIMEOUT
    address_family: str = "any"
    bind_address: str | None = None
    methods: tuple[str, ...] = _METHODS
    password_prompts: int = 3
    not_honoured: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """`user@host:port`, without a port that is the usual one."""
        return f"{self.user}@{self.hostname}" + (f":{self.port}" if self.port != 22 else "")


def host_aliases(config_file: Path | None = None) -> list[str]:
    """The names in `Host` lines that are no patterns, in the order of the files; Include is followed."""
    found: dict[str, None] = {}
    for path in config_files(config_file):
        for line in read_lines(path):
            keyword, _, names = line.strip().replace("=", " ", 1).partition(" ")
            if keyword.lower() == "host":
                found.update(dict.fromkeys(name for name in split_words(names) if not set("*?!") & set(name)))
    return list(found)


def resolve(
    alias: str, config_file: Path | None = None, *, user: str | None = None, port: int | None = None
) -> HostConfig:
    """The settings of `alias` (a name of the config, or `[user@]host`).

    Args:
        config_file: in place of ~/.ssh/config and the system's.
        user, port: win over the config, as in a ProxyJump.

    Raises:
        NeedsYou: no such name is possible, or the config cannot be read; with OpenSSH's own words.
    """
    if not alias or _FORBIDDEN.search(alias) or (user and _FORBIDDEN.search(user)):
        raise NeedsYou(f"{alias!r} cannot be the name of a host", "Use a name from your ~/.ssh/config.")
    if shutil.which("ssh"):
        options = _ask_openssh(alias, config_file, user, port)
    else:
        options = _read_ourselves(alias, config_file, user, port)
    return _host_config(alias, options)


def route(alias: str, config_file: Path | None = None) -> list[HostConfig]:
    """Every host on the way to `alias`, nearest first; the last one is `alias` itself.

    Raises:
        NeedsYou: the config cannot be read, or jumps in a circle.
    """
    hops = [resolve(alias, config_file)]
    while hops[0].proxy_jump:
        if len(hops) > _MAX_HOPS:
            names = " → ".join(hop.alias for hop in hops[:3])
            raise NeedsYou(f"The ProxyJump settings of {alias} go in a circle ({names} …)", "Mend them.")
        *earlier, last = hops[0].proxy_jump
        user, host, port = _parse_jump(last)
        hop = resolve(host, config_file, user=user, port=port)
        if earlier:
            hop = replace(hop, proxy_jump=tuple(earlier), proxy_command=None)
        hops.insert(0, hop)
    return hops


def _parse_jump(text: str) -> tuple[str | None, str, int | None]:
    match = re.fullmatch(r"(?:ssh://)?(?:(.+)@)?(?:\[([^]]+)\]|([^:@]+))(?::(\d+))?/?", text.strip())
    if match is None:
        raise NeedsYou(f"ProxyJump {text!r} is not [user@]host[:port]", "Mend it in your ~/.ssh/config.")
    user, bracketed, plain, port = match.groups()
    return user, bracketed or plain, int(port) if port else None


def _ask_openssh(alias: str, config_file: Path | None, user: str | None, port: int | None) -> Options:
    argv = ["ssh", "-T", "-G"]
    moved_home = Path.home() / ".ssh" / "config" if _home_is_moved() else None
    if config_file is not None:
        argv += ["-F", str(config_file)]
    elif moved_home is not None:
        # OpenSSH looks in the home of the user database only; the rest of us goes by HOME.
        argv += ["-F", str(moved_home if moved_home.is_file() else os.devnull)]
    argv += [*(["-l", user] if user else []), *(["-p", str(port)] if port else []), alias]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=child_environment(),
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NeedsYou(f"`{' '.join(argv)}` did not answer: {error}", "Try it by hand.") from None
    if done.returncode:
        raise NeedsYou(
            f"OpenSSH cannot read the settings of {alias}:\n{done.stderr.strip()}",
            "Mend that line of the file; `ssh -G` says when it is right.",
        )
    options: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        options.setdefault(keyword, []).append(value)
    return options


def _read_ourselves(alias: str, config_file: Path | None, user: str | None, port: int | None) -> Options:
    named_user, at, host = alias.rpartition("@")
    options = dict(lookup(host, config_file))
    if at:
        options["user"] = [named_user]
    if user:
        options["user"] = [user]
    if port:
        options["port"] = [str(port)]
    options.setdefault("hostname", [host])
    return options


def _host_config(alias: str, options: Options) -> HostConfig:
    def one(keyword: str, default: str = "") -> str:
        return (options.get(keyword) or [default])[0]

    def on(keyword: str, default: str = "no") -> bool:
        return one(keyword, default).lower() in ("yes", "true")

    tokens = _tokens(alias, options)
    agent = _expand(one("identityagent", "SSH_AUTH_SOCK"), tokens)
    timeout, alive = one("connecttimeout", "none"), int(one("serveraliveinterval", "0") or 0)
    jump, command = one("proxyjump", "none"), one("proxycommand", "none")
    revoked = one("revokedhostkeys", "none")
    bind = one("bindaddress", "none")
    strict = one("stricthostkeychecking", "ask").lower()
    return HostConfig(
        alias=alias,
        hostname=tokens["h"],
        port=int(tokens["p"]),
        user=tokens["r"],
        identity_files=_paths(options.get("identityfile", _default_identities()), tokens),
        certificate_files=_paths(options.get("certificatefile", ()), tokens),
        identity_agent=_agent_socket(agent),
        identities_only=on("identitiesonly"),
        proxy_command=None if command.lower() == "none" else _percent(command, tokens),
        proxy_jump=() if jump.lower() == "none" else tuple(_percent(jump, tokens).split(",")),
        user_known_hosts=_lists("userknownhostsfile", options, tokens, "~/.ssh/known_hosts"),
        global_known_hosts=_lists("globalknownhostsfile", options, tokens, "/etc/ssh/ssh_known_hosts"),
        revoked_host_keys=None if revoked.lower() == "none" else Path(_expand(revoked, tokens)),
        strict={"true": "yes", "false": "no", "off": "no"}.get(strict, strict),
        host_key_alias=one("hostkeyalias") or None,
        hash_known_hosts=on("hashknownhosts"),
        keepalive=alive if alive > 0 else KEEPALIVE,
        connect_timeout=float(timeout) if timeout.isdigit() and int(timeout) else CONNECT_TIMEOUT,
        address_family=one("addressfamily", "any"),
        bind_address=None if bind.lower() == "none" else bind,
        methods=_methods(one("preferredauthentications"), one),
        password_prompts=int(one("numberofpasswordprompts", "3") or 3),
        not_honoured=tuple(
            name for key, name in _NOT_HONOURED.items() if one(key, "none").lower() not in ("none", "no")
        ),
    )


def _methods(preferred: str, one: Callable[[str, str], str]) -> tuple[str, ...]:
    # PubkeyAuthentication also knows `unbound` and `host-bound`, which both mean yes.
    off = ("no", "false")
    switches = {
        "publickey": "pubkeyauthentication",
        "keyboard-interactive": "kbdinteractiveauthentication",
        "password": "passwordauthentication",
    }
    order = preferred.split(",") if preferred else _METHODS
    return tuple(name for name in order if name in switches and one(switches[name], "yes").lower() not in off)


def _tokens(alias: str, options: Options) -> dict[str, str]:
    """The values of OpenSSH's percent tokens."""
    host = alias.rpartition("@")[2]
    short = socket.gethostname()
    return {
        "%": "%",
        "h": (options.get("hostname") or [host])[0],
        "p": (options.get("port") or ["22"])[0],
        "r": (options.get("user") or [getpass.getuser()])[0],
        "n": host,
        "k": (options.get("hostkeyalias") or [host])[0],
        "d": str(Path.home()),
        "u": getpass.getuser(),
        "i": str(os.getuid()),
        "l": short,
        "L": short.partition(".")[0],
        "j": (options.get("proxyjump") or [""])[0],
    }


def _percent(text: str, tokens: Mapping[str, str]) -> str:
    return re.sub(r"%(.)", lambda found: tokens.get(found[1], found[0]), text)


def _expand(text: str, tokens: Mapping[str, str]) -> str:
    """A file name of the config: percent tokens, ${VARIABLES} and ~."""
    text = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), _percent(text, tokens))
    if _home_is_moved() and text.startswith(f"{_database_home()}/.ssh/"):
        # `ssh -G` has expanded some of the ~ already, by the user database.
        text = "~" + text.removeprefix(_database_home())
    return str(Path(text).expanduser())


def _paths(names: Sequence[str], tokens: Mapping[str, str]) -> tuple[Path, ...]:
    return tuple(Path(_expand(name, tokens)) for name in names if name.lower() != "none")


def _lists(keyword: str, options: Options, tokens: Mapping[str, str], default: str) -> tuple[Path, ...]:
    """Several files on one line, which `ssh -G` prints without quotes even where a name has a space."""
    text = (options.get(keyword) or [default])[0]
    return _paths([name.strip('"') for name in re.split(r'\s+(?=["/~])', text)], tokens)


def _agent_socket(name: str) -> str | None:
    if name.lower() == "none":
        return None
    if name == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK") or None
    return os.environ.get(name[1:]) if name.startswith("$") else name


def _default_identities() -> list[str]:
    return [f"~/.ssh/id_{kind}" for kind in ("rsa", "ecdsa", "ed25519")]


def _database_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return str(Path.home())


def _home_is_moved() -> bool:
    return Path(_database_home()) != Path.home()
