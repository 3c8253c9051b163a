"""Settings: what is refused, in which words, and that TOML keeps everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_tui.backend.settings import SettingsError, Stack, defaults, validated
from llama_tui.backend.settings_file import from_toml, to_toml


def with_answer(path: str, value: Any, stack: Stack = Stack.CPU) -> dict[str, Any]:
    data = defaults(stack).model_dump(mode="json")
    *sections, name = path.split(".")
    target = data
    for section in sections:
        target = target[section]
    target[name] = value
    return data


def problem(path: str, value: Any, stack: Stack = Stack.CPU) -> str:
    """What is said about an answer, at its own field."""
    with pytest.raises(SettingsError) as caught:
        validated(with_answer(path, value, stack))
    assert path in caught.value.problems, caught.value.problems
    return caught.value.problems[path]


@pytest.mark.parametrize("stack", list(Stack))
def test_toml_keeps_every_answer(stack: Stack) -> None:
    settings = defaults(stack)
    assert from_toml(to_toml(settings)) == settings


def test_the_recipes_values_are_the_neuron_defaults() -> None:
    settings = defaults(Stack.NEURON)
    assert (settings.lora.r, settings.lora.alpha, settings.lora.dropout) == (16, 16, 0.05)
    assert [str(target) for target in settings.lora.targets] == ["q_proj", "v_proj"]
    assert settings.training.learning_rate == 2e-5
    assert settings.training.tensor_parallel == 8
    assert settings.model.dataset == "databricks/databricks-dolly-15k"


NONSENSE = ["", "   ", "a\nb", "\x00", "$(touch /tmp/x)", "é" * 300, "'; rm -rf /"]


@pytest.mark.parametrize("text", ["", "relative/path", "/a/../b", "/tmp", "/a\nb", "/" + "x" * 300])
def test_a_workspace_must_be_an_absolute_directory_of_ones_own(text: str) -> None:
    assert problem("paths.workspace", text)


@pytest.mark.parametrize("text", ["/fsx/with blank", "/fsx/$(reboot)", "/fsx/'quote'", "/fsx/ünïcode"])
def test_a_workspace_may_have_an_odd_name(text: str) -> None:
    assert validated(with_answer("paths.workspace", text)).paths.workspace == text


def test_the_neuron_compiler_cannot_do_with_blanks() -> None:
    assert "Neuron compiler" in problem("paths.workspace", "/fsx/with blank", Stack.NEURON)


@pytest.mark.parametrize("text", [*NONSENSE, "no-slash", "a/b/c", "org/../x", "org/name;x"])
def test_a_model_is_a_hub_id_or_an_absolute_path(text: str) -> None:
    assert problem("model.model", text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora.r", 0),
        ("lora.r", "sixteen"),
        ("lora.r", ""),
        ("lora.r", "1.5"),
        ("lora.dropout", "1"),
        ("lora.dropout", "nan"),
        ("lora.targets", []),
        ("lora.targets", ["q_proj", "q_proj"]),
        ("lora.targets", ["r_proj"]),
        ("training.learning_rate", "inf"),
        ("training.learning_rate", -1),
        ("training.warmup_steps", 1000),
        ("training.tensor_parallel", 2),
        ("resources.nodes", 0),
        ("resources.partition", "a b"),
        ("resources.partition", "$(x)"),
        ("resources.time_limit", "00:00:00"),
        ("resources.time_limit", "soon"),
        ("resources.extra", ["--wrap=rm"]),
        ("resources.extra", ["-n 3"]),
        ("resources.extra", ["--dep=x"]),
        ("where.host", "a b"),
        ("where.host", "-oProxyCommand=x"),
        ("where.python", "a\nb"),
        ("inference.prompts", []),
        ("inference.prompts", ["\x1b[2J"]),
        ("inference.temperature", 0),
        ("name", "Has Capitals"),
        ("name", "../x"),
        ("stack", "gpu"),
        ("paths.package_index", "https://user:secret@host/simple"),
        ("paths.package_index", "ftp://x"),
    ],
)
def test_nonsense_is_refused_at_its_field(field: str, value: object) -> None:
    words = problem(field, value)
    assert words
    assert "Value error" not in words


def test_unknown_settings_are_refused_by_name() -> None:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["lora"]["rank"] = 3
    with pytest.raises(SettingsError) as caught:
        validated(data)
    assert caught.value.problems == {"lora.rank": "is not a setting that llama-tui knows"}


def test_a_token_never_becomes_a_setting() -> None:
    token = "hf_" + "a" * 34
    for field in ("inference.system_prompt", "model.model", "name"):
        with pytest.raises(SettingsError) as caught:
            validated(with_answer(field, token))
        assert token not in str(caught.value)
        assert "token" in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    data = with_answer("lora.r", 0)
    data["paths"]["workspace"] = "x"
    with pytest.raises(SettingsError) as caught:
        validated(data)
    assert set(caught.value.problems) == {"lora.r", "paths.workspace"}


@given(st.text(max_size=200))
def test_any_text_is_settings_or_a_problem_in_words(text: str) -> None:
    try:
        from_toml(text)
    except SettingsError as error:
        assert error.message


@given(
    st.dictionaries(
        st.text(max_size=10), st.recursive(st.text(max_size=5) | st.integers(), st.lists), max_size=3
    )
)
def test_any_data_is_settings_or_a_problem_in_words(data: dict[str, Any]) -> None:
    try:
        validated(data)
    except SettingsError as error:
        assert error.problems
