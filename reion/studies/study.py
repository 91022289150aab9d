"""A study: several runs with different settings, and the budget of each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reion.config import RunConfig, load_config
from reion.errors import InputError, did_you_mean
from reion.jobs.places import require_folder
from reion.schema import merge

if TYPE_CHECKING:
    from reion.training.parent import Parent

FOLDER_NAME = r"[A-Za-z0-9][\w.-]*"
"""Pattern for the names of runs and of boxes to evaluate on, which become names of files."""

ROUNDS = 5
"""Number of validations of a run of a study, or of a trial of a search."""


@dataclass(frozen=True)
class Budget:
    """The budget of every run of a study: processor time in minutes, all cores together, or steps."""

    core_minutes: float | None = None
    steps: int | None = None

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.core_minutes:g} minutes of one core"


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Parameters
    ----------
    settings
        The settings that it changes in the schema of a run.
    start
        The network that it starts from, as `--from` of `reion train` takes it; None for a fresh network.
    budget_share
        The share of the study's budget that it may take.
    """

    settings: Mapping[str, Any]
    start: str | None = None
    budget_share: float = 1.0

    @cached_property
    def parent(self) -> Parent | None:
        """The network that the run starts from, read only once.

        Raises
        ------
        InputError
            If there is no network of that name.
        """
        from reion.training.parent import load_parent

        return None if self.start is None else load_parent(self.start)

    def config(self, steps: int) -> RunConfig:
        """The schema of the run with `steps` steps.

        Raises
        ------
        InputError
            If the settings do not fit the schema, or change the network that the run starts from.
        """
        parent = self.parent
        base = {} if parent is None else parent.defaults()
        budget = {"training": {"steps": steps, "round_steps": round_steps(steps)}}
        config = load_config(base=merge(merge(base, self.settings), budget))
        if parent is not None:
            parent.require_fit(config)
        return config


def round_steps(steps: int) -> int:
    """Steps of a round such that a run of `steps` steps has `ROUNDS` rounds."""
    return max(1, -(-steps // ROUNDS))


def require_new(out: Path, begun: str, *, resume: bool) -> None:
    """Refuse a folder that is there already, unless its content is to be resumed.

    Parameters
    ----------
    begun
        Pattern of the names of which one is in the folder when reion has begun there.

    Raises
    ------
    InputError
        If the folder is there and `resume` is not given, or it cannot be made.
    """
    require_folder(out)
    if out.exists() and not resume:
        ours = out.is_dir() and any(out.glob(begun))
        raise InputError(
            "the output is already there",
            file=out,
            hint=f"{'--resume goes on, or ' if ours else ''}give another --out",
        )


def studies() -> tuple[str, ...]:
    """Names of the studies that come with reion."""
    names = (item.name for item in (resources.files("reion") / "studies").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def load_study(study: str | Path) -> tuple[Budget, dict[str, StudyRun]]:
    """Read a study: the budget of each run, and the runs by name.

    Raises
    ------
    InputError
        If there is no such study, or it or one of its runs is not valid.
    """
    try:
        if str(study) in studies():
            text = (resources.files("reion") / "studies" / f"{study}.toml").read_text(encoding="utf-8")
        else:
            text = Path(study).expanduser().read_text(encoding="utf-8-sig")
        values = tomllib.loads(text)
    except FileNotFoundError as error:
        raise InputError(
            f"expected a TOML file or the name of a study ({', '.join(studies())})"
            + did_you_mean(study, studies()),
            file=study,
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot be read as TOML: {error}", file=study) from error
    minutes, steps = values.pop("core_minutes", None), values.pop("steps", None)
    runs = values.pop("runs", None)
    given = [number for number in (minutes, steps) if number is not None]
    if (
        values
        or len(given) != 1
        or not isinstance(given[0], int if minutes is None else int | float)
        or not given[0] > 0
        or not isinstance(runs, dict)
        or not runs
    ):
        raise InputError(
            "expected core_minutes or steps above 0, one of them, and tables [runs.NAME]; received "
            + (", ".join([*values, *(("runs",) if runs else ())]) or "nothing of it"),
            file=study,
        )
    return Budget(minutes, steps), {name: _parse_run(name, values, study) for name, values in runs.items()}


def _parse_run(name: str, values: Any, study: str | Path) -> StudyRun:
    if not re.fullmatch(FOLDER_NAME, name):
        raise InputError(f"a run's name becomes a folder; received {name!r}", file=study)
    training = values.get("training", {}) if isinstance(values, dict) else None
    if not isinstance(training, dict) or training.keys() & {"steps", "round_steps"}:
        raise InputError(
            f"runs.{name}: expected a table of what the run changes, without training.steps and "
            f"training.round_steps, which the budget decides; received {values!r}",
            file=study,
        )
    settings = dict(values)
    start, share = settings.pop("from", None), settings.pop("budget_share", 1.0)
    if not isinstance(start, str | None) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise InputError(
            f"runs.{name}: expected `from` to name a model or a run folder, and `budget_share` to be above 0 "
            f"and at most 1; received {start!r} and {share!r}",
            file=study,
        )
    run = StudyRun(settings, start, share)
    run.config(1)
    return run
