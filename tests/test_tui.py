"""The screen as a person uses it: by keys and by mouse, on the real backend and Direct's real queue."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.widgets import Button, ContentSwitcher, Input, Static

from llama_tui.backend import places
from llama_tui.backend.draft import load_draft
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.states import StageState
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.screens.comparison import ComparisonScreen
from llama_tui.tui.screens.dialogs import Ask, Confirm, Reading
from llama_tui.tui.screens.keys import Keys
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.runs import RunsScreen
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.steps.forms import STEPS
from llama_tui.tui.widgets.choice import Choice
from llama_tui.tui.widgets.fields import FieldRow
from llama_tui.tui.widgets.log_view import LogView
from llama_tui.tui.widgets.loss_plot import LossPlot
from llama_tui.tui.widgets.queue_table import QueueTable
from llama_tui.tui.widgets.tables import StageTable
from tests.pilot import arrived, click, text_of, until
from tests.tiny import go, ran, set_behaviour, tiny_run, wait_for, wait_until_runs

SIZES = [(80, 24), (200, 50)]
TUNE = Stage.FINETUNE


def demo_settings(workspace: Path) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["paths"]["workspace"] = str(workspace)
    data["where"]["scheduler"] = "direct"
    return Settings.model_validate(data)


def row(app: LlamaTui, path: str) -> FieldRow:
    return app.screen.query_one(f"#field-{path.replace('.', '-')}", FieldRow)


def field(app: LlamaTui, path: str) -> Input:
    return row(app, path).query(Input).first()


def problem_at(app: LlamaTui, path: str) -> str:
    return str(row(app, path).query_one(".field-problem", Static).content)


class TestWizard:
    @pytest.mark.parametrize("size", SIZES)
    async def test_enter_through_all_of_it_reaches_the_launch_button(
        self, size: tuple[int, int], workspace: Path
    ) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=size) as pilot:
            await arrived(pilot, WizardScreen)
            for _ in range(200):
                focused = app.focused
                if isinstance(focused, Button) and focused.id == "launch":
                    break
                await pilot.press("enter")
            assert isinstance(app.focused, Button)
            assert app.focused.id == "launch"

    async def test_every_step_is_reached_by_mouse(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 30)) as pilot:
            for step in reversed(STEPS):
                await until(pilot, lambda: bool(app.screen.query("#rail")))
                await click(pilot, f"#rail-{step.key}")
                switcher = app.screen.query_one(ContentSwitcher)
                await until(pilot, lambda s=step, w=switcher: w.current == f"step-{s.key}")  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("step", "path", "typed"),
        [
            ("where", "name", "Not A Name"),
            ("where", "where.host", "a b"),
            ("where", "where.python", ""),
            ("model", "model.model", "$(reboot)"),
            ("model", "model.dataset", "no-slash"),
            ("model", "model.held_out", "many"),
            ("paths", "paths.workspace", "relative"),
            ("paths", "paths.package_index", "ftp://x"),
            ("lora", "lora.r", "0"),
            ("lora", "lora.targets", "q_proj, nonsense"),
            ("lora", "training.learning_rate", "nan"),
            ("lora", "training.batch_size", "1.5"),
            ("resources", "resources.nodes", "-1"),
            ("resources", "resources.partition", "a;b"),
            ("resources", "resources.time_limit", "soon"),
        ],
    )
    async def test_nonsense_is_told_at_its_field_and_nothing_is_launched(
        self, step: str, path: str, typed: str, workspace: Path
    ) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 40)) as pilot:
            await until(pilot, lambda: app.focused is not None)
            if step != "where":
                await click(pilot, f"#rail-{step}")
            # The cursor is put into its first field then.
            await until(pilot, lambda: app.screen.query_one(ContentSwitcher).current == f"step-{step}")
            field(app, path).focus()
            field(app, path).value = typed
            await pilot.press("tab")
            await until(pilot, lambda: bool(problem_at(app, path)), "a problem")
            await pilot.press("ctrl+l")
            await until(pilot, lambda: app.focused is field(app, path), "the cursor in the wrong field")
            assert isinstance(app.screen, WizardScreen)
            assert field(app, path).value == typed
            assert not (workspace / "runs").exists()

    async def test_back_never_loses_an_answer(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
            field(app, "name").value = "my-own"
            await pilot.press("ctrl+n", "ctrl+n", "ctrl+b", "ctrl+b")
            await until(pilot, lambda: app.screen.query_one(ContentSwitcher).current == "step-where")
            assert field(app, "name").value == "my-own"

    async def test_an_interrupted_wizard_goes_on_where_it_was(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
            field(app, "name").value = "half-done"
            await pilot.press("ctrl+n")
            await until(pilot, lambda: load_draft() is not None)
        again = LlamaTui(UiRequest())
        async with again.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: getattr(again.focused, "id", "") == "token")
            await pilot.press("ctrl+b")
            await until(pilot, lambda: bool(again.screen.query("#field-name Input")))
            assert field(again, "name").value == "half-done"

    async def test_answers_that_nobody_gave_follow_the_stack(self) -> None:
        app = LlamaTui(UiRequest(settings=defaults(Stack.NEURON)))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#field-stack")))
            field(app, "name").focus()
            field(app, "name").value = "kept"
            row(app, "stack").query_one(Choice).focus()
            await pilot.press("space")
            screen = app.screen
            assert isinstance(screen, WizardScreen)
            await until(pilot, lambda: screen.settings.stack is Stack.CPU)
            assert screen.settings.training.tensor_parallel == 1
            assert screen.settings.name == "kept"

    async def test_the_connection_test_says_who_and_where(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#test")))
            await click(pilot, "#test")
            await until(pilot, lambda: "GB free" in text_of(app, "#test-result"))

    async def test_a_token_is_checked_and_never_saved(self, workspace: Path) -> None:
        app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#rail")))
            await click(pilot, "#rail-token")
            await until(pilot, lambda: bool(app.screen.query("#token")))
            app.screen.query_one("#token", Input).value = "not a token"
            await pilot.press("tab")
            await until(pilot, lambda: "hf_" in text_of(app, "#token-problem"))
            assert "not a token" not in text_of(app, "#token-problem")
            await pilot.press("ctrl+l")
            await until(pilot, lambda: getattr(app.focused, "id", "") == "token", "the wrong field")
            assert not (workspace / "runs").exists()
            assert "not a token" not in str(list(Path.home().rglob("*.toml")))


class TestLaunch:
    @pytest.mark.parametrize("by", ["key", "mouse"])
    async def test_review_launches_and_the_monitor_shows_it(
        self, by: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A real run of the demo's settings begins; it is cancelled from the screen at once."""
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: bool(app.screen.query("#launch")))
            await until(pilot, lambda: isinstance(app.focused, Button))
            await (pilot.press("enter") if by == "key" else click(pilot, "#launch"))
            await arrived(pilot, MonitorScreen)
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            await pilot.press("c")
            await arrived(pilot, Confirm)
            await (pilot.press("y") if by == "key" else click(pilot, "#yes"))
            await until(pilot, lambda: screen.snapshot is not None and screen.snapshot.finished)
            assert screen.snapshot is not None
            assert screen.snapshot.state is StageState.CANCELLED
        assert [place.workspace for place in places.remembered()] == [str(workspace)]

    async def test_a_workspace_that_cannot_be_written_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        (tmp_path / "file").write_text("")
        app = LlamaTui(UiRequest(settings=demo_settings(tmp_path / "file" / "w"), review=True))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: isinstance(app.focused, Button))
            await pilot.press("enter")
            await arrived(pilot, Reading)
            await pilot.press("escape")
            await arrived(pilot, WizardScreen)


