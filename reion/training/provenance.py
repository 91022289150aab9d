"""What a run was made of: versions, seed, the commit of the code, and a checksum of every box."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import keras
import xarray as xr

from reion.config import RunConfig
from reion.errors import InputError
from reion.jobs.outputs import sha256_of
from reion.models.training_boxes import TrainingBox, changes, describe
from reion.registry import AUGMENTATIONS, LOSSES, STEMS, Entry

_SPARSE = ("code", "lengthened")
"""What provenance.json leaves out where it is empty, as it is in most runs."""


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """What is written down of the network that a run started from.

    Attributes
    ----------
    name
        Of the shipped model, or of the run's folder.
    weights_sha256
        Over the file of its weights.
    training_data
        Checksums of the boxes that it was trained on, and the networks before it, from which it started.
    """

    name: str
    weights_sha256: str
    training_data: list[str]


@dataclass(frozen=True, kw_only=True)
class Code:
    """What is written down of code of others that a run calls.

    Attributes
    ----------
    kind, name
        What it is, such as network, and where it is found: `module:function`.
    file, sha256
        Of the file that it is in; None for code that was typed in.
    package, version
        The installed package that it belongs to; None where it belongs to none.
    """

    kind: str
    name: str
    file: str | None
    sha256: str | None
    package: str | None
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Lengthened:
    """A run that went on beyond its end.

    Attributes
    ----------
    at_step
        The steps that were done.
    before, after
        `training.steps`, which the learning rate follows.
    """

    at_step: int
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What provenance.json holds.

    Attributes
    ----------
    versions
        Of Python and of the packages whose numbers enter.
    backend, seed
        The Keras backend, and the seed of the schema.
    git_commit
        Of reion's checkout; None where it does not run from one.
    data
        The simulations, in order.
    parent
        The network that the run started from; None for a fresh one.
    code
        The code outside reion that the run calls: its network, stem, loss and augmentation.
    lengthened
        Each time that the finished run was given more steps.
    """

    versions: dict[str, str]
    backend: str
    seed: int
    git_commit: str | None
    data: list[TrainingBox]
    parent: Ancestor | None
    code: list[Code] = field(default_factory=list)
    lengthened: list[Lengthened] = field(default_factory=list)

    @property
    def training_data(self) -> tuple[str, ...]:
        """Checksums of all boxes that the weights have learnt from, those of earlier networks last."""
        before = [] if self.parent is None else self.parent.training_data
        return tuple(dict.fromkeys([*(box.sha256 for box in self.data), *before]))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without `code` and `lengthened` where there is nothing to say."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in _SPARSE or value}

    @classmethod
    def of_run(
        cls, config: RunConfig, simulations: Sequence[xr.Dataset], parent: Ancestor | None = None
    ) -> Provenance:
        """Write down what a run that starts now is made of; reads every value of the simulations."""
        packages = ("reion", "keras", "numpy", "numba", "xarray", keras.backend.backend())
        return cls(
            versions={"python": platform.python_version(), **{name: _version(name) for name in packages}},
            backend=keras.backend.backend(),
            seed=config.seed,
            git_commit=_git_commit(),
            data=[describe(sim) for sim in simulations],
            parent=parent,
            code=code_of(config),
        )

    def require_same(self, now: Provenance, out: Path) -> None:
        """Refuse to go on with the run in `out`, which began as this, with what a command is given `now`.

        Raises
        ------
        InputError
            If it began with other data, from another network or by other code.
        """
        if changed := changes(self.data, now.data):
            raise InputError(f"the run was started with other simulations: {', '.join(changed)}", file=out)
        if self.parent != now.parent:
            before, given = (parent and parent.name for parent in (self.parent, now.parent))
            raise InputError(
                f"the run was started from {before or 'a fresh network'}; received {given or 'none'}",
                file=out,
                hint=f"resume with --from {before}" if before else "resume without --from",
            )
        if not is_same_code(self.code, now.code):
            raise InputError(
                "the code of " + ", ".join(code.name for code in self.code) + " has changed since the run "
                "was started",
                file=out,
                hint="bring the old code back, or start a new run",
            )

    def digest(self, config: RunConfig) -> bytes:
        """SHA-256 of what all processes of a run must have in common: schema, data and reion's version."""
        own = self.to_json()
        common = {
            "config": config.model_dump(mode="json"),
            "data": own["data"],
            "parent": own["parent"],
            "code": [item.sha256 for item in self.code],
            "reion": self.versions["reion"],
        }
        return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).digest()


def is_same_code(before: Sequence[Code], now: Sequence[Code]) -> bool:
    """Whether code of others is, file by file, what it was."""
    return [code.sha256 for code in before] == [code.sha256 for code in now]


def code_of(config: RunConfig) -> list[Code]:
    """Where the code outside reion that a run calls comes from."""
    used: tuple[tuple[str, Entry], ...] = (
        ("network", config.network),
        ("stem", STEMS.find(config.network.stem)),
        ("loss", LOSSES.find(config.training.loss.kind)),
        ("augmentation", AUGMENTATIONS.find(config.data.augmentation)),
    )
    return [_describe_code(kind, entry) for kind, entry in used if not entry.is_own]


def _describe_code(kind: str, entry: Entry) -> Code:
    source = entry.source
    top = entry.reference.partition(":")[0].partition(".")[0]
    packages = _installed_packages().get(top, [])
    package = packages[0] if packages else None
    return Code(
        kind=kind,
        name=entry.name,
        file=None if source is None else str(source),
        sha256=None if source is None else sha256_of(source),
        package=package,
        version=None if package is None else _version(package),
    )


@cache
def _installed_packages() -> Mapping[str, list[str]]:
    """The packages that bring each importable name; asked once, because it looks at every installed file."""
    return packages_distributions()


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of reion's own checkout, where it runs from one."""
    git = shutil.which("git")
    checkout = Path(__file__).resolve().parents[2]
    if git is None or not (checkout / ".git").exists():
        return None
    result = subprocess.run(
        [git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None
