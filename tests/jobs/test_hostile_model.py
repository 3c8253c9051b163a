"""Model directories made to do harm: only safetensors are read, and no code of theirs runs without being asked for."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.conftest import Bench

pytestmark = pytest.mark.ml


class Marks:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._marker),))


def download(bench: Bench, model: Path) -> tuple[int, str]:
    """Stage 1 on a directory of the host: exit code, and what it said."""
    data = bench.root / "source.jsonl"
    data.write_text("".join(json.dumps({"instruction": f"q{n}", "response": "a"}) + "\n" for n in range(9)))
    options = {
        "--model": model,
        "--model-dir": bench.root / "models/m",
        "--dataset": data,
        "--dataset-dir": bench.root / "datasets/d",
        "--held-out": "2",
        "--seed": "1",
    }
    done = bench.run("download_model.py", *(str(word) for pair in options.items() for word in pair))
    return done.returncode, done.stdout + done.stderr


def with_code(model: Path, marker: Path) -> None:
    """Configurations that name Python files beside them, for every class that can be asked for."""
    code = f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n"
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    edit(model / "config.json", auto_map={name: f"evil.{name}" for name in names})
    edit(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Slow", "evil.Fast"]})
    for name in ("evil.py", "modeling_llama.py", "tokenization_evil.py", "__init__.py"):
        (model / name).write_text(code)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_code_beside_the_weights_is_left_behind_and_never_runs(bench: Bench) -> None:
    marker = bench.root / "ran"
    with_code(bench.model, marker)
    (bench.model / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(marker)))
    (bench.model / "optimizer.pt").write_bytes(pickle.dumps(Marks(marker)))
    code, said = download(bench, bench.model)
    assert code == 0, said
    target = bench.root / "models/m"
    assert [path.name for path in target.iterdir() if path.suffix in {".py", ".bin", ".pt"}] == []
    # Training and answers load the directory that stage 1 made, and even the original.
    loads = (
        "import sys, chat, answers, libraries\nfrom pathlib import Path\nfrom transformers import AutoModelForCausalLM\n"
        "for folder in map(Path, sys.argv[1:]):\n"
        "    chat.load_tokenizer(folder)\n"
        "    AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)\n"
    )
    bench.script(loads.replace(", answers, libraries", ""), target, bench.model)
    assert not marker.exists()
    # The control: the same pickle does what it says when something loads it.
    pickle.loads((bench.model / "optimizer.pt").read_bytes())
    assert marker.is_dir()


def test_pickles_alone_are_refused_without_being_loaded(bench: Bench) -> None:
    marker = bench.root / "ran"
    (bench.model / "model.safetensors").rename(bench.model / "aside")
    (bench.model / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(marker)))
    code, said = download(bench, bench.model)
    assert code == 1
    assert "a pickle can run code" in said
    assert "Traceback" not in said
    # Named like safetensors, it is still none.
    (bench.model / "pytorch_model.bin").rename(bench.model / "model.safetensors")
    code, said = download(bench, bench.model)
    assert (code, "damaged" in said, "Traceback" in said) == (1, True, False), said
    assert not marker.exists()


def test_an_architecture_that_needs_its_own_code_is_refused(bench: Bench) -> None:
    marker = bench.root / "ran"
    with_code(bench.model, marker)
    edit(bench.model / "config.json", model_type="evil")
    code, said = download(bench, bench.model)
    assert (code, "not of the Llama architecture" in said, "Traceback" in said) == (1, True, False), said
    edit(bench.model / "config.json", model_type="llama")
    edit(bench.model / "tokenizer_config.json", tokenizer_class="EvilTokenizer")
    code, said = download(bench, bench.model)
    assert "Traceback" not in said
    assert not marker.exists()


def test_links_that_lead_out_are_followed_for_reading_only(bench: Bench) -> None:
    """A hub cache is made of such links; what they lead to is read, never written, and its contents not told."""
    secret = bench.root / "secret"
    secret.write_text("BEGIN SECRET hunter2")
    before = secret.stat()
    (bench.model / "special.json").symlink_to(secret)
    (bench.model / "loop").symlink_to(bench.model)
    (bench.model / "gone.json").symlink_to(bench.root / "nowhere")
    os.mkfifo(bench.model / "pipe.json")
    code, said = download(bench, bench.model)
    assert code == 0, said
    (bench.model / "config.json").unlink()
    (bench.model / "config.json").symlink_to(secret)
    (bench.root / "models/m/.complete").unlink()
    code, said = download(bench, bench.model)
    assert (code, "hunter2" in said, "Traceback" in said) == (1, False, False), said
    assert (secret.read_text(), secret.stat().st_mtime_ns) == ("BEGIN SECRET hunter2", before.st_mtime_ns)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", DEEP),
        ("config.json", "[]"),
        ("config.json", "\x00\x01"),
        ("config.json", '{"model_type": ["llama"]}'),
        ("model.safetensors.index.json", DEEP),
        ("model.safetensors.index.json", '{"weight_map": 5}'),
        ("model.safetensors.index.json", "{}"),
        ("tokenizer.json", DEEP),
        ("tokenizer.json", '{"model": {"type": "Evil"}}'),
        ("tokenizer.json", "null"),
        ("tokenizer_config.json", "5"),
    ],
    ids=range(11),
)
def test_files_that_are_nonsense_are_told_in_words(name: str, content: str, bench: Bench) -> None:
    (bench.model / name).write_text(content)
    code, said = download(bench, bench.model)
    assert (code, "error: " in said, "Traceback" in said) == (1, True, False), said[-2000:]


def tensors(header: object, data: bytes = b"\x00" * 64, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **changes}}


LYING = {
    "no header": b"\x01",
    "longer than the file": tensors(tensor(), length=1 << 40),
    "longest of all": tensors(tensor(), length=(1 << 64) - 1),
    "deep": tensors(DEEP),
    "no object": tensors("[1, 2]"),
    "not text": tensors("\x00\x00"),
    "no tensor": tensors({"w": 5}),
    "no offsets": tensors({"w": {"dtype": "F32", "shape": [4, 4]}}),
    "beyond the end": tensors(tensor(data_offsets=[0, 65])),
    "negative": tensors(tensor(data_offsets=[-64, 0])),
    "backwards": tensors(tensor(data_offsets=[64, 0])),
    "no numbers": tensors(tensor(data_offsets=["0", "64"])),
    "three": tensors(tensor(data_offsets=[0, 1, 64])),
    "shape too large": tensors(tensor(shape=[1 << 62, 1 << 62])),
    "shape too small": tensors(tensor(shape=[4])),
    "negative shape": tensors(tensor(shape=[-4, -4])),
    "fraction": tensors(tensor(shape=[4.0, 4])),
    "type of another kind": tensors(tensor(dtype=["F32"])),
    "type that is none": tensors(tensor(dtype="PICKLE")),
}
_READ = """
import sys
from pathlib import Path
from common import StageError
from weights import Weights
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Weights(folder, "download_model").rows("w")
    except StageError as error:
        print(folder.name, "|", error.message)
    else:
        print(folder.name, "| READ")
