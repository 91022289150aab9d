"""One training from several seeds, to tell how much of a score is chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from reion.config import RunConfig, load_config
from reion.jobs.outputs import read_record, write_json
from reion.studies.spread import mean_and_spread
from reion.studies.study import require_new
from reion.training.loop import StepProgress
from reion.training.parent import Parent
from reion.training.provenance import Provenance
from reion.training.run import train, with_photons
from reion.training.run_folder import Metrics


@dataclass(frozen=True)
class SeedRun:
    """The training from one seed.

    Attributes
    ----------
    seed, run
        The seed, and the name of the run folder.
    validation_r2, loss
        The values in metrics.json of the run folder.
    """

    seed: int
    run: str
    validation_r2: float | None
    loss: float


@dataclass(frozen=True)
class Seeds:
    """Trainings that differ only in their seed.

    Attributes
    ----------
    runs
        The trainings, in the order of their seeds.
    mean_r2, std_r2
        Mean of the validation R², and its standard deviation between seeds (n − 1); None if not defined.
    """

    runs: tuple[SeedRun, ...]
    mean_r2: float | None
    std_r2: float | None

    @classmethod
    def of(cls, runs: Sequence[SeedRun]) -> Seeds:
        """Compute mean and standard deviation of the runs."""
        r2 = [run.validation_r2 for run in runs if run.validation_r2 is not None]
        return cls(
            tuple(runs),
            mean_r2=float(np.mean(r2)) if r2 else None,
            std_r2=float(np.std(r2, ddof=1)) if len(r2) > 1 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: the content of seeds.json."""
        return asdict(self)


def train_seeds(
    simulations: Sequence[xr.Dataset],
    out: str | Path,
    config: RunConfig,
    *,
    seeds: int,
    parent: Parent | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Seeds:
    """Train one schema from several seeds: that of the schema and those that follow.

    Parameters
    ----------
    simulations, config, parent, progress, say
        As for `reion.training.run.train`.
    out
        A folder for a run folder seed-N for each seed, and seeds.json.
    seeds
        Number of seeds.
    resume
        Keep the finished runs in `out`, and go on with the unfinished one.

    Raises
    ------
    InputError
        If `out` is there and `resume` is not given; if a run in it has another schema, other data, another
        parent or other code; for the reasons that `train` gives.
    """
    out = Path(out)
    require_new(out, "seed-*", resume=resume)
    runs: list[SeedRun] = []
    config = with_photons(config, simulations)
    for seed in range(config.seed, config.seed + seeds):
        folder = out / f"seed-{seed}"
        own = config.model_copy(update={"seed": seed})
        say(f"{folder.name}, {len(runs) + 1} of {seeds}")
        begun = (folder / "config.toml").is_file()
        finished = (folder / "metrics.json").is_file()
        if finished and load_config(folder / "config.toml") == own:
            now = Provenance.of_run(own, simulations, None if parent is None else parent.ancestor)
            read_record(folder / "provenance.json", Provenance).require_same(now, folder)
            metrics = read_record(folder / "metrics.json", Metrics)
        else:
            metrics = train(simulations, folder, own, parent=parent, resume=begun, progress=progress, say=say)
        runs.append(SeedRun(seed, folder.name, metrics.validation_r2, metrics.loss))
        write_json(out / "seeds.json", Seeds.of(runs).to_json())
    return Seeds.of(runs)


def in_words(seeds: Seeds) -> str:
    """A line of text for each run, and one for their mean and spread."""
    lines = [
        f"{run.run}: validation R² {'–' if run.validation_r2 is None else f'{run.validation_r2:.4f}'}"
        for run in seeds.runs
    ]
    if seeds.mean_r2 is not None:
        r2 = [run.validation_r2 for run in seeds.runs if run.validation_r2 is not None]
        lines.append(f"{len(seeds.runs)} seeds: validation R² {mean_and_spread(r2, 4)}")
    return "\n".join(lines)
