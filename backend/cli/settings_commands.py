"""init, render, token: before a run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from llama_tui.backend import token as token_store
from llama_tui.backend.cli.common import chosen_place, connected, place_options, stage_named
from llama_tui.backend.render import plan_run, render_run_files, render_script
from llama_tui.backend.settings import Stack, defaults
from llama_tui.backend.settings_file import load, to_toml
from llama_tui.backend.stages import STAGES, Stage


@click.command()
@click.argument(
    "file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="llama-tui.toml"
)
@click.option(
    "--stack",
    type=click.Choice([stack.value for stack in Stack]),
    default=Stack.NEURON.value,
    show_default=True,
    help="neuron: the recipe's values for Trainium. cpu: the demo's, a small model on any machine.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, stack: str, force: bool) -> None:
    """Write a settings file with every answer's default and help, to edit and give to `llama-tui run`.

    FILE is llama-tui.toml when left out; - prints it.
    """
    text = to_toml(defaults(Stack(stack)))
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    if file.exists() and not force:
        raise click.UsageError(f"{file} is there already. Choose another name, or --force to replace it.")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"Wrote {file}. Edit it, then: llama-tui run {file} --wait")


@click.command()
@click.argument("settings", type=click.Path(dir_okay=False, allow_dash=False, path_type=Path))
@click.option("--stage", type=stage_named, metavar="STAGE", help="Print this stage's script only.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a complete run directory here, to be submitted by hand with plain sbatch.",
)
@click.option(
    "--workspace", help="Absolute path of the workspace in the scripts. Default: the settings' own."
)
def render(settings: Path, stage: Stage | None, output: Path | None, workspace: str | None) -> None:
    """Show the sbatch scripts that SETTINGS give, without a host and without submitting anything."""
    loaded = load(settings)
    place = workspace or loaded.paths.workspace
    if place.startswith("~/"):
        place = str(Path(place).expanduser())
    plan = plan_run(loaded, place, f"{loaded.name}-rendered")
    if output is None:
        click.echo("\n".join(render_script(plan, one, 1) for one in ([stage] if stage else STAGES)), nl=False)
        return
    plan = plan_run(loaded, place, output.name)
    files = render_run_files(plan)
    files |= {plan.layout.script(one, 1): render_script(plan, one, 1) for one in STAGES}
    for path, text in files.items():
        target = output / Path(path).relative_to(plan.layout.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    click.echo(f"Wrote {len(files)} files into {output}. On the cluster they belong in {plan.layout.path}.")
    if not workspace and loaded.paths.workspace.startswith("~/"):
        click.echo("There ~ was taken for your home on this computer: --workspace names the cluster's.")
    click.echo(
        "Submit scripts/0… to 6… there in this order, each with --dependency=afterok:JOB of the one before."
    )


@click.command()
@place_options
@click.option("--remove", is_flag=True, help="Take the token off the host.")
@click.option("--keyring", is_flag=True, help="Keep it in this computer's keyring as well.")
@click.option(
    "--from-keyring", is_flag=True, help="Ask for nothing: take the one that this computer's keyring keeps."
)
@click.option(
    "--forget", is_flag=True, help="Take it out of this computer's keyring; the host is left alone."
)
def token(
    host: str | None,
    workspace: str | None,
    python: str | None,
    scheduler: str | None,
    remove: bool,
    keyring: bool,
    from_keyring: bool,
    forget: bool,
) -> None:
    """Give the Hugging Face token that download_model needs for gated models such as Llama 3.

    It is asked for without being shown (or read from stdin in a script) and put into one file of mode 0600 in
    the workspace, outside every run. It is in no script, argument, log or settings file. Where this computer's
    keyring keeps one, Enter takes that.
    """
    if sum((remove, keyring, from_keyring, forget)) > 1:
        raise click.UsageError("Choose one of --remove, --keyring, --from-keyring and --forget.")
    if forget:
        _forget()
        return
    with connected(chosen_place(host, workspace, python, scheduler)) as site:
        if remove:
            token_store.remove(site)
            click.echo(f"There is no token any more in {site.place.label}.")
            return
        secret = _kept() if from_keyring else _asked_for()
        token_store.put(site, secret)
        click.echo(f"The token is in {site.workspace.token} (0600).")
        if keyring and not token_store.to_keyring(secret):
            click.echo("This computer's keyring did not take it: it is kept on the host only.", err=True)


def _forget() -> None:
    gone = token_store.forget()
    click.echo(
        "This computer's keyring keeps no token any more."
        if gone
        else "This computer's keyring keeps no token of ours."
    )


def _kept() -> str:
    kept = token_store.from_keyring()
    if kept is None:
        raise token_store.TokenError(
            "This computer's keyring keeps no token, or did not answer", "Give it: llama-tui token --keyring"
        )
    return kept


def _asked_for() -> str:
    """What is typed unseen, or piped in; Enter alone takes the keyring's, where it keeps one."""
    if not sys.stdin.isatty():
        return token_store.checked(sys.stdin.readline())
    kept = token_store.from_keyring()
    words = "Token (Enter takes the one in this computer's keyring)" if kept else "Token"
    typed: str = click.prompt(words, hide_input=True, default="" if kept else None, show_default=False)
    return token_store.checked(typed) if typed.strip() or not kept else kept