"""


def told(bench: Bench, make: dict[str, Callable[[Path], object]]) -> dict[str, str]:
    """What reading tensors of such directories says, by name."""
    for name, fill in make.items():
        folder = bench.root / "lying" / name
        folder.mkdir(parents=True)
        fill(folder)
    lines = bench.script(_READ, bench.root / "lying").splitlines()
    return dict(line.split(" | ", 1) for line in lines)


def test_headers_that_lie_are_never_believed(bench: Bench) -> None:
    def writing(content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "model.safetensors").write_bytes(content)

    said = told(bench, {"honest": writing(tensors(tensor()))} | {k: writing(v) for k, v in LYING.items()})
    assert said.pop("honest") == "READ"
    assert set(said) == set(LYING)
    assert [name for name, words in said.items() if words == "READ"] == []


def test_an_index_names_files_beside_it_only(bench: Bench) -> None:
    outside = bench.root / "outside.safetensors"
    outside.write_bytes(tensors(tensor()))

    def naming(file: object) -> Callable[[Path], object]:
        text = (
            file
            if isinstance(file, str) and file.startswith("{")
            else json.dumps({"weight_map": {"w": file}})
        )
        return lambda folder: (folder / "model.safetensors.index.json").write_text(text)

    said = told(
        bench,
        {
            "up": naming("../../outside.safetensors"),
            "absolute": naming(str(outside)),
            "pickle": naming("pytorch_model.bin"),
            "number": naming(5),
            "deep": naming('{"weight_map": ' + DEEP),
            "none": naming("{}"),
            "list": naming('{"weight_map": ["w"]}'),
        },
    )
    assert len(said) == 7
    assert all("does not name safetensors beside it" in words for words in said.values()), said
