"""The wizard as a person uses it: where it opens, what follows from what, the keyring, and no key lost."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import keyring
import pytest
from click.testing import CliRunner, Result
from keyring.backend import KeyringBackend
from keyring.errors import KeyringError, PasswordDeleteError
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher, Input, Static

from llama_tui.backend import places
from llama_tui.backend import token as token_store
from llama_tui.backend.cli.main import cli
from llama_tui.backend.draft import draft_at, draft_typed, load_draft, save_draft
from llama_tui.backend.errors import HostError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.place import Place
from llama_tui.backend.preflight.check import Check
from llama_tui.backend.preflight.check import Result as Found
from llama_tui.backend.settings import Settings, Stack, defaults
from llama_tui.backend.settings_file import to_toml
from llama_tui.backend.site import Site
from llama_tui.backend.stages import Stage
from llama_tui.backend.ui_request import UiRequest
from llama_tui.tui.app import LlamaTui
from llama_tui.tui.launching import TokenWish, launch
from llama_tui.tui.screens.dialogs import Confirm
from llama_tui.tui.screens.monitor import MonitorScreen
from llama_tui.tui.screens.runs import RunsScreen
from llama_tui.tui.screens.wizard import WizardScreen
from llama_tui.tui.steps.forms import LORA, step_of_stage
from llama_tui.tui.steps.token import FORGOTTEN, KEPT, NOT_KEPT
from llama_tui.tui.widgets.choice import Choice
from llama_tui.tui.widgets.fields import FieldRow
from tests.pilot import Keyboard, arrived, click, painted, sitting_at, text_of, until
from tests.test_tui import demo_settings
from tests.tiny import tiny_run, wait_for
from tests.tmux import Tmux

TOKEN = "hf_" + "Kept0Secret" * 3


@asynccontextmanager
async def asked(settings: Settings, size: tuple[int, int]) -> AsyncIterator[tuple[LlamaTui, Pilot[None]]]:
    """The app at the wizard's first field."""
    app = LlamaTui(UiRequest(settings=settings))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.focused is not None)
        yield app, pilot


def wizard(app: LlamaTui) -> WizardScreen:
    assert isinstance(app.screen, WizardScreen)
    return app.screen


def row(app: LlamaTui, path: str) -> FieldRow:
    return app.screen.query_one(f"#field-{path.replace('.', '-')}", FieldRow)


def field(app: LlamaTui, path: str) -> Input:
    return row(app, path).query(Input).first()


def mark(app: LlamaTui, path: str) -> str:
    shown = row(app, path).query_one(".field-follows", Static)
    return str(shown.content) if shown.display else ""


def at_field(app: LlamaTui) -> str:
    focused = app.focused
    rows = [one for one in focused.ancestors_with_self if isinstance(one, FieldRow)] if focused else []
    return rows[0].path if rows else (focused.id or "") if focused else ""


async def go(pilot: Pilot[None], step: str) -> None:
    """To a step of the wizard, by mouse."""
    await click(pilot, f"#rail-{step}")
    switcher = pilot.app.screen.query_one(ContentSwitcher)
    await until(pilot, lambda: switcher.current == f"step-{step}" and pilot.app.focused is not None, step)


async def answer(pilot: Pilot[None], path: str, text: str) -> None:
    """Types an answer in place of the one that is there."""
    app = pilot.app
    assert isinstance(app, LlamaTui)
    box = field(app, path)
    box.focus()
    await until(pilot, lambda: box.has_focus, path)
    await pilot.press("end", "ctrl+u", *text)
    await until(pilot, lambda: box.value == text, f"{path} {text}")


async def enter_until(keyboard: Keyboard, words: str) -> None:
    """Presses Enter, and nothing else, until the words can be read."""
    for _ in range(120):
        if keyboard.reads(words):
            return
        await keyboard.press("enter")
    raise AssertionError(f"Enter never led to {words}\n{painted(keyboard.app)}")


def unreachable(*_: object) -> NoReturn:
    raise HostError("nobody there")