class TestMonitor:
    @pytest.mark.parametrize("size", SIZES)
    async def test_a_failed_stage_is_run_again_with_one_key(
        self, size: tuple[int, int], site: Site, workspace: Path
    ) -> None:
        run = tiny_run(site, workspace, finetune="3")
        run.submit()
        wait_for(run, lambda one: one.finished)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=size) as pilot:
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: "this is finetune" in screen.query_one(LogView).text)
            assert "finetune failed: exit code 3" in text_of(app, "#failure")
            set_behaviour(run, TUNE, "0")
            await pilot.press("r")
            await until(
                pilot,
                lambda: screen.snapshot is not None and screen.snapshot.state is StageState.DONE,
                "done",
            )
        assert ran(run).count(Stage.DOWNLOAD_MODEL) == 1
        assert ran(run).count(TUNE) == 2

    async def test_log_queue_and_loss_live(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, TUNE)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(140, 40)) as pilot:
            screen = app.screen
            await until(pilot, lambda: "this is finetune" in screen.query_one(LogView).text)
            with Path(run.layout.log(TUNE, 1)).open("a") as log:
                log.write("10%\r20%\r\x1b]0;evil\x07a new line\n")
            await until(pilot, lambda: screen.query_one(LogView).text.endswith("a new line"))
            assert "evil" not in screen.query_one(LogView).text
            await until(pilot, lambda: screen.query_one(QueueTable).row_count == 7)
            point = {"step": 1, "max_steps": 2, "loss": 1.5, "learning_rate": 1e-3, "time": 1.0}
            Path(run.layout.file("metrics.jsonl")).write_text(json.dumps(point) + "\n")
            await until(pilot, lambda: [one.loss for one in screen.query_one(LossPlot).points] == [1.5])
            go(run, TUNE)
            await until(pilot, lambda: "All seven stages are done" in text_of(app, "#failure"))

    async def test_another_stages_log_is_chosen_by_key_and_by_mouse(
        self, site: Site, workspace: Path
    ) -> None:
        run = tiny_run(site, workspace, finetune="3")
        run.submit()
        wait_for(run, lambda one: one.finished)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(80, 24)) as pilot:
            screen = app.screen
            view = screen.query_one(LogView)
            await until(pilot, lambda: "this is finetune" in view.text)
            screen.query_one(StageTable).focus()
            await pilot.press("up", "enter")
            await until(pilot, lambda: "this is compile_model" in view.text)
            await click(pilot, StageTable, offset=(10, 1))
            await click(pilot, StageTable, offset=(10, 1))
            await until(pilot, lambda: "this is create_env" in view.text)

    async def test_a_lost_link_is_shown_and_comes_back(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, finetune="wait")
        run.submit()
        wait_until_runs(run, TUNE)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(100, 30)) as pilot:
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.snapshot is not None)
            screen.live.do(lambda one: one.site.link._channel.close())
            bar = screen.query_one("#link", Static)
            await until(pilot, lambda: bar.display, "the link bar")
            assert "jobs go on" in text_of(app, "#link")
            await pilot.press("x")
            await until(pilot, lambda: not bar.display, "the link's return")
            go(run, TUNE)
            await until(
                pilot, lambda: screen.snapshot is not None and screen.snapshot.state is StageState.DONE
            )


