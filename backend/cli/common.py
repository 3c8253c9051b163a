"""What the commands share: places, errors in words, exit codes, JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, TypeVar

import click

from llama_tui.backend import places
from llama_tui.backend.errors import HostError, NoSuchRun, SchedulerError, UserError
from llama_tui.backend.hosts.choose import HostBook
from llama_tui.backend.hosts.ssh_ask import HostKeyQuestion, Prompt
from llama_tui.backend.place import Place, SchedulerChoice
from llama_tui.backend.run_ids import run_ids
from llama_tui.backend.runs import Run, open_run
from llama_tui.backend.settings import Stack, defaults, validated
from llama_tui.backend.site import Site, connect
from llama_tui.backend.stages import Stage, parse_stage

DEFAULT_WORKSPACE = "~/llama-tui"
Command = TypeVar("Command", bound=Callable[..., Any])


class ExitCode(IntEnum):
    """What a script can rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class Commands(click.Group):
    """A group whose commands tell a person's errors in words and end with a code that means something."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"{error.title}: {error.message}", err=True)
            if error.hint:
                click.echo(error.hint, err=True)
            ctx.exit(_code_of(error))
        except KeyboardInterrupt:
            ctx.exit(interrupted())


def interrupted() -> ExitCode:
    """Says what Ctrl-C did and did not do; gives the exit code."""
    click.echo("\nStopped. What was submitted goes on.", err=True)
    return ExitCode.INTERRUPTED


def _code_of(error: UserError) -> ExitCode:
    return ExitCode.UNREACHABLE if isinstance(error, HostError | SchedulerError) else ExitCode.USAGE


def stage_named(value: str) -> Stage:
    """A stage by name, number, or the beginning of its name: the type of an argument."""
    try:
        return parse_stage(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def place_options(command: Command) -> Command:
    """--host, --workspace, --python, --scheduler; the last place used where none is given."""
    options = [
        click.option("--host", help="A host of ~/.ssh/config; this machine when left out."),
        click.option(
            "--workspace", help="The directory on the host that holds the runs. Default: the last one used."
        ),
        click.option("--python", help="Python 3.8 or newer on the host. Default: python3."),
        click.option(
            "--scheduler",
            type=click.Choice([choice.value for choice in SchedulerChoice]),
            help="auto takes Slurm where sbatch is found. Default: auto.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


run_argument = click.argument("run", default="latest", metavar="[RUN]")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")


def chosen_place(host: str | None, workspace: str | None, python: str | None, scheduler: str | None) -> Place:
    """The place that the options name; what they leave open is as it was the last time on that host."""
    known = [place for place in places.remembered() if host is None or place.host == host]
    known = [place for place in known if workspace is None or place.workspace == workspace]
    last = known[0] if known else Place(DEFAULT_WORKSPACE, host or "")
    # The settings' own rules decide what a workspace or a host may be called; of runs that are there,
    # whichever stack they are of, so not the Neuron compiler's rules.
    checked = validated(
        {
            **defaults(Stack.CPU).model_dump(mode="json"),
            "where": {
                "host": last.host if host is None else host,
                "python": python or last.python,
                "scheduler": scheduler or last.scheduler,
                "as_user": last.as_user,
                "ssh": last.ssh,
            },
            "paths": {"workspace": workspace or last.workspace},
        }
    )
    return places.place_of(checked)


@contextlib.contextmanager
def connected(place: Place) -> Iterator[Site]:
    """The place's site for the block; it is remembered."""
    hosts = HostBook(Terminal())
    try:
        site = connect(place, hosts)
        places.remember(place)
        try:
            yield site
        finally:
            site.close()
    finally:
        hosts.close()


class Terminal:
    """Asks on the terminal, where there is one."""

    def secret(self, title: str, prompts: list[Prompt]) -> list[str] | None:
        """One answer for each prompt; None without a terminal."""
        if not sys.stdin.isatty():
            return None
        click.echo(title, err=True)
        return [
            click.prompt(
                one.text.rstrip(": "), hide_input=not one.echo, default="", show_default=False, err=True
            )
            for one in prompts
        ]

    def confirm_host_key(self, question: HostKeyQuestion) -> bool:
        """A person compares the fingerprint; without a terminal an unknown key is not trusted."""
        if not sys.stdin.isatty():
            return False
        known = f" It is known already as {', '.join(question.known_as)}." if question.known_as else ""
        click.echo(f"The key of {question.host} is not known.{known}", err=True)
        click.echo(f"{question.key_type} {question.fingerprint}", err=True)
        return click.confirm("Is this the fingerprint that your administrator says?", err=True)


def run_named(site: Site, name: str) -> Run:
    """The run of that name, or the only one whose name begins so; `latest` is the newest.

    Raises:
        NoSuchRun: there is none, or several begin so.
    """
    try:
        return open_run(site, name)
    except NoSuchRun:
        meant = [run_id for run_id in run_ids(site) if run_id.startswith(name)]
        if not meant:
            raise
        if len(meant) > 1:
            raise NoSuchRun(
                f"{len(meant)} runs begin with {name!r} in {site.place.label}",
                f"Which? {', '.join(meant[:5])}{', …' if len(meant) > 5 else ''}",
            ) from None
        return open_run(site, meant[0])


def fitted(line: str, indent: int) -> str:
    """A line for the terminal, broken between words; what a program reads stays one line."""
    if not sys.stdout.isatty():
        return line
    width = max(40, shutil.get_terminal_size().columns)
    return textwrap.fill(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def show_json(data: Any) -> None:
    """Data on stdout, for a program."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")))
