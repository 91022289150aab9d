"""The provenance of a run: versions, seed, the commit of the code, and a checksum of every box."""

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
"""Fields that provenance.json leaves out if they are empty, as they are for most runs."""


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """The record of the network that a run started from.

    Attributes
    ----------
    name
        Name of the shipped model, or of the run folder.
    weights_sha256
        SHA-256 of the file of its weights.
    training_data
        Checksums of the boxes that it, and the networks that it started from, were trained on.
    """

    name: str
    weights_sha256: str
    training_data: list[str]


@dataclass(frozen=True, kw_only=True)
class Code:
    """The record of code outside reion that a run calls.

    Attributes
    ----------
    kind, name
        Its role (network, stem, loss or augmentation), and its name as `module:function`.
    file, sha256
        The file that holds it, and the file's checksum; None for code that was typed in.
    package, version
        The installed package that it belongs to; None if it belongs to none.
    """

    kind: str
    name: str
    file: str | None
    sha256: str | None
    package: str | None
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Lengthened:
    """The record that a run was given more steps.

    Attributes
    ----------
    at_step
        Number of steps that were done by then.
    before, after
        `training.steps` before and after; the learning rate follows it.
    """

    at_step: int
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The content of provenance.json.

    Attributes
    ----------
    versions
        Versions of Python and of the packages that influence the numbers.
    backend, seed
        The Keras backend, and the seed of the schema.
    git_commit
        The commit of reion's checkout; None if reion does not run from one.
    data
        The training simulations, in order.
    parent
        The network that the run started from; None for a fresh one.
    code
        The code outside reion that the run calls: its network, stem, loss and augmentation.
    lengthened
        Each time that the run was given more steps.
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
        """Checksums of all boxes from which the weights have learnt, those of earlier networks last."""
        before = [] if self.parent is None else self.parent.training_data
        return tuple(dict.fromkeys([*(box.sha256 for box in self.data), *before]))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, without `code` and `lengthened` if they are empty."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in _SPARSE or value}

    @classmethod
    def of_run(
        cls, config: RunConfig, simulations: Sequence[xr.Dataset], parent: Ancestor | None = None
    ) -> Provenance:
        """The provenance of a run that starts now; this reads every value of the simulations."""
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
        """Refuse to resume the run in `out`, whose provenance is `self`, if `now` differs from it.

        Raises
        ------
        InputError
            If the run was started with other simulations, from another network or with other code.
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
        """SHA-256 of all that the processes of a run must share: schema, data, parent, code and version."""
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
    """Whether the files of the code outside reion are unchanged."""
    return [code.sha256 for code in before] == [code.sha256 for code in now]


def code_of(config: RunConfig) -> list[Code]:
    """The records of the code outside reion that a run calls."""
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
    """The packages that provide each importable name; cached, because it looks at every installed file."""
    return packages_distributions()


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "unknown"


def _git_commit() -> str | None:
    """The commit of reion's own checkout; None if reion does not run from one."""
    git = shutil.which("git")
    checkout = Path(__file__).resolve().parents[2]
    if git is None or not (checkout / ".git").exists():
        return None
    result = subprocess.run(
        [git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None
