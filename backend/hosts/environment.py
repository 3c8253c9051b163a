"""What programs that we start on this computer get to see of our environment."""

from __future__ import annotations

import os

# The hub's token comes from its file on the host, never from the caller's environment.
_KEPT_BACK = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})


def child_environment() -> dict[str, str]:
    """Our own variables without the hub's token: an ssh may send it on, a pager or a proxy has no business with it."""
    return {name: value for name, value in os.environ.items() if name not in _KEPT_BACK}
