"""Settings files made to do harm: refused in words and in time."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_tui.backend.settings import Settings, SettingsError, Stack, defaults
from llama_tui.backend.settings_file import MOST_BYTES, from_toml, load, to_toml
from tests.test_hostile import harmless


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 50_000,
        "a" + ".a" * 100_000 + " = 1",
        "[" + "a" + ".a" * 100_000 + "]",
        "x = {" + '"a"' + ' . "a"' * 50_000 + " = 1}",
        "a = " + "9" * 100_000,
        "a = 1e999999999",
        "name = 2026-99-99",
        "".join(f"[[a{'.b' * (n % 8)}]]\n" for n in range(2000)),
        "\n".join(f'k{n} = ["{"lol" * 20}"]' for n in range(5000)),
        "name = '\x00'",
        "name = '" + "x" * (MOST_BYTES + 1) + "'",
        "[model]\nmodel = '../../etc/passwd'",
        "[resources]\nextra = ['--wrap=rm -rf /', '--export=ALL']",
        "[training]\nlearning_rate = nan",
        "[training]\nseed = 99999999999999999999999999",
    ],
    ids=range(16),
)
def test_hostile_settings_are_refused_in_words_and_in_time(text: str) -> None:
    began = time.thread_time()
    with pytest.raises(SettingsError) as caught:
        from_toml(text, "odd.toml")
    assert caught.value.message.startswith("odd.toml")
    harmless(caught.value.message.replace("\r", ""))
    assert time.thread_time() - began < 3


@pytest.mark.parametrize(
    "content", [b"\x7fELF\x00\xff\xfe", b"\x00" * 1000, b"\xef\xbb\xbfname='x'", b"\xff\xfen\x00"]
)
def test_binary_settings_are_refused_in_words(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError):
        load(path)


def test_settings_without_an_end_are_not_read_to_it() -> None:
    with pytest.raises(SettingsError, match="longer than"):
        load(Path("/dev/zero"))


def test_text_that_only_looks_nested_is_kept() -> None:
    data = defaults(Stack.CPU).model_dump(mode="json")
    data["inference"]["prompts"] = ["What is 1.2.3.4? " + "Well. " * 60, "a.b" * 40, "[[[[" * 50]
    wanted = Settings.model_validate(data)
    assert from_toml(to_toml(wanted)) == wanted


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("utf-8", "surrogateescape"))
)
def test_any_text_is_settings_or_is_refused(text: str) -> None:
    try:
        from_toml(text)
    except SettingsError as error:
        error.message.encode()
    else:
        tomllib.loads(text)
