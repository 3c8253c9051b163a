"""Names of run directories."""

from __future__ import annotations

import pytest

from llama_tui.backend.run_ids import new_run_id, newest_first


def test_a_run_is_named_by_what_it_is_for_and_when_it_was_made() -> None:
    assert new_run_id("pirate", 1795627651.5) == "pirate-20261125-172731-8000"
    assert new_run_id("pirate", 1795627651.99999999) == "pirate-20261125-172732-0000"


@pytest.mark.parametrize("later", [0.00002, 0.4, 1, 86400])
def test_later_is_another_name_that_sorts_before(later: float) -> None:
    older, newer = new_run_id("z", 1795627651.5), new_run_id("a", 1795627651.5 + later)
    assert newest_first(["by-hand", older, "old-20261125-172731", newer]) == [
        newer,
        older,
        "old-20261125-172731",
        "by-hand",
    ]
