"""What a server may ask a person for: several things at once, codes that work once, and no tricks."""

from pathlib import Path

import pytest

from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.ssh import SshHost
from llama_tui.backend.hosts.ssh_ask import Cancelled, NeedsYou, Prompt
from tests.ssh.answers import Answers
from tests.ssh.server import TwoQuestions


@pytest.mark.ssh
class TestSeveralQuestions:
    def config(self, server: TwoQuestions, folder: Path) -> Path:
        path = folder / "config"
        path.write_text(
            f"Host host\n HostName 127.0.0.1\n Port {server.port}\n User me\n StrictHostKeyChecking no\n"
            " IdentityAgent none\n UserKnownHostsFile /dev/null\n"
        )
        return path

    def test_both_are_asked_for_at_once_and_again_after_a_cut(self, tmp_path: Path) -> None:
        prompts = [("Password: ", False), ("One-time code: ", True)]
        with TwoQuestions(prompts, ["pass", "123456"]) as server:
            answers = Answers(["pass", "000000"], ["pass", "123456"], ["pass", "123456"])
            host = SshHost("host", answers, self.config(server, tmp_path))
            assert host.start("echo x").read(10) == b"x\n"
            title, fields = answers.asked[0]
            assert "Two factors" in title
            assert "Have your token ready" in title
            assert fields == [Prompt("Password", echo=False), Prompt("One-time code", echo=True)]
            server.cut()
            assert host.start("echo y").read(10) == b"y\n"
            assert len(answers.asked) == 3
            host.close()

    def test_a_code_is_never_remembered(self, tmp_path: Path) -> None:
        with TwoQuestions([("Verification code (password token): ", False)], ["123456"]) as server:
            answers = Answers(["123456"], None)
            host = SshHost("host", answers, self.config(server, tmp_path))
            assert host.start("echo x").read(10) == b"x\n"
            server.cut()
            with pytest.raises(Cancelled):
                host.start("echo y")
            host.close()

    def test_a_server_cannot_draw_on_the_screen(self, tmp_path: Path) -> None:
        with TwoQuestions([("\x1b[2JPassword: ", False)], ["x"]) as server:
            answers = Answers(None)
            with pytest.raises(Cancelled):
                SshHost("host", answers, self.config(server, tmp_path)).start("true")
        [(_, [prompt])] = answers.asked
        assert prompt.text == "?[2JPassword"

    def test_the_server_gives_up_while_we_are_asked(self, tmp_path: Path) -> None:
        with TwoQuestions([("Code: ", False)], ["1"]) as server:

            class Slow(Answers):
                def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:
                    server.cut()
                    return super().secret(title, prompts)

            with pytest.raises(HostError, match="ended the connection during the login") as caught:
                SshHost("host", Slow(["1"]), self.config(server, tmp_path)).start("true")
            assert not isinstance(caught.value, NeedsYou)
