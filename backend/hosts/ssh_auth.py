"""Getting in: methods and keys in OpenSSH's order, one after the other where a server wants several. Imports paramiko."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import MSG_USERAUTH_INFO_REQUEST, cMSG_USERAUTH_REQUEST

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.ssh_ask import USE_OPENSSH, Ask, Cancelled, NeedsYou, Prompt, printable
from llama_tui.backend.hosts.ssh_config import HostConfig
from llama_tui.backend.hosts.ssh_keys import FIDO, Agent, Identity, UnusableKey, identities

_SERVER_ANSWERS_WITHIN = 60.0
# A person types meanwhile; servers themselves give up after two minutes or so.
_PERSON_ANSWERS_WITHIN = 600.0
# PAM's question for a password that stays the same, as opposed to a code that works once.
_LASTING = re.compile(r"passw(or)?d|passphrase|kennwort|mot de passe|contraseña", re.IGNORECASE)
_ONE_TIME = re.compile(r"one.?time|otp|code|token|verif|duo|passcode|pin\b|new |retype", re.IGNORECASE)

# What a server makes of an attempt: None refused, empty let in, else what it wants besides.
Verdict = list[str] | None


@dataclass
class Secrets:
    """What was typed, for reconnecting without asking again: in memory only, never the codes that work once."""

    passphrases: dict[Path, str] = field(default_factory=dict, repr=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return "Secrets(…)"


class _Probe(AuthHandler):
    """Asks whether a public key would do, before anybody is asked for its passphrase. paramiko always signs at once."""

    def __init__(self, transport: paramiko.Transport, user: str, identity: Identity) -> None:
        super().__init__(transport)
        self.username = user
        self.auth_method = "publickey"
        self.accepted = False
        self._identity = identity

    def ask(self) -> bool:
        """Raises SSHException when the connection ends meanwhile."""
        event = threading.Event()
        self.auth_event = event
        self._request_auth()  # type: ignore[attr-defined]
        try:
            self.wait_for_response(event)
        except paramiko.AuthenticationException:
            if not self.transport.is_active():
                raise
        return self.accepted

    def _parse_service_accept(self, message: paramiko.Message) -> None:
        message.get_text()
        try:
            algorithm = self._finalize_pubkey_algorithm(self._identity.key_type)  # type: ignore[attr-defined]
        except paramiko.SSHException:
            # A server that knows none of the algorithms for this key; it may take the next one.
            self.abort()
            return
        request = paramiko.Message()
        request.add_byte(cMSG_USERAUTH_REQUEST)
        request.add_string(self.username or "")
        for text in ("ssh-connection", "publickey"):
            request.add_string(text)
        request.add_boolean(False)
        request.add_string(algorithm)
        request.add_string(self._identity.blob)
        self.transport._send_message(request)  # type: ignore[attr-defined]

    @property
    def _client_handler_table(self) -> dict[int, Callable[[paramiko.Message], None]]:
        # "This key would do" has the number that asks for input elsewhere.
        table: dict[int, Callable[[paramiko.Message], None]] = super()._client_handler_table  # type: ignore[misc]
        return {**table, MSG_USERAUTH_INFO_REQUEST: self._parse_key_is_welcome}

    def _parse_key_is_welcome(self, _: paramiko.Message) -> None:
        self.accepted = True
        if self.auth_event is not None:
            self.auth_event.set()


class Authenticator:
    """Gets one connection through its login.

    Args:
        transport: has its keys exchanged and the host's key checked.
        parting: gives the words with which the server hung up.
    """

    def __init__(
        self,
        transport: paramiko.Transport,
        config: HostConfig,
        ask: Ask,
        secrets: Secrets,
        parting: Callable[[], str],
    ) -> None:
        self._transport = transport
        self._config = config
        self._ask = ask
        self._secrets = secrets
        self._parting = parting
        self._agent = Agent(config.identity_agent)
        self._identities = identities(config, self._agent)
        self._tried: list[str] = []
        self._offered: list[str] = []
        self._methods: dict[str, Callable[[], Verdict]] = {
            "publickey": self._publickey,
            "keyboard-interactive": self._interactive,
            "password": self._password,
        }

    def run(self) -> None:
        """Returns when we are in.

        Raises:
            NeedsYou: refused, or the person gave up.
            HostError: the connection ended.
        """
        try:
            verdict = self._attempt(lambda: self._transport.auth_none(self._config.user))
            if verdict == []:
                return
            self._run(verdict if verdict is not None else self._offered)
        finally:
            self._agent.close()

    def _run(self, allowed: list[str]) -> None:
        spent: set[str] = set()
        while True:
            methods = (name for name in self._config.methods if name in allowed and name not in spent)
            method = next(methods, None)
            if method is None:
                raise self._refused(allowed)
            verdict = self._methods[method]()
            if verdict is None:
                spent.add(method)
            elif not verdict:
                return
            else:
                # One step of several is done; the same method may be asked for again with another key.
                self._tried.append(f"{method}: accepted as a first step")
                allowed = verdict

    def _attempt(
        self, authenticate: Callable[[], list[str]], patience: float = _SERVER_ANSWERS_WITHIN
    ) -> Verdict:
        self._transport.auth_timeout = patience
        try:
            return list(authenticate())
        except paramiko.BadAuthenticationType as error:
            self._offered = list(error.allowed_types)
        except paramiko.AuthenticationException as error:
            if not self._transport.is_active() or "timeout" in str(error).lower():
                raise self._hung_up(error) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._hung_up(error) from None
        return None

    def _publickey(self) -> Verdict:
        for identity in self._identities:
            try:
                verdict = self._offer(identity)
            except UnusableKey as error:
                self._tried.append(f"{identity.label}: {error}")
                continue
            if verdict is not None:
                return verdict
        return None

    def _offer(self, identity: Identity) -> Verdict:
        # What signs without a person is offered at once: asking first would cost two round trips.
        key = None if identity.in_agent else identity.unlock(self._known_passphrase)
        if key is None and identity.blob and not self._is_welcome(identity):
            self._tried.append(f"{identity.label}: refused")
            return None
        key = key or identity.unlock(self._passphrase)
        if key is None:
            self._tried.append(f"{identity.label}: no passphrase given")
            return None
        verdict = self._attempt(
            lambda: self._transport.auth_publickey(self._config.user, key), _PERSON_ANSWERS_WITHIN
        )
        if verdict is None:
            self._tried.append(f"{identity.label}: refused")
        return verdict

    def _is_welcome(self, identity: Identity) -> bool:
        probe = _Probe(self._transport, self._config.user, identity)
        self._transport.auth_handler = probe
        self._transport.auth_timeout = _SERVER_ANSWERS_WITHIN
        try:
            return probe.ask()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._hung_up(error) from None

    def _known_passphrase(self, path: Path, again: bool) -> str | None:
        return None if again else self._secrets.passphrases.get(path)

    def _passphrase(self, path: Path, again: bool) -> str | None:
        title = f"The key {path} is locked" + (" (that passphrase does not open it)" if again else "")
        answers = self._ask.secret(title, [Prompt("Passphrase")])
        if answers is None:
            raise Cancelled(
                f"No passphrase was given for {path}", "Connect again, or add the key to ssh-agent."
            )
        if answers[0]:
            self._secrets.passphrases[path] = answers[0]
        return answers[0] or None

    def _password(self) -> Verdict:
        slot = f"{self._config.where}: password"
        for number in range(self._config.password_prompts):
            password = self._secrets.passwords.pop(slot, None)
            if password is None:
                title = f"Log in to {self._config.alias} as {self._config.user}"
                answers = self._ask.secret(
                    title + (" (that was not it)" if number else ""), [Prompt("Password")]
                )
                if answers is None:
                    raise self._gave_up()
                password = answers[0]
            verdict = self._attempt(self._password_attempt(password))
            if verdict is not None:
                self._secrets.passwords[slot] = password
                return verdict
            self._tried.append("password: refused")
        return None

    def _password_attempt(self, password: str) -> Callable[[], list[str]]:
        return lambda: self._transport.auth_password(self._config.user, password, fallback=False)

    def _interactive(self) -> Verdict:
        for number in range(self._config.password_prompts):
            talk = _Talk(self, again=number > 0)
            verdict = self._attempt(
                lambda talk=talk: self._transport.auth_interactive(self._config.user, talk.answer),  # type: ignore[misc]
                _PERSON_ANSWERS_WITHIN,
            )
            if verdict is not None:
                self._secrets.passwords.update(talk.lasting)
                return verdict
            self._tried.append("keyboard-interactive: refused")
            if not talk.asked:
                return None
        return None

    def _gave_up(self) -> Cancelled:
        return Cancelled(
            f"The login to {self._config.alias} was cancelled", "Connect again when you are ready."
        )

    def _hung_up(self, error: BaseException) -> HostError:
        if isinstance(error, HostError):
            return error
        words = self._parting() or str(error)
        text = f"{self._config.where} ended the connection during the login: {words}"
        if "too many authentication" in words.lower():
            return NeedsYou(
                f"{text}{self._tries()}",
                "Too many keys were offered. Name the right one with IdentityFile and IdentitiesOnly yes "
                "in your ~/.ssh/config.",
            )
        return HostError(text)

    def _refused(self, allowed: list[str]) -> NeedsYou:
        text = f"{self._config.where} does not let us in. It offers {', '.join(allowed) or 'nothing'}{self._tries()}"
        return NeedsYou(text, _what_to_do(allowed, self._tried))

    def _tries(self) -> str:
        if not self._tried:
            return "; there was nothing that we could try"
        return "; tried in vain:\n" + "\n".join(f"  {line}" for line in dict.fromkeys(self._tried))


class _Talk:
    """One keyboard-interactive exchange, which may have several rounds of several questions."""

    def __init__(self, owner: Authenticator, again: bool) -> None:
        self._owner = owner
        self._again = again
        self.asked = False
        self.lasting: dict[str, str] = {}

    def answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        """Called by paramiko on its own thread, which an exception of ours ends, and with it the attempt."""
        if not prompts:
            return []
        self.asked = True
        config, secrets = self._owner._config, self._owner._secrets
        slot = f"{config.where}: {prompts[0][0]}"
        lasting = len(prompts) == 1 and _is_lasting(*prompts[0])
        if lasting and slot in secrets.passwords:
            answers: list[str] | None = [secrets.passwords.pop(slot)]
        else:
            heading = f"Log in to {config.alias} as {config.user}" + (
                " (that was not it)" if self._again else ""
            )
            text = "\n".join(part for part in (heading, title.strip(), instructions.strip()) if part)
            fields = [Prompt(printable(prompt).strip().removesuffix(":"), echo) for prompt, echo in prompts]
            answers = self._owner._ask.secret(printable(text), fields)
        if answers is None:
            raise self._owner._gave_up()
        if lasting:
            self.lasting[slot] = answers[0]
        return answers


def _is_lasting(prompt: str, echo: bool) -> bool:
    return not echo and bool(_LASTING.search(prompt)) and not _ONE_TIME.search(prompt)


def _what_to_do(allowed: list[str], tried: list[str]) -> str:
    if any(FIDO in line for line in tried):
        return f"That key is in a FIDO token: load it into ssh-agent (ssh-add). {USE_OPENSSH}"
    if any("expired" in line for line in tried):
        return "Renew the certificate, then connect again."
    others = [name for name in ("gssapi-with-mic", "hostbased") if name in allowed]
    other = f" If you log in by {' or '.join(others)}: {USE_OPENSSH}" if others else ""
    if "publickey" in allowed:
        return (
            "Put your public key (ssh-keygen makes one) into ~/.ssh/authorized_keys there; on HyperPod easy-ssh.sh "
            "does it. Is the user name right? Is the key in your agent (ssh-add -l) or named by IdentityFile?"
        ) + other
    return "Is the user name right? Ask the administrator how to log in." + other
