"""The Hugging Face hub: model files and data sets, with its refusals told in words."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import StageError, in_words, log, require_free_space

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreachable(StageError):
    """The network's fault, not the user's: trying again is safe, and goes on from what is there."""


# Weights as safetensors only: a pickle can run code when it is loaded, and `original/` doubles the download.
WANTED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.model",
    "*.txt",
    "*.jinja",
    "LICENSE*",
    "USE_POLICY*",
]
UNWANTED = ["original/*", "*/original/*", "onnx/*", "*.onnx*", "coreml/*"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def fetch_model(source: str, revision: str, target: Path) -> str:
    """Downloads a model's files into `target`, going on where an earlier attempt ended; gives the commit.

    Raises:
        StageError: no access, no such model, no network, or not enough room.
    """
    from huggingface_hub import HfApi, snapshot_download

    with told_in_words(source):
        info = HfApi().model_info(source, revision=revision or None, files_metadata=True)
        sizes = {one.rfilename: one.size or 0 for one in info.siblings or [] if _is_wanted(one.rfilename)}
        if not any(name.endswith(".safetensors") for name in sizes):
            raise StageError(
                f"{source} has no safetensors on the hub",
                "choose a model that has: pickled weights are not loaded",
            )
        have = (
            sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) if target.exists() else 0
        )
        total = sum(sizes.values())
        require_free_space(target, max(0, total - have), f"downloading {source}")
        log(
            f"downloading {source}: {len(sizes)} files, {in_words(total)}"
            + (f", {in_words(have)} already here" if have else "")
        )
        snapshot_download(
            source, revision=info.sha, local_dir=target, allow_patterns=WANTED, ignore_patterns=UNWANTED
        )
    for name, size in sizes.items():
        file = target / name
        if not file.is_file() or (size and file.stat().st_size != size):
            found = file.stat().st_size if file.is_file() else 0
            raise StageError(
                f"{name} of {source} is incomplete: {found} of {size} bytes",
                "run download_model again: it goes on from here",
            )
    return str(info.sha)


def _is_wanted(name: str) -> bool:
    from fnmatch import fnmatch

    return any(fnmatch(name, one) for one in WANTED) and not any(fnmatch(name, one) for one in UNWANTED)


def fetch_dataset(source: str, split: str) -> list[dict[str, Any]]:
    """The rows of one split of a data set on the hub.

    Raises:
        StageError: no access, no such data set or split, or no network.
    """
    from datasets import load_dataset

    log(f"downloading the data set {source}, split {split}")
    with told_in_words(source):
        try:
            rows = load_dataset(source, split=split)
        except ValueError as error:
            raise StageError(
                f"the data set {source} cannot be read: {error}", "check its name and model.dataset_split"
            ) from None
    return [dict(row) for row in rows]


@contextlib.contextmanager
def told_in_words(source: str) -> Iterator[None]:
    """Turns the hub's errors into words: token missing, refused, or without access; no such name; no network."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise _gated(source, str(error)) from None
    except (errors.RepositoryNotFoundError, DatasetNotFoundError) as error:
        raise _not_found(source, str(error)) from None
    except errors.RevisionNotFoundError:
        raise StageError(
            f"{source} has no such revision on the hub", "check model.revision in the settings"
        ) from None
    except errors.HfHubHTTPError as error:
        raise _http_error(source, error) from None
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError.__bases__[0], OSError) as error:
        # The first base of the hub's own error is its HTTP library's, which differs between its versions.
        if getattr(error, "errno", None) in _DISK_ERRORS:
            raise
        said = (str(error).splitlines() or [""])[0]
        raise Unreachable(
            f"the hub could not be reached from this node: {type(error).__name__}: {said}",
            "check the node's network (a proxy? a VPC without internet?), then run download_model again: it goes on from what it has",
        ) from None


def _has_token() -> bool:
    path = os.environ.get("HF_TOKEN_PATH", "")
    return (
        bool(path)
        and Path(path).is_file()
        and bool(Path(path).read_text(encoding="utf-8", errors="replace").strip())
    )


def _gated(source: str, said: str) -> StageError:
    page = f"the model's page on the hub ({source})"
    if not _has_token():
        return StageError(
            f"{source} is gated and no Hugging Face token was given",
            "give a token: the wizard's Token step, or `llama-tui token`",
        )
    if "awaiting" in said:
        return StageError(
            f"access to {source} was asked for and is not granted yet",
            f"wait for its owners; {page} shows the state",
        )
    if "fine-grained" in said:
        return StageError(
            f"the token may not read gated models such as {source}",
            "allow `Read access to contents of all public gated repos` for it, or make a read token",
        )
    return StageError(
        f"your account has no access to {source}",
        f"accept the licence on {page}, then run download_model again",
    )


def _not_found(source: str, said: str) -> StageError:
    if "Invalid username or password" in said or "401" in said:
        hint = "check the name; if it is right, the token is missing, wrong or expired: `llama-tui token`"
        return StageError(f"the hub knows no {source} that this token may see", hint)
    return StageError(f"the hub knows no {source}", "check the name, as org/name")


def _http_error(source: str, error: Any) -> StageError:
    code = getattr(getattr(error, "response", None), "status_code", 0)
    if code == 401:
        return StageError(
            "the hub refused the token: it is wrong, expired or revoked",
            "make a new one and give it with `llama-tui token`",
        )
    if code == 403:
        return _gated(source, str(error))
    if code == 429:
        return Unreachable(
            "the hub answered `too many requests`",
            "wait a few minutes and run download_model again: it goes on from what it has",
        )
    return StageError(
        f"the hub answered {code or 'with an error'} for {source}: {str(error).splitlines()[0]}",
        "run download_model again in a while",
    )
