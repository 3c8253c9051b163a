"""Somebody who answers what a connection asks, from a script."""

from collections.abc import Sequence

from llama_tui.backend.hosts.ssh_ask import HostKeyQuestion, Prompt


class Answers:
    """Gives `secrets` one after the other (None: gives up) and trusts host keys or not; notes what was asked."""

    def __init__(self, *secrets: Sequence[str] | None, trust: bool = False) -> None:
        self._secrets = list(secrets)
        self._trust = trust
        self.asked: list[tuple[str, list[Prompt]]] = []
        self.keys: list[HostKeyQuestion] = []

    def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:
        self.asked.append((title, prompts))
        assert self._secrets, f"asked without need: {title!r} {prompts}"
        answer = self._secrets.pop(0)
        return None if answer is None else list(answer)

    def confirm_host_key(self, question: HostKeyQuestion) -> bool:
        self.keys.append(question)
        return self._trust