async def choose(pilot: Pilot[None], path: str, option: str) -> None:
    """Turns a choice with the arrow key until it is at an option."""
    app = pilot.app
    assert isinstance(app, LlamaTui)
    choice = row(app, path).query_one(Choice)
    choice.focus()
    await until(pilot, lambda: choice.has_focus, path)
    for _ in choice.options:
        if choice.value == option:
            return
        await pilot.press("right")
    assert choice.value == option


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launched run is made, and stays as it is."""
    monkeypatch.setattr("llama_tui.backend.runs.Run.submit", lambda *_, **__: None)


class TestOtherSettings:
    @pytest.mark.parametrize("by", ["key", "mouse"])
    async def test_a_failed_run_opens_the_wizard_at_the_field_to_change(
        self, by: str, site: Site, workspace: Path
    ) -> None:
        run = tiny_run(site, workspace, finetune="1")
        run.submit()
        wait_for(run, lambda one: one.finished)
        with Path(run.layout.log(Stage.FINETUNE, 1)).open("a") as log:
            log.write("OSError: [Errno 28] No space left on device\n")
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, lambda: "no space left" in text_of(app, "#failure"), "the diagnosis")
            await (pilot.press("t") if by == "key" else click(pilot, "#do-other-settings"))
            await arrived(pilot, WizardScreen)
            await until(pilot, lambda: at_field(app) == "paths.workspace", "the field")
            await until(pilot, lambda: "Free space" in text_of(app, "#help"), "what to do")
            assert "finetune failed" in text_of(app, "#help")
            assert row(app, "paths.workspace").help in text_of(app, "#help")
            await pilot.press("tab", "shift+tab")
            await until(pilot, lambda: at_field(app) == "paths.workspace")
            await until(pilot, lambda: "Free space" not in text_of(app, "#help"), "it is told once")

    async def test_without_a_field_it_opens_at_the_step_most_akin(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace, finetune="7")
        run.submit()
        wait_for(run, lambda one: one.finished)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(120, 30)) as pilot:
            await until(pilot, lambda: "finetune failed" in text_of(app, "#failure"))
            await pilot.press("t")
            await arrived(pilot, WizardScreen)
            await until(pilot, lambda: at_field(app) == "lora.r", "the first field of LoRA")
            await until(pilot, lambda: "finetune failed" in text_of(app, "#help"))

    async def test_a_run_that_goes_on_opens_it_at_the_beginning(self, site: Site, workspace: Path) -> None:
        run = tiny_run(site, workspace)
        run.submit()
        wait_for(run, lambda one: one.finished)
        app = LlamaTui(UiRequest(place=site.place, run_id=run.run_id))
        async with app.run_test(size=(120, 30)) as pilot:
            monitor = app.screen
            assert isinstance(monitor, MonitorScreen)
            await until(pilot, lambda: monitor.snapshot is not None)
            await pilot.press("t")
            await arrived(pilot, WizardScreen)
            await until(pilot, lambda: at_field(app) == "name")

    async def test_a_field_far_down_is_seen_at_80x24(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            app.switch_screen(
                WizardScreen(defaults(Stack.NEURON), field="training.pipeline_parallel", why="x")
            )
            await until(pilot, lambda: at_field(app) == "training.pipeline_parallel")
            pane = app.screen.query_one("#step-lora")
            await until(
                pilot, lambda: pane.region.contains_region(field(app, "training.pipeline_parallel").region)
            )

    async def test_the_token_is_a_field_too(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            app.switch_screen(WizardScreen(defaults(Stack.NEURON), field="token", why="Give a token."))
            await until(pilot, lambda: at_field(app) == "token")
            await until(pilot, lambda: "Give a token." in text_of(app, "#help"))

    def test_every_stage_has_a_step(self) -> None:
        assert {step_of_stage(stage) for stage in Stage}
        assert step_of_stage(Stage.FINETUNE) is LORA


class TestWhatFollows:
    async def test_a_smaller_machine_changes_processes_and_layout_and_says_so(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "lora")
            assert mark(app, "training.tensor_parallel") == ""
            await go(pilot, "resources")
            await choose(pilot, "resources.machine", "trn1.2xlarge")
            await until(pilot, lambda: field(app, "resources.processes_per_node").value == "2")
            assert mark(app, "resources.processes_per_node") == "follows from Machine"
            await until(pilot, lambda: field(app, "training.tensor_parallel").value == "2")
            assert mark(app, "training.tensor_parallel") == "follows from model, machine and nodes"
            await until(pilot, lambda: "tensor parallel 2" in text_of(app, "#live"))
            await choose(pilot, "resources.machine", "trn1.32xlarge")
            await until(pilot, lambda: field(app, "training.tensor_parallel").value == "8")
            assert mark(app, "training.tensor_parallel") == ""

    async def test_a_larger_model_changes_a_layout_that_is_not_on_the_screen_yet(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "model")
            await answer(pilot, "model.model", "meta-llama/Llama-3.3-70B-Instruct")
            await go(pilot, "lora")
            await until(pilot, lambda: field(app, "training.pipeline_parallel").value == "2")
            assert mark(app, "training.pipeline_parallel") == "follows from model, machine and nodes"
            field(app, "training.pipeline_parallel").focus()
            await until(pilot, lambda: "The nearest to" in text_of(app, "#help"))

    async def test_what_was_given_stays_and_the_nearest_is_named(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "lora")
            await answer(pilot, "training.tensor_parallel", "4")
            await go(pilot, "resources")
            await choose(pilot, "resources.machine", "trn1.2xlarge")
            await until(pilot, lambda: "does not divide" in text_of(app, "#live"))
            assert "the nearest that works is tensor parallel 2" in text_of(app, "#live")
            assert field(app, "training.tensor_parallel").value == "4"
            assert mark(app, "training.tensor_parallel") == ""

    async def test_answers_passed_through_with_enter_still_follow(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "lora")
            field(app, "training.tensor_parallel").focus()
            await pilot.press("enter", "enter")
            await go(pilot, "resources")
            await choose(pilot, "resources.machine", "trn1.2xlarge")
            await until(pilot, lambda: field(app, "training.tensor_parallel").value == "2")

    async def test_steps_batch_and_warm_up_are_told_while_they_are_typed(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            assert not app.screen.query_one("#live").display
            await go(pilot, "lora")
            await until(pilot, lambda: "238 optimizer steps" in text_of(app, "#live"))
            assert "effective batch 12 = 1 x 3 accumulated x 4 data-parallel" in text_of(app, "#live")
            await answer(pilot, "training.gradient_accumulation", "6")
            await until(pilot, lambda: "effective batch 24" in text_of(app, "#live"), "while it is typed")
            await until(pilot, lambda: "119 optimizer steps" in text_of(app, "#live"))
            await answer(pilot, "training.max_steps", "50")
            await until(pilot, lambda: field(app, "training.warmup_steps").value == "5")
            assert mark(app, "training.warmup_steps") == "follows from Steps at most"
            await until(pilot, lambda: "warm-up 5 (10%)" in text_of(app, "#live"))

    async def test_steps_of_a_file_on_the_host_are_counted_from_its_records(self, tmp_path: Path) -> None:
        file = tmp_path / "own data.jsonl"
        file.write_text('{"instruction": "how long?", "response": "so long"}\n' * 800)
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "model")
            await answer(pilot, "model.dataset", str(file))
            await go(pilot, "lora")
            await until(pilot, lambda: "optimizer steps (1 x" in text_of(app, "#live"))
            await answer(pilot, "training.epochs", "100")
            await until(pilot, lambda: "optimizer steps (100 x" in text_of(app, "#live"))

    @pytest.mark.parametrize(
        ("dataset", "words"),
        [
            ("/fsx/you/data.jsonl", "optimizer steps: known after the look at the data set (Ctrl+D"),
            ("org/other", "optimizer steps: known once download_model has had org/other"),
        ],
    )
    async def test_steps_that_nobody_knows_yet_are_said_to_be_so(
        self, dataset: str, words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.tui.steps.host_sight.connect", unreachable)
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await go(pilot, "model")
            await answer(pilot, "model.dataset", dataset)
            await go(pilot, "lora")
            await until(pilot, lambda: text_of(app, "#live").startswith(words))

    async def test_another_stack_marks_what_changed_with_it(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await choose(pilot, "stack", "cpu")
            await until(pilot, lambda: field(app, "name").value == "demo")
            assert mark(app, "name") == "follows from Stack"
            await go(pilot, "lora")
            assert field(app, "training.max_steps").value == "40"
            assert mark(app, "training.max_steps") == "follows from Stack"

    async def test_one_wrong_answer_does_not_cost_the_others(self) -> None:
        async with asked(defaults(Stack.NEURON), (140, 50)) as (app, pilot):
            await answer(pilot, "name", "Not A Name")
            await go(pilot, "lora")
            await answer(pilot, "lora.r", "32")
            await until(pilot, lambda: wizard(app).settings.lora.r == 32)
            assert wizard(app).settings.name == "pirate"
            assert "name" in wizard(app).problems

    async def test_settings_of_a_file_are_taken_as_they_are(self) -> None:
        data = defaults(Stack.NEURON).model_dump(mode="json")
        data["resources"] |= {"nodes": 2, "processes_per_node": 8}
        settings = Settings.model_validate(data)
        async with asked(settings, (140, 50)) as (app, pilot):
            await answer(pilot, "name", "other")
            await go(pilot, "review")
            changed = settings.model_copy(update={"name": "other"})
            await until(pilot, lambda: wizard(app).settings == changed)


def type_at_once(patch: pytest.MonkeyPatch, *keys: str) -> None:
    """Somebody types before anything is on the screen: the keys are there before the app handles its first one."""
    on_mount = LlamaTui.on_mount

    def and_type(app: LlamaTui) -> None:
        on_mount(app)
        for key in keys:
            app.post_message(Key(key, key if len(key) == 1 else None))

    patch.setattr(LlamaTui, "on_mount", and_type)


class TestFields:
    async def test_a_long_answer_with_the_cursor_shows_its_beginning(self) -> None:
        async with sitting_at(Keyboard, LlamaTui(UiRequest(settings=defaults(Stack.NEURON)))) as keyboard:
            await keyboard.sees("▸ 1 Where")
            await keyboard.press("ctrl+n", "ctrl+n")
            await keyboard.sees("Base model            meta-llama/Meta-Llama-3-8B-Instru")
            await keyboard.types("/data/llama")
            await keyboard.sees("Base model            /data/llama ")


class TestKeys:
    async def test_keys_before_the_first_field_arrive_in_it_in_order(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered = threading.Event()
        monkeypatch.setattr(HostBook, "names", lambda _: answered.wait(60) and [])
        type_at_once(monkeypatch, *"quick")
        app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
        try:
            async with app.run_test(size=(80, 24)) as pilot:
                await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
                await until(pilot, lambda: "quick" in field(app, "name").value, "what was typed")
                assert field(app, "name").has_focus
                assert field(app, "name").value.replace("demo", "") == "quick"
        finally:
            answered.set()

    async def test_keys_while_the_next_step_is_made_arrive_there(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            before = field(app, "name").value
            # All at once, as from somebody who knows what comes.
            app.post_message(Key("ctrl+n", None))
            for key in "hf_abc":
                app.post_message(Key("underscore" if key == "_" else key, key))
            await until(pilot, lambda: bool(app.screen.query("#token")))
            await until(pilot, lambda: app.screen.query_one("#token", Input).value == "hf_abc")
            assert field(app, "name").value == before

    async def test_keys_right_after_it_is_opened_from_the_runs_arrive_too(self, workspace: Path) -> None:
        places.remember(Place(str(workspace)))
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.focused is not None)
            runs = app.screen
            assert isinstance(runs, RunsScreen)
            runs.action_new()
            for key in "xyz":
                app.post_message(Key(key, key))
            await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
            await until(pilot, lambda: field(app, "name").value.replace("pirate", "") == "xyz")

    async def test_a_key_of_the_wizard_waits_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        type_at_once(monkeypatch, *"quick", "ctrl+n")
        app = LlamaTui(UiRequest(settings=defaults(Stack.CPU)))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: at_field(app) == "token")
            await until(pilot, lambda: "quick" in field(app, "name").value)


class TestEnter:
    """Nothing but Enter, from a first start on."""

    @pytest.mark.usefixtures("nothing_runs")
    async def test_it_leads_to_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        async with sitting_at(Keyboard, LlamaTui(UiRequest())) as keyboard:
            await keyboard.sees("▸ 1 Where")
            await enter_until(keyboard, "▸ 7 Review")
            await keyboard.sees(
                "On this machine, without Slurm, one stage after", "Training is on 1 node with 32"
            )
            await keyboard.press("enter")
            await keyboard.arrives(MonitorScreen)

    async def test_at_another_host_it_leads_on_once_the_connection_was_tested(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answered = threading.Event()
        monkeypatch.setattr(
            "llama_tui.tui.steps.where._look", lambda *_: answered.wait(60) and "you@head, Slurm"
        )
        monkeypatch.setattr("llama_tui.tui.steps.host_sight.connect", unreachable)
        async with sitting_at(Keyboard, LlamaTui(UiRequest())) as keyboard:
            await keyboard.sees("▸ 1 Where")
            await keyboard.press("enter", "enter")
            await keyboard.types("cluster")
            await keyboard.press(*["enter"] * 9)
            await keyboard.sees("… connecting to cluster", "▸ 1 Where")
            answered.set()
            await keyboard.sees("✓ you@head, Slurm")
            await enter_until(keyboard, "▸ 7 Review")
            await keyboard.sees("On cluster, by Slurm where there is one", "could not be reached")

    async def test_a_host_that_does_not_answer_is_no_dead_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llama_tui.tui.steps.where._look", unreachable)
        data = defaults(Stack.NEURON).model_dump(mode="json")
        data["where"]["host"] = "cluster"
        app = LlamaTui(UiRequest(settings=Settings.model_validate(data)))
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.press("ctrl+t")
            await keyboard.sees("✗ nobody there")
            await enter_until(keyboard, "▸ 2 Token")

    async def test_at_a_wrong_answer_it_leads_back_there_and_says_why(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "lora")
            await answer(pilot, "lora.alpha", "abc")
            await answer(pilot, "training.weight_decay", "-1")
            field(app, "training.save_total_limit").focus()
            for _ in range(9):
                await pilot.press("enter")
                await until(pilot, lambda: all(one.group != "go" for one in app.workers), "the way there")
                if at_field(app) == "lora.alpha":
                    break
            assert at_field(app) == "lora.alpha"
            assert "✗ must be a whole number" in painted(app)
            assert app.screen.query_one("#rail-lora").has_class("current")

    async def test_a_wrong_token_is_come_back_to_as_well(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "token")
            await pilot.press(*"nonsense", "enter", "enter")
            await until(pilot, lambda: text_of(app, "#token-problem").startswith("✗ "))
            await until(pilot, lambda: at_field(app) == "token")

    async def test_in_the_review_it_leads_to_what_is_wrong(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "lora")
            await answer(pilot, "lora.r", "abc")
            await go(pilot, "review")
            await pilot.press("enter")
            await until(pilot, lambda: at_field(app) == "lora.r")

    async def test_what_is_typed_at_once_after_it_is_for_the_next_field(self) -> None:
        async with sitting_at(Keyboard, LlamaTui(UiRequest(settings=defaults(Stack.NEURON)))) as keyboard:
            await keyboard.sees("▸ 1 Where")
            await keyboard.types_ahead(*"mine", "enter", "enter", *"cluster", "enter", *"root")
            app = keyboard.app
            assert isinstance(app, LlamaTui)
            await until(keyboard.pilot, lambda: field(app, "where.as_user").value == "root")
            assert field(app, "where.host").value == "cluster"
            assert field(app, "name").value == "mine"


class TestBeforeTheLaunch:
    @pytest.mark.usefixtures("nothing_runs")
    async def test_what_would_stop_the_run_is_seen_first_and_asked_about(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [
            Check("workspace", Found.PASS, "can be made"),
            Check("package index", Found.FAIL, "nothing answers", "look at the proxy"),
        ]
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: found)
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("✗ package index nothing answers", "→ look at the proxy", "Launch (ctrl+l)")
            for no in ("enter", "n"):
                await keyboard.press("enter")
                await keyboard.arrives(Confirm)
                await keyboard.sees("✗ package index: nothing answers")
                await keyboard.press(no)
                await keyboard.arrives(WizardScreen)
            assert not (workspace / "runs").exists()
            await keyboard.press("enter")
            await keyboard.arrives(Confirm)
            await keyboard.press("y")
            await keyboard.arrives(MonitorScreen)

    @pytest.mark.usefixtures("nothing_runs")
    async def test_the_launch_waits_for_the_look_at_the_host(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked = threading.Event()
        found = [Check("space", Found.FAIL, "the disk is full")]
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: looked.wait(60) and found)
        app = LlamaTui(UiRequest(settings=demo_settings(workspace), review=True))
        async with sitting_at(Keyboard, app) as keyboard:
            await keyboard.sees("… looking at the host")
            await keyboard.press("enter")
            await keyboard.sees("looking at the host before the launch")
            looked.set()
            await keyboard.arrives(Confirm)
            await keyboard.sees("✗ space: the disk is full")

    async def test_launching_from_another_step_leads_to_the_review_first(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llama_tui.tui.screens.wizard.run_checks", lambda *_: [])
        async with sitting_at(Keyboard, LlamaTui(UiRequest(settings=demo_settings(workspace)))) as keyboard:
            await keyboard.sees("▸ 1 Where")
            await keyboard.press("ctrl+l")
            await keyboard.sees("▸ 7 Review", "without Slurm")
            assert not (workspace / "runs").exists()


def count_validations(patch: pytest.MonkeyPatch) -> list[object]:
    """Everything that is validated from now on."""
    counted: list[object] = []
    validate = Settings.model_validate

    def counting(data: Any) -> Settings:
        counted.append(data)
        return validate(data)

    patch.setattr(Settings, "model_validate", counting)
    return counted


class TestValidation:
    async def test_it_is_done_once_for_each_change_and_not_for_moving_about(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "lora")
            counted = count_validations(monkeypatch)
            for key in "123":
                await pilot.press(key)
                await until(pilot, lambda: wizard(app).settings.lora.r == int(field(app, "lora.r").value))
            assert len(counted) == 3
            await pilot.press("enter", "tab", "shift+tab", "enter")
            await pilot.press("ctrl+b", "ctrl+n")
            await until(pilot, lambda: at_field(app) == "lora.r")
            assert len(counted) == 3


class TestDraft:
    async def test_what_was_typed_comes_back_also_where_it_is_wrong(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (_, pilot):
            await answer(pilot, "name", "kept")
            await go(pilot, "lora")
            await answer(pilot, "training.warmup_steps", "7")
            await answer(pilot, "lora.targets", "q_proj nonsense")
            await answer(pilot, "lora.r", "abc")
        again = LlamaTui(UiRequest())
        async with again.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: at_field(again) == "lora.r")
            assert field(again, "lora.r").value == "abc"
            assert field(again, "lora.targets").value == "q_proj, nonsense"
            assert field(again, "training.warmup_steps").value == "7"
            assert "✗ must be a whole number" in painted(again)
            assert "These are your answers of last time. Ctrl+R starts over." in painted(again)
            await answer(pilot, "lora.r", "32")
            await answer(pilot, "lora.targets", "q_proj")
            await until(pilot, lambda: wizard(again).settings.lora.r == 32)
            assert wizard(again).settings.name == "kept"
            assert not wizard(again).problems

    async def test_a_step_that_was_not_opened_again_is_still_wrong(self) -> None:
        save_draft(defaults(Stack.NEURON), "where", "name", {"lora.r": "abc"})
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: at_field(app) == "name")
            await until(pilot, lambda: "✗ 5 LoRA" in painted(app))
            await go(pilot, "review")
            assert "lora.r" in text_of(app, "#review-problems")
        assert draft_typed() == {"lora.r": "abc"}

    async def test_a_token_in_the_wrong_field_is_not_kept(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            field(app, "name").value = TOKEN
            await until(pilot, lambda: bool(wizard(app).problems))
        assert load_draft() is not None
        for file in places.state_directory().iterdir():
            assert TOKEN not in file.read_text()

    @pytest.mark.parametrize(
        "typed",
        [[1], {"lora.r": 5}, {"stack": "x"}, {"lora.targets": "q_proj"}, {"no.such": "x"}, {"name": None}],
    )
    async def test_what_cannot_have_been_typed_is_left_out(self, typed: Any) -> None:
        save_draft(defaults(Stack.CPU), "where", "name", typed)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: at_field(app) == "name")
            await go(pilot, "lora")
            assert wizard(app).settings == defaults(Stack.CPU)
            assert not wizard(app).problems

    async def test_it_goes_on_at_the_step_and_field_where_it_was(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (_, pilot):
            await go(pilot, "lora")
            # The last answer is still being typed when the program ends.
            await answer(pilot, "training.epochs", "2.5")
        assert draft_at() == ("lora", "training.epochs")
        again = LlamaTui(UiRequest())
        async with again.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: at_field(again) == "training.epochs")
            assert field(again, "training.epochs").value == "2.5"

    async def test_a_draft_is_kept_while_the_program_runs(self) -> None:
        async with asked(defaults(Stack.NEURON), (80, 24)) as (_, pilot):
            await answer(pilot, "name", "kept")
            await pilot.press("enter")
            await until(pilot, lambda: (draft := load_draft()) is not None and draft.name == "kept")

    @pytest.mark.parametrize("text", ["", "[]", '{"step": 1}', '{"step": "lora", "field": "name"}', "\x00"])
    async def test_a_broken_note_of_the_place_costs_no_answer(self, text: str) -> None:
        save_draft(defaults(Stack.CPU))
        (places.state_directory() / "draft-at.json").write_text(text)
        app = LlamaTui(UiRequest())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.focused is not None)
            assert wizard(app).settings == defaults(Stack.CPU)

    async def test_starting_over_asks_and_takes_the_defaults(self) -> None:
        data = defaults(Stack.CPU).model_dump(mode="json") | {"name": "mine"}
        async with asked(Settings.model_validate(data), (80, 24)) as (app, pilot):
            await pilot.press("ctrl+r")
            await arrived(pilot, Confirm)
            await pilot.press("y")
            await arrived(pilot, WizardScreen)
            await until(pilot, lambda: bool(app.screen.query("#field-name Input")))
            assert field(app, "name").value == "demo"


class MemoryKeyring(KeyringBackend):
    """A keyring as a desktop has one, but in memory; `gate` stands for its owner, who may not be there."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def _ask(self) -> None:
        self.gate.wait(60)
        if self.error:
            raise self.error

    def get_password(self, service: str, username: str) -> str | None:
        self._ask()
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._ask()
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._ask()
        if (service, username) not in self.kept:
            raise PasswordDeleteError
        del self.kept[service, username]


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    before = keyring.get_keyring()
    own = MemoryKeyring()
    keyring.set_keyring(own)
    yield own
    own.gate.set()
    keyring.set_keyring(before)


