"""The list of runs, two runs beside each other, and the answers of a run: as a person uses them, on real queues."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static, TextArea

from llama_tui.backend import places
from llama_tui.backend.errors import RunError
from llama_tui.backend.more_prompts import (
    ask_more,
    asked_later,
    questions,
    read_prompts_file,
    split_prompts,
)
from llama_tui.backend.place import Place
from llama_tui.backend.run_removal import remove_run, size_of_run
from llama_tui.backend.runs import Run, list_runs
from llama_tui.backend.settings import SettingsError
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.backend.word_diff import word_diff
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.ask_prompts import AskPrompts
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.dialogs import Ask, Confirm
from llama_tui.tui.screens.run_comparison import RunComparisonScreen
from llama_tui.tui.screens.runs import RunsScreen, RunTable, age
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.widgets.answers import AnswersView
from tests.pilot import arrived, click, until
from tests.test_tui import COMPARISON, text_of
from tests.tiny import go, set_behaviour, tiny_run, wait_for, wait_until_runs

# Stands for jobs/inference.py: answers what the file of prompts asks, with what it was told to sample with.
ANSWERING = """
import json, pathlib, sys
run = pathlib.Path(__file__).parent.parent
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
prompts = json.loads(pathlib.Path(given["--prompts"]).read_text())["prompts"]
if prompts[0]["user"] == "fail":
    sys.exit("error: no")
side = lambda text: {"role": "assistant", "content": text, "tokens": 2, "seconds": 0.1}
answers = [{"name": p["name"], "system": p["system"], "user": p["user"], "mode": "greedy", "base": side("base says " + p["user"]),
            "fine_tuned": side("tuned says " + p["user"]), "identical": False} for p in prompts]