class TestRuns:
    async def test_runs_are_listed_searched_opened_and_duplicated(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace)
        run.submit()
        wait_for(run, lambda one: one.finished)
        places.remember(site.place)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(120, 30)) as pilot:
            screen = app.screen
            assert isinstance(screen, RunsScreen)
            await until(pilot, lambda: screen.query_one("#runs").row_count == 1)  # type: ignore[attr-defined]
            await pilot.press("slash", *"nothing")
            await until(pilot, lambda: screen.query_one("#runs").row_count == 0)  # type: ignore[attr-defined]
            await pilot.press("escape")
            await until(pilot, lambda: screen.query_one("#runs").row_count == 1)  # type: ignore[attr-defined]
            await pilot.press("d")
            await arrived(pilot, WizardScreen)
            await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
            assert field(app, "name").value == "tiny"
            await pilot.press("escape")
            await arrived(pilot, RunsScreen)
            await until(pilot, lambda: app.screen.query_one("#runs").row_count == 1)  # type: ignore[attr-defined]
            await pilot.press("enter")
            await arrived(pilot, MonitorScreen)


COMPARISON = {
    "created": 1.0,
    "base": {"path": "/b", "fingerprint": "a" * 64},
    "fine_tuned": {"path": "/f", "fingerprint": "b" * 64, "adapter_fingerprint": "c" * 64},
    "settings": {"seed": 42},
    "held_out": {
        "records": 24,
        "tokens": 1200,
        "base_loss": 3.776,
        "fine_tuned_loss": 2.5,
        "base_perplexity": 43.7,
        "fine_tuned_perplexity": 12.2,
    },
    "answers": [
        {
            "name": "prompt-1",
            "system": None,
            "user": "Who are you?",
            "mode": "greedy",
            "base": {"role": "assistant", "content": "A model.", "tokens": 3, "seconds": 1.0},
            "fine_tuned": {
                "role": "assistant",
                "content": "Captain Chat!\x1b[2J",
                "tokens": 4,
                "seconds": 1.0,
            },
            "identical": False,
        }
    ],
}


class TestComparison:
    async def test_side_by_side_and_saved_as_markdown(
        self, site: Site, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = tiny_run(site, workspace)
        Path(run.layout.file("comparison.json")).write_text(json.dumps(COMPARISON))
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(100, 30)) as pilot:
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            await until(pilot, lambda: monitor.snapshot is not None)
            await pilot.press("o")
            await arrived(pilot, ComparisonScreen)
            await until(pilot, lambda: len(app.screen.query(".answer")) == 2)
            assert "fine-tuned 2.500" in text_of(app, "#held-out")
            sides = [str(one.content) for one in app.screen.query(".answer").results(Static)]
            assert "A model." in sides[0]
            assert sides[1].endswith("Captain Chat!")
            await pilot.press("m")
            await arrived(pilot, Ask)
            await pilot.press("enter")
            file = tmp_path / f"{run.run_id}.md"
            await until(pilot, lambda: file.exists() and "Captain Chat!" in file.read_text())

    async def test_not_there_yet_is_told(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(100, 30)) as pilot:
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            await until(pilot, lambda: monitor.snapshot is not None)
            await pilot.press("o")
            await until(pilot, lambda: "no comparison yet" in text_of(app, "#held-out"))


async def test_every_action_of_a_screen_is_in_the_palette(workspace: Path) -> None:
    app = LlamaTui(UiRequest(settings=demo_settings(workspace)))
    async with app.run_test(size=(100, 30)) as pilot:
        await arrived(pilot, WizardScreen)
        titles = " ".join(command.title for command in app.get_system_commands(app.screen))
        for words in ("Launch", "Save TOML", "Open TOML", "Test connection", "Next step", "Theme"):
            assert words in titles


async def test_keys_are_shown_and_hidden() -> None:
    app = LlamaTui(UiRequest(settings=defaults(Stack.CPU), review=True))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("question_mark")
        await arrived(pilot, Keys)
        await pilot.press("question_mark")
        await arrived(pilot, WizardScreen)
