"""The app's hosts, for screens: all share one connection to each."""

from __future__ import annotations

from typing import Any, Protocol, cast

from textual.app import App

from llama_tui.backend.hosts.choose import HostBook


class HasHosts(Protocol):
    """What LlamaTui is to a screen."""

    hosts: HostBook


def hosts_of(app: App[Any]) -> HostBook:
    """The hosts of the app that runs a screen."""
    return cast(HasHosts, app).hosts