def hub_settings(workspace: Path) -> Settings:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["model"]["model"] = "meta-llama/Llama-3.2-1B-Instruct"
    data["paths"]["workspace"] = str(workspace)
    data["where"]["scheduler"] = "direct"
    return Settings.model_validate(data)


class TestKeyring:
    async def test_the_step_says_that_a_token_is_kept_and_forgets_it(self, ring: MemoryKeyring) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "token")
            await until(pilot, lambda: text_of(app, "#kept") == KEPT)
            assert TOKEN not in app.export_screenshot()
            await click(pilot, "#forget")
            await until(pilot, lambda: text_of(app, "#kept") == FORGOTTEN)
            assert not ring.kept
            assert not app.screen.query_one("#forget").display

    async def test_forgetting_by_keyboard_is_not_on_the_way_of_enter(self, ring: MemoryKeyring) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "token")
            await until(pilot, lambda: text_of(app, "#kept") == KEPT)
            await pilot.press("enter", "enter")
            await until(pilot, lambda: at_field(app) == "model.model")
            assert ring.kept
            await pilot.press("ctrl+b")
            await until(pilot, lambda: at_field(app) == "token")
            await pilot.press("tab", "tab", "enter")
            await until(pilot, lambda: text_of(app, "#kept") == FORGOTTEN)

    async def test_a_locked_keyring_holds_nothing_up_and_is_as_none(
        self, ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring.gate.clear()
        ring.kept["llama-tui", "hf_token"] = TOKEN
        monkeypatch.setattr(token_store, "PATIENCE", 0.3)
        async with asked(defaults(Stack.NEURON), (80, 24)) as (app, pilot):
            await go(pilot, "token")
            await pilot.press("x")
            await until(pilot, lambda: app.screen.query_one("#token", Input).value == "x")
            await until(pilot, lambda: text_of(app, "#kept") == NOT_KEPT)

    @pytest.mark.parametrize("error", [KeyringError("locked"), RuntimeError("no D-Bus"), OSError("gone")])
    def test_a_keyring_that_fails_is_as_none(self, ring: MemoryKeyring, error: Exception) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        ring.error = error
        assert token_store.from_keyring() is None
        assert not token_store.to_keyring(TOKEN)
        assert not token_store.forget()

    def test_what_is_no_token_is_not_used(self, ring: MemoryKeyring) -> None:
        ring.kept["llama-tui", "hf_token"] = "a password of something else"
        assert token_store.from_keyring() is None

    def _launch(self, settings: Settings, wish: TokenWish) -> list[str]:
        told: list[str] = []
        hosts = HostBook(None)  # type: ignore[arg-type]
        launch(settings, hosts, wish, told.append, told.append)
        assert TOKEN not in "".join(told)
        return told

    @pytest.mark.usefixtures("nothing_runs")
    def test_the_kept_token_is_used_at_launch(self, ring: MemoryKeyring, workspace: Path) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        self._launch(hub_settings(workspace), TokenWish(asked=True))
        file = workspace / ".secret/hf_token"
        assert file.read_text().strip() == TOKEN
        assert file.stat().st_mode & 0o777 == 0o600
        runs = [one for one in (workspace / "runs").rglob("*") if one.is_file()]
        assert runs
        assert all(TOKEN.encode() not in one.read_bytes() for one in runs)

    @pytest.mark.usefixtures("nothing_runs")
    def test_another_typed_one_goes_first_and_is_kept_on_wish(
        self, ring: MemoryKeyring, workspace: Path
    ) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        other = "hf_" + "Another0ne" * 3
        self._launch(hub_settings(workspace), TokenWish(other, keep=True, asked=True))
        assert (workspace / ".secret/hf_token").read_text().strip() == other
        assert ring.kept["llama-tui", "hf_token"] == other

    @pytest.mark.usefixtures("nothing_runs")
    def test_a_keyring_that_does_not_take_it_is_told_of(self, ring: MemoryKeyring, workspace: Path) -> None:
        ring.error = KeyringError("locked")
        told = self._launch(hub_settings(workspace), TokenWish(TOKEN, keep=True, asked=True))
        assert any("did not take the token" in words for words in told)

    @pytest.mark.usefixtures("nothing_runs")
    def test_where_the_step_was_not_seen_a_token_of_the_host_stays(
        self, ring: MemoryKeyring, site: Site, workspace: Path
    ) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        theirs = "hf_" + "OfTheHost" * 3
        token_store.put(site, theirs)
        self._launch(hub_settings(workspace), TokenWish())
        assert (workspace / ".secret/hf_token").read_text().strip() == theirs
        token_store.remove(site)
        self._launch(hub_settings(workspace), TokenWish())
        assert (workspace / ".secret/hf_token").read_text().strip() == TOKEN

    @pytest.mark.usefixtures("nothing_runs")
    def test_no_keyring_is_asked_where_the_hub_is_not_needed(
        self, ring: MemoryKeyring, workspace: Path
    ) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        data = hub_settings(workspace).model_dump(mode="json")
        data["model"] = defaults(Stack.CPU).model_dump(mode="json")["model"]
        self._launch(Settings.model_validate(data), TokenWish(asked=True))
        assert not (workspace / ".secret").exists()


def test_no_token_in_what_a_wish_prints() -> None:
    assert TOKEN not in repr(TokenWish(TOKEN))
    assert TOKEN not in to_toml(defaults(Stack.CPU))


def call(*argv: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(argv), input=stdin)


FILE_KEYRING = """
import json, pathlib
from keyring.backend import KeyringBackend

FILE = pathlib.Path(__file__).with_name("kept.json")

class Keyring(KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        return json.loads(FILE.read_text()).get(service + username) if FILE.exists() else None
    def set_password(self, service, username, password):
        FILE.write_text(json.dumps({service + username: password}))
    def delete_password(self, service, username):
        FILE.unlink()
"""


class TestTokenCommand:
    def test_it_keeps_takes_and_forgets(self, ring: MemoryKeyring, tmp_path: Path) -> None:
        place = ("--workspace", str(tmp_path / "w"))
        file = tmp_path / "w/.secret/hf_token"
        assert call("token", *place, "--keyring", stdin=TOKEN + "\n").exit_code == 0
        assert ring.kept == {("llama-tui", "hf_token"): TOKEN}
        assert call("token", *place, "--remove").exit_code == 0
        assert not file.exists()
        taken = call("token", *place, "--from-keyring")
        assert taken.exit_code == 0
        assert TOKEN not in taken.output
        assert file.read_text().strip() == TOKEN
        assert "no token any more" in call("token", "--forget").output
        assert not ring.kept
        assert file.exists()
        again = call("token", *place, "--from-keyring")
        assert again.exit_code == 2
        assert "llama-tui token --keyring" in again.output
        assert "no token of ours" in call("token", "--forget").output

    def test_one_wish_at_a_time(self) -> None:
        assert call("token", "--remove", "--forget").exit_code == 2

    def test_a_script_that_gives_nothing_is_not_given_the_kept_one(
        self, ring: MemoryKeyring, tmp_path: Path
    ) -> None:
        ring.kept["llama-tui", "hf_token"] = TOKEN
        assert call("token", "--workspace", str(tmp_path / "w"), stdin="\n").exit_code == 2

    def test_on_a_terminal_enter_takes_the_kept_one(self, tmux: Tmux, tmp_path: Path) -> None:
        (tmp_path / "file_keyring.py").write_text(FILE_KEYRING)
        (tmp_path / "kept.json").write_text(json.dumps({"llama-tuihf_token": TOKEN}))
        env = {"PYTHON_KEYRING_BACKEND": "file_keyring.Keyring", "PYTHONPATH": str(tmp_path)}
        tmux.start([sys.executable, "-m", "llama_tui", "token", "--workspace", str(tmp_path / "w")], env=env)
        tmux.wait_for("Enter takes the one in this computer's keyring")
        tmux.send("Enter")
        tmux.wait_for("hf_token (0600)")
        assert TOKEN not in tmux.screen()
        assert (tmp_path / "w/.secret/hf_token").read_text().strip() == TOKEN
