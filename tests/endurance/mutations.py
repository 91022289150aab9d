"""Damage files of ours in every way, and see that each gives one clear error or the right answer.

    python -m tests.endurance.mutations [--cases 10000] [--only KIND]... [--json FILE]

A case is one damaged file. What it came to is counted:

- refused: an `InputError` (a checkpoint: passed over for the one before);
- right: it was read, and what came out is what the whole file gives, or what the file now says in plain text;
- believed: another answer without a word. There must be none;
- failed: another exception than `InputError`. There must be none.

Files of models and runs are damaged twice over: as they lie on a disk, and with the checksum made right
again, as by somebody who means harm. Of the second kind an answer may be another one, because the file is
another one; then it counts as right if its values are those that the file has.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reion.config import load_config
from reion.errors import InputError
from reion.prediction.emulator import Emulator
from reion.readers import open_simulation
from reion.storage.store import write_simulation
from reion.testing import damaged
from tests.conftest import toy_simulation
from tests.tiny import TINY_NETWORK

BOX = (6, 5, 4)
RUN_FILES = ("config.toml", "normalizer.json", "provenance.json", "model.keras", "metrics.json")


@dataclass
class Count:
    """What the cases of one kind of file came to; `examples` tells cases that went wrong."""

    kind: str
    cases: int = 0
    refused: int = 0
    right: int = 0
    believed: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)


Case = Callable[[np.random.Generator], str]
"""Damages a file, uses it, and returns `right` or `believed`; raises `InputError` where it is refused."""


def count(kind: str, case: Case, cases: int) -> Count:
    """Run so many cases."""
    found = Count(kind)
    for number in range(cases):
        rng = np.random.default_rng([number, len(kind), *kind.encode()[:4]])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = case(rng)
        except InputError:
            result = "refused"
        except Exception as error:  # noqa: BLE001 (whatever else comes is what is counted)
            result = "failed"
            found.examples.append(f"case {number}: {type(error).__name__}: {error}"[:300])
        if result == "believed":
            found.examples.append(f"case {number}: another answer")
        found.cases += 1
        setattr(found, result, getattr(found, result) + 1)
    return found


def model_as_it_lies(model: Path) -> Case:
    """An exported file, damaged on a disk."""
    content = model.read_bytes()
    fields, expected = _predicted(content)

    def case(rng: np.random.Generator) -> str:
        changed = damaged(content, rng)
        if changed == content:
            return "right"
        xi = Emulator(changed, device="cpu", threads=1).predict_arrays(8.0, **fields)
        return "right" if xi.tobytes() == expected.tobytes() else "believed"

    return case


def model_sealed_again(model: Path) -> Case:
    """An exported file, damaged, with the checksum made right: it must not crash, hang or leave 0 to 1."""
    import onnx
    from google.protobuf.message import DecodeError

    from reion_exports.anatomy import CHECKSUM, HostileFileError, checksum

    content = model.read_bytes()
    fields, _ = _predicted(content)

    def case(rng: np.random.Generator) -> str:
        try:
            changed = onnx.load_from_string(damaged(content, rng))
            entries = [item for item in changed.metadata_props if item.key != CHECKSUM]
            kept = [(item.key, item.value) for item in entries]
            del changed.metadata_props[:]
            for key, value in kept:
                changed.metadata_props.add(key=key, value=value)
            digest = checksum(changed.SerializeToString())
        except (DecodeError, HostileFileError, ValueError) as error:
            raise InputError(str(error)) from error
        changed.metadata_props.add(key=CHECKSUM, value=json.dumps(digest))
        emulator = Emulator(changed.SerializeToString(), device="cpu", threads=1)
        given = {name: fields[name] for name in emulator.card.inputs if name in fields}
        xi = emulator.predict_arrays(8.0, **given)
        return "right" if xi.shape == BOX and xi.min() >= 0 and xi.max() <= 1 else "believed"

    return case


def run_as_it_lies(run: Path) -> Case:
    """A file of a finished run, damaged on a disk."""
    from reion.training.run_folder import load_run

    expected = [weights.tobytes() for weights in load_run(run).network.get_weights()]

    def case(rng: np.random.Generator) -> str:
        name = str(rng.choice([*RUN_FILES, "checksums.json"]))
        with _damaged_in_place(run / name, rng) as same:
            loaded = load_run(run) if not same else None
        if loaded is None:
            return "right"
        found = [weights.tobytes() for weights in loaded.network.get_weights()]
        return "right" if found == expected else "believed"

    return case


def run_sealed_again(run: Path) -> Case:
    """A file of a finished run, damaged, with its checksum made right: read as what it says, or refused."""
    from reion.training.run_folder import load_run

    def case(rng: np.random.Generator) -> str:
        name = str(rng.choice(RUN_FILES))
        with _damaged_in_place(run / name, rng), _damaged_in_place(run / "checksums.json", None):
            sums = {file: hashlib.sha256((run / file).read_bytes()).hexdigest() for file in RUN_FILES}
            (run / "checksums.json").write_text(json.dumps(sums))
            loaded = load_run(run)
        sound = all(np.isfinite(weights).all() for weights in loaded.network.get_weights())
        return "right" if sound else "believed"

    return case


def checkpoint(folder: Path) -> Case:
    """A file of the newer of two checkpoints, damaged: the older one is gone on from."""
    from reion.training.checkpoints import load_newest

    steps = sorted(path.name for path in folder.iterdir())
    newest = load_newest(folder)
    assert newest is not None
    expected = {newest.step: _bits(newest), int(steps[0][5:]): None}

    def case(rng: np.random.Generator) -> str:
        place = folder / steps[-1]
        victim = place / str(rng.choice(sorted(path.name for path in place.iterdir())))
        with _damaged_in_place(victim, rng) as same:
            found = load_newest(folder)
        if same:
            return "right"
        if found is None or found.step not in expected:
            return "believed"
        if found.step == newest.step:
            return "right" if _bits(found) == expected[found.step] else "believed"
        raise InputError("passed over")

    return case


def settings_file(path: Path) -> Case:
    """A TOML file of settings, damaged: refused, or every value that it still names is taken as it stands."""
    content = path.read_bytes()

    def case(rng: np.random.Generator) -> str:
        path.write_bytes(damaged(content, rng))
        read = load_config(path).model_dump(mode="json")
        return "right" if _holds(read, tomllib.loads(path.read_text("utf-8"))) else "believed"

    return case


def store(path: Path) -> Case:
    """A file of a Zarr store of ours, damaged: every chunk has its checksum."""
    with open_simulation(path) as whole:
        expected = {name: whole[name].values.tobytes() for name in whole.data_vars}
    files = sorted(item for item in path.rglob("*") if item.is_file())

    def case(rng: np.random.Generator) -> str:
        victim = files[int(rng.integers(len(files)))]
        with _damaged_in_place(victim, rng) as same:
            sim = open_simulation(path)
            found = {name: sim[name].values.tobytes() for name in sim.data_vars}
        if same or found == expected:
            return "right"
        # The metadata of a store are plain text: what they say is what is read.
        return "right" if victim.name == "zarr.json" else "believed"

    return case


def _predicted(content: bytes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    from reion_exports.parity import realistic_fields

    emulator = Emulator(content, device="cpu", threads=1)
    fields = realistic_fields(emulator.card, BOX)
    return fields, emulator.predict_arrays(8.0, **fields)


def _bits(found: Any) -> dict[str, list[bytes]]:
    return {name: [array.tobytes() for array in arrays] for name, arrays in found.arrays.items()}


def _holds(read: Any, written: Any) -> bool:
    """Whether all that is written in a TOML file is in the settings that were read from it."""
    if isinstance(written, dict):
        return isinstance(read, dict) and all(
            key in read and _holds(read[key], value) for key, value in written.items()
        )
    if isinstance(written, list):
        return isinstance(read, list) and len(read) == len(written) and all(map(_holds, read, written))
    return bool(read == written)


@contextlib.contextmanager
def _damaged_in_place(path: Path, rng: np.random.Generator | None) -> Any:
    """Damage a file while the block runs; gives whether it is the same nevertheless."""
    whole = path.read_bytes()
    changed = whole if rng is None else damaged(whole, rng)
    path.write_bytes(changed)
    try:
        yield changed == whole
    finally:
        path.write_bytes(whole)


def prepare(folder: Path) -> dict[str, tuple[Case, float]]:
    """Files of every kind in a folder: name to a case, and its share of all cases."""
    from reion.training.run import train
    from reion_exports import export
    from tests.conftest import build_toy_network

    model = export(*build_toy_network(), folder / "toy.onnx").path
    settings = [*TINY_NETWORK, "training.batch_size=2", "training.steps=4", "training.round_steps=2"]
    train([toy_simulation()], folder / "run", load_config(settings=settings))
    checkpoints = shutil.copytree(folder / "run" / "checkpoints", folder / "checkpoints")
    shutil.copy(folder / "run" / "config.toml", folder / "settings.toml")
    write_simulation(toy_simulation((6, 6, 6), (9.0, 8.0)), folder / "sim.zarr")
    return {
        "exported file": (model_as_it_lies(model), 0.3),
        "exported file, checksum made right": (model_sealed_again(model), 0.1),
        "run folder": (run_as_it_lies(folder / "run"), 0.2),
        "run folder, checksum made right": (run_sealed_again(folder / "run"), 0.02),
        "checkpoint": (checkpoint(checkpoints), 0.13),
        "settings (TOML)": (settings_file(folder / "settings.toml"), 0.15),
        "store (Zarr)": (store(folder / "sim.zarr"), 0.1),
    }


def table(counts: list[Count]) -> str:
    """The counts in Markdown."""
    lines = ["| damaged | cases | refused | right | believed | failed |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {c.kind} | {c.cases} | {c.refused} | {c.right} | {c.believed} | {c.failed} |" for c in counts
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.mutations")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--only", action="append", help="this kind")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    random.seed(0)
    counts = []
    with tempfile.TemporaryDirectory() as made:
        for kind, (case, share) in prepare(Path(made)).items():
            if given.only and kind not in given.only:
                continue
            counts.append(count(kind, case, max(1, round(share * given.cases))))
            print(json.dumps(asdict(counts[-1])), file=sys.stderr, flush=True)  # noqa: T201
    print(table(counts))  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps([asdict(item) for item in counts], indent=1))
    return int(any(item.believed or item.failed for item in counts))


if __name__ == "__main__":
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.exit(main(sys.argv[1:]))
