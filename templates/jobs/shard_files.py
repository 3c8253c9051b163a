"""Reads the shard file of one rank, as optimum-neuron and our CPU back end write it.

Needs plain torch only: no Neuron package, so a checkpoint can be read on any machine. Two kinds of
file are known:

- plain: one ``torch.save`` of a dictionary from name to tensor;
- xser: a pickle of references into ``<file>.tensors/tensor_K.pt``. It is read by an unpickler that knows
  the class of those references and nothing else, so that a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from common import StageError

HINT = "run finetune again (it resumes from the newest complete checkpoint), or move this checkpoint away"

_READ_ERRORS = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


class ShardError(StageError):
    """A checkpoint's shards cannot be used: the message names the file or rank, and the reason."""


def load_shard(path: Path) -> dict[str, torch.Tensor]:
    """Read the shard file of one rank, whichever kind it is; raises ShardError when it is damaged."""
    try:
        if Path(f"{path}.tensors").is_dir():
            return _load_references(path)
        _verify_checksums(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise ShardError(f"{path} does not hold a dictionary of tensors", HINT)
    return tensors


class _TensorReference:
    """Stands for ``torch_xla.utils.serialization.TensorReference``: the number of a tensor's file."""

    tid: int


class _ReferenceUnpickler(pickle.Unpickler):
    """An unpickler that can build tensor references and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch_xla.utils.serialization", "TensorReference"):
            return _TensorReference
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a shard")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(
            f"it names the storage {pid!r}, which has no place in a shard of references"
        )


def _load_references(path: Path) -> dict[str, torch.Tensor]:
    _verify_checksums(path)
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("torch has not written it")
        references = _ReferenceUnpickler(io.BytesIO(archive.read(pickled))).load()
    if not isinstance(references, dict):
        raise ValueError("it does not hold a dictionary")
    info = _tensor_info(path)
    tensors = {}
    for name, reference in references.items():
        number = getattr(reference, "tid", None)
        if not isinstance(reference, _TensorReference) or type(number) is not int:
            raise ValueError(f"{name} is not a reference to a tensor")
        tensors[name] = _load_tensor(path, name, number, info.get(number))
    return tensors


def _tensor_info(path: Path) -> dict[int, dict[str, Any]]:
    """Shape and type of each tensor file, as recorded beside them: they are small, and catch a mixed-up file."""
    info_file = Path(f"{path}.info.pt")
    if not info_file.is_file():
        return {}
    info = torch.load(info_file, weights_only=True)
    return info if isinstance(info, dict) else {}


def _load_tensor(path: Path, name: str, number: int, info: dict[str, Any] | None) -> torch.Tensor:
    file = Path(f"{path}.tensors") / f"tensor_{number}.pt"
    if not file.is_file():
        raise ShardError(f"{file} is missing: it holds {name}", HINT)
    try:
        _verify_checksums(file)
        tensor = torch.load(file, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        raise _unreadable(file, error) from None
    if not isinstance(tensor, torch.Tensor):
        raise ShardError(f"{file} does not hold a tensor", HINT)
    if info and (tuple(info["shape"]) != tuple(tensor.shape) or info["dtype"] != tensor.dtype):
        raise ShardError(
            f"{file} holds {tensor.dtype} {tuple(tensor.shape)}, where the shard's record says "
            f"{info['dtype']} {tuple(info['shape'])} for {name}",
            HINT,
        )
    return tensor


def _verify_checksums(path: Path) -> None:
    """torch writes zip archives and does not look at their checksums when it reads them: we do."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")


def _unreadable(path: Path, error: BaseException) -> ShardError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ShardError(f"{path} cannot be read (truncated or damaged): {reason}", HINT)