content = json.loads((run / "comparison.json").read_text())
content.update(answers=answers, held_out=None, settings={"temperature": float(given["--temperature"]), "seed": int(given["--seed"])})
pathlib.Path(given["--output"]).write_text(json.dumps(content))
"""


def done_run(site: Site, workspace: Path, loss: float = 2.5) -> Run:
    run = tiny_run(site, workspace)
    run.submit()
    wait_for(run, lambda one: one.finished)
    folder = Path(run.layout.path)
    content = json.loads(json.dumps(COMPARISON))
    content["held_out"]["fine_tuned_loss"] = loss
    (folder / "comparison.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text(
        "\n".join(json.dumps({"step": n, "max_steps": 3, "loss": loss + 3 - n}) for n in (1, 2, 3)) + "\n"
    )
    (folder / "jobs/inference.py").write_text(ANSWERING)
    return run


def rows(app: LlamaTui) -> list[str]:
    table = app.screen.query_one("#runs, #two", DataTable)
    return [" ".join(str(cell) for cell in table.get_row_at(at)) for at in range(table.row_count)]


async def listed(pilot: Pilot[None], count: int) -> None:
    await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
    await until(pilot, lambda: pilot.app.screen.query_one(RunTable).row_count == count, f"{count} runs")


class TestDelete:
    async def test_a_question_says_what_is_freed_and_only_that_run_goes(
        self, site: Site, workspace: Path
    ) -> None:
        kept, doomed = done_run(site, workspace), done_run(site, workspace)
        (Path(doomed.layout.path) / "merged").mkdir()
        (Path(doomed.layout.path) / "merged/model.bin").write_bytes(b"x" * 3_000_000)
        app = LlamaTui(UiRequest(place=site.place))
        async with app.run_test(size=(80, 24)) as pilot:
            places.remember(site.place)
            await app.switch_screen(RunsScreen(site.place))
            await listed(pilot, 2)
            table = app.screen.query_one(RunTable)
            keys = [str(row.key.value) for row in table.ordered_rows]
            table.move_cursor(row=next(at for at, key in enumerate(keys) if key.endswith(doomed.run_id)))
            await pilot.press("delete")
            await arrived(pilot, Confirm)
            words = " ".join(str(one.content) for one in app.screen.query(Static).results(Static))
            assert re.search(r"frees 3\.\d MB", words)
            assert doomed.run_id in words
            await pilot.press("n")
            await arrived(pilot, RunsScreen)
            assert Path(doomed.layout.path).exists()
            await pilot.press("delete")
            await arrived(pilot, Confirm)
            await click(pilot, "#yes")
            await listed(pilot, 1)
        assert [entry.name for entry in (workspace / "runs").iterdir()] == [kept.run_id]
        assert Path(kept.layout.file("comparison.json")).exists()
        assert Path(kept.plan.env_marker).exists()

    def test_not_while_jobs_of_it_are_alive(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, Stage.FINETUNE)
        with pytest.raises(RunError, match="not done"):
            remove_run(site, run.run_id)
        assert Path(run.layout.settings).exists()
        go(run, Stage.FINETUNE)
        wait_for(run, lambda one: one.finished)
        remove_run(site, run.run_id)
        assert not Path(run.layout.path).exists()

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../runs", "a/b", "a/../b", "-rf", "$(reboot)", "a\nb", "x" * 300, "missing"]
    )
    def test_nothing_but_a_run_is_removed(self, name: str, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace)
        with pytest.raises(RunError):
            remove_run(site, name)
        with pytest.raises(RunError):
            size_of_run(site, name)
        assert Path(run.layout.settings).exists()

    def test_a_link_in_place_of_a_run_is_left_alone(
        self, site: Site, workspace: Path, tmp_path: Path
    ) -> None:
        tiny_run(site, workspace)
        elsewhere = tmp_path / "precious"
        elsewhere.mkdir()
        (elsewhere / "settings.toml").write_text("")
        (workspace / "runs/linked").symlink_to(elsewhere)
        with pytest.raises(RunError, match="link"):
            remove_run(site, "linked")
        assert (elsewhere / "settings.toml").exists()

    def test_what_a_link_in_the_run_leads_to_stays(self, site: Site, workspace: Path, tmp_path: Path) -> None:
        run = tiny_run(site, workspace)
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside/file").write_text("x")
        (Path(run.layout.path) / "merged").symlink_to(tmp_path / "outside")
        remove_run(site, run.run_id)
        assert (tmp_path / "outside/file").exists()


class TestTwoRuns:
    async def test_settings_that_differ_and_results_side_by_side(self, site: Site, workspace: Path) -> None:
        left, right = done_run(site, workspace, 2.5), done_run(site, workspace, 2.25)
        settings = right.settings.model_copy(deep=True)
        settings.lora.r = 32
        Path(right.layout.settings).write_text(to_toml(settings))
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(120, 30)) as pilot:
            await listed(pilot, 2)
            await pilot.press("v")
            assert isinstance(app.screen, RunsScreen)
            await pilot.press("space", "down", "space")
            await until(pilot, lambda: "2 marked" in text_of(app, "#title"))
            await until(pilot, lambda: sum("●" in row for row in rows(app)) == 2)
            await pilot.press("v")
            await arrived(pilot, RunComparisonScreen)
            await until(pilot, lambda: bool(rows(app)))
            table = {row.split(" ", 1)[1].rsplit(" ", 2)[0]: row for row in rows(app)}
            assert table["LoRA / Rank (r)"][0] == "≠"
            assert sorted(table["LoRA / Rank (r)"].split()[-2:]) == sorted(["32", str(left.settings.lora.r)])
            assert sorted(table["final training loss"].split()[-2:]) == ["2.250", "2.500"]
            assert sorted(table["held-out loss, fine-tuned"].split()[-2:]) == ["2.250", "2.500"]
            assert table["held-out loss, base"][0] == "="
            assert "wall time, queue included" in table
            assert f"{right.run_id} knows the held-out answers better: 0.250 less" in text_of(
                app, "#two-verdict"
            )
            differing = len(rows(app))
            await pilot.press("s")
            await until(pilot, lambda: len(rows(app)) > differing + 30)
            await pilot.press("escape")
            await arrived(pilot, RunsScreen)

    async def test_one_without_results_is_shown_with_gaps(self, site: Site, workspace: Path) -> None:
        done_run(site, workspace)
        tiny_run(site, workspace)
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await listed(pilot, 2)
            # One mark is enough: the other is the one under the cursor.
            await pilot.press("space", "down", "v")
            await arrived(pilot, RunComparisonScreen)
            await until(pilot, lambda: bool(rows(app)))
            assert any(row.startswith("≠ final training loss") and "—" in row for row in rows(app))


async def test_a_place_that_does_not_answer_holds_up_no_other(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    places.remember(Place("/nowhere", python="/no/such/python"))
    places.remember(site.place)
    app = LlamaTui(UiRequest())
    async with app.run_test(size=(100, 30)) as pilot:
        await listed(pilot, 1)
        await until(pilot, lambda: "/no/such/python" in text_of(app, "#note"))
        assert run.run_id in rows(app)[0]


async def test_a_run_is_duplicated_and_its_age_and_stage_are_told(site: Site, workspace: Path) -> None:
    done_run(site, workspace)
    places.remember(site.place)
    app = LlamaTui(UiRequest())
    async with app.run_test(size=(120, 30)) as pilot:
        await listed(pilot, 1)
        assert "✓ done" in rows(app)[0]
        assert "7/7" in rows(app)[0]
        await until(pilot, lambda: "captain-chat" in text_of(app, "#detail"))
        await pilot.press("d")
        await arrived(pilot, WizardScreen)


@pytest.mark.parametrize(("seconds", "words"), [(3, "now"), (90, "2 min"), (7200, "2 h"), (200_000, "2 d")])
def test_ages(seconds: float, words: str) -> None:
    assert age(seconds) == words


class TestMorePrompts:
    async def test_typed_prompts_are_answered_by_a_job_and_shown(
        self, site: Site, workspace: Path, tmp_path: Path
    ) -> None:
        run = done_run(site, workspace)
        (tmp_path / "more.txt").write_text("From a file?\nAnd [bold]this[/bold]?\n")
        app = LlamaTui(UiRequest())
        places.remember(site.place)
        async with app.run_test(size=(80, 24)) as pilot:
            await listed(pilot, 1)
            await pilot.press("o")
            await arrived(pilot, ComparisonScreen)
            await until(pilot, lambda: len(app.screen.query(".answer")) == 2)
            await pilot.press("a")
            await arrived(pilot, AskPrompts)
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "nothing is asked" in text_of(app, "#ask-problem"))
            app.screen.query_one("#prompts", TextArea).text = "One?\nTwo?"
            app.screen.query_one("#temperature", Input).value = "hot"
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "Temperature" in text_of(app, "#ask-problem"))
            app.screen.query_one("#temperature", Input).value = "0.25"
            app.screen.query_one("#file", Input).value = str(tmp_path / "nothing.txt")
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "cannot be read" in text_of(app, "#ask-problem"))
            app.screen.query_one("#file", Input).value = str(tmp_path / "more.txt")
            await click(pilot, "#go")
            await arrived(pilot, ComparisonScreen)
            await until(pilot, lambda: len(app.screen.query(".answer")) == 2 + 4 * 2, "the new answers")
            shown = " ".join(str(one.content) for one in app.screen.query(Static).results(Static))
            assert "tuned says And [bold]this[/bold]?" in shown
            assert "temperature 0.25" in shown
        snapshot = run.snapshot()
        assert snapshot.state is StageState.DONE
        assert [one.number for one in asked_later(run)] == [1]
        assert len(snapshot.attempts) == 7

    def test_the_seven_stages_are_not_disturbed_and_a_failure_is_told(
        self, site: Site, workspace: Path
    ) -> None:
        run = done_run(site, workspace)
        before = run.snapshot().views
        assert ask_more(run, questions(prompts=["fail"])) == 1
        wait_for(run, lambda _: asked_later(run)[0].state is StageState.FAILED)
        assert ask_more(run, questions(prompts=["fine"], seed=7)) == 2
        wait_for(run, lambda _: asked_later(run)[1].state is StageState.DONE)
        assert run.snapshot().views == before
        failed, fine = asked_later(run)
        assert failed.reason == "exit code 1"
        assert fine.comparison is not None
        assert fine.comparison.settings["seed"] == 7
        assert fine.comparison.answers[0].base.content == "base says fine"
        comments = [job.comment for job in site.scheduler.queue()]
        assert f"{run.run_id}/inference-2/1" in comments
        # Run again, a stage is still its own.
        set_behaviour(run, Stage.INFERENCE, "0")
        run.rerun(Stage.INFERENCE)
        wait_for(run, lambda one: one.view(Stage.INFERENCE).attempt == 2 and one.finished)

    def test_without_a_merged_model_nothing_is_asked(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace)
        with pytest.raises(RunError, match="no fine-tuned model"):
            ask_more(run, questions(prompts=["x"]))
        assert asked_later(run) == []

    def test_older_programs_are_given_only_what_they_know(self, site: Site, workspace: Path) -> None:
        run = done_run(site, workspace)
        ask_more(run, questions(prompts=["x"]))
        script = Path(run.layout.file("scripts/inference-1.1.sbatch")).read_text()
        assert "--answers-only" not in script
        program = Path(run.layout.file("jobs/inference.py"))
        program.write_text('parser.add_argument("--answers-only")\n' + program.read_text())
        ask_more(run, questions(prompts=["x"]))
        script = Path(run.layout.file("scripts/inference-2.1.sbatch")).read_text()
        assert "--answers-only" in script
        assert f'--comment="{run.run_id}/inference-2/1"' in script

    def test_prompts_from_text_and_files(self, tmp_path: Path) -> None:
        assert split_prompts("one\ntwo\n") == ["one", "two"]
        assert split_prompts("one\nline two\n\nthree") == ["one\nline two", "three"]
        file = tmp_path / "p.json"
        file.write_text('{"prompts": [{"user": "a"}, {"user": "b"}]}')
        assert read_prompts_file(str(file)) == ["a", "b"]
        for content in (b"{}", b"\xff\xfe", b"", b"x" * 2_000_000):
            file.write_bytes(content)
            with pytest.raises(RunError):
                read_prompts_file(str(file))
        with pytest.raises(SettingsError):
            questions(prompts=["a\x1b[2J"])


class TestAnswers:
    async def test_marked_words_modes_and_next_prompt(self, site: Site, workspace: Path) -> None:
        run = done_run(site, workspace)
        content = json.loads(json.dumps(COMPARISON))
        one = content["answers"][0]
        one["base"]["content"] = "I am a model of words that are many and more"
        one["fine_tuned"]["content"] = "I am a pirate of words that are many and more"
        content["answers"] = [one] + [{**one, "user": f"again {n}", "mode": "sampled"} for n in range(6)]
        Path(run.layout.file("comparison.json")).write_text(json.dumps(content))
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await listed(pilot, 1)
            await pilot.press("o")
            await until(pilot, lambda: len(app.screen.query(".answer")) == 14)
            left = app.screen.query(".answer").first(Static).content
            underlined = [
                left.plain[span.start : span.end] for span in left.spans if "underline" in str(span.style)
            ]  # type: ignore[union-attr]
            assert underlined == ["model"]
            view = app.screen.query_one(AnswersView)
            await pilot.press("n", "n")
            await until(pilot, lambda: view.scroll_offset.y > 0)
            lower = view.scroll_offset.y
            await pilot.press("p")
            await until(pilot, lambda: view.scroll_offset.y < lower)
            await pilot.press("g")
            await until(pilot, lambda: len(app.screen.query(".answer")) == 2)

    async def test_the_same_answers_and_the_same_files_are_warned_of(
        self, site: Site, workspace: Path
    ) -> None:
        run = done_run(site, workspace)
        content = json.loads(json.dumps(COMPARISON))
        content["answers"][0]["identical"] = True
        content["fine_tuned"]["fingerprint"] = content["base"]["fingerprint"]
        Path(run.layout.file("comparison.json")).write_text(json.dumps(content))
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await listed(pilot, 1)
            await pilot.press("o")
            await until(pilot, lambda: "⚠ Both sides are the same files" in text_of(app, "#held-out"))
            assert "⚠ Every answer is the same" in text_of(app, "#held-out")

    async def test_saved_as_html_that_holds_no_markup_of_the_answers(
        self, site: Site, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = done_run(site, workspace)
        content = json.loads(json.dumps(COMPARISON))
        content["answers"][0]["user"] = "<script>alert(1)</script>"
        content["answers"][0]["fine_tuned"]["content"] = "<img src=x onerror=alert(1)> & 'more'"
        content["settings"] = {"seed": "<b>42</b>"}
        Path(run.layout.file("comparison.json")).write_text(json.dumps(content))
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await listed(pilot, 1)
            await pilot.press("o")
            await until(pilot, lambda: len(app.screen.query(".answer")) == 2)
            await pilot.press("h")
            await arrived(pilot, Ask)
            await pilot.press("enter")
            file = tmp_path / f"{run.run_id}.html"
            await until(pilot, lambda: file.exists() and "</html>" in file.read_text())
        page = file.read_text()
        tags = set(re.findall(r"<(?!/)([a-z0-9!]+)", page))
        assert tags <= set(
            "!doctype html head meta title style body h1 h2 table tr th td p section small div b mark".split()
        )
        assert "http:" not in page
        assert "https:" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "default-src" in page


def test_differing_words() -> None:
    found = word_diff("the cat  sat\non it", "the dog sat on it all")
    assert [piece.text for piece in found.left if piece.changed] == ["cat"]
    assert [piece.text for piece in found.right if piece.changed] == ["dog", "all"]
    assert "".join(piece.text for piece in found.left) == "the cat  sat\non it"
    assert word_diff("", "").shared == 1.0
    assert word_diff("a " * 5000, "b " * 5000).shared == 0.0


def test_runs_are_listed_without_what_is_being_deleted(site: Site, workspace: Path) -> None:
    run = tiny_run(site, workspace)
    Path(run.layout.path).rename(workspace / "runs" / f".llama-tui-deleting-{run.run_id}")
    assert list_runs(site) == []
