"""Stage 1 against a network that fails: tried again, a bounded number of times, and only for the network's faults."""

from __future__ import annotations

from typing import Any

import download_model
import pytest
from common import StageError
from hub import Unreachable


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(download_model.time, "sleep", made.append)
    return made


def failing(times: int, error: StageError) -> Any:
    left = [error] * times

    def make() -> dict[str, Any]:
        if left:
            raise left.pop()
        return {"whole": True}

    return make


def test_a_network_that_comes_back_is_waited_for(
    pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert download_model.patiently(failing(2, Unreachable("no route"))) == {"whole": True}
    assert pauses == [10.0, 60.0]
    assert "no route; attempt 1 of 3, the next in 10 s" in capsys.readouterr().out


def test_a_network_that_stays_away_is_told(pauses: list[float]) -> None:
    with pytest.raises(Unreachable):
        download_model.patiently(failing(3, Unreachable("no route")))
    assert len(pauses) == 2


def test_what_is_the_users_to_mend_is_told_at_once(pauses: list[float]) -> None:
    with pytest.raises(StageError, match="gated"):
        download_model.patiently(failing(1, StageError("the model is gated")))
    assert pauses == []
