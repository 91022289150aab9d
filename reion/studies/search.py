"""A search for settings: trials of one network, compared by validation R²; bad trials are given up early."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w
import xarray as xr

from reion.config import write_config
from reion.errors import InputError
from reion.jobs.outputs import alone_at, read_record, scratch_folder, whole_file, write_json, write_whole
from reion.models.training_boxes import TrainingBox, changes, describe
from reion.studies.comparison import FEWEST_STEPS, core_seconds_per_step
from reion.studies.ranges import SearchStudy, load_search
from reion.studies.spread import mean_and_spread
from reion.studies.study import ROUNDS, require_new
from reion.training.loop import Loop, NotFiniteError, StepProgress
from reion.training.run import with_photons

if TYPE_CHECKING:
    import optuna

_UNJUDGED_TRIALS = 4
"""Number of trials that must be finished before a trial is given up for being worse than their median."""

_STORE = "trials.log"


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes
    ----------
    number, state
        Its number, from 0, and its state: complete, pruned (given up) or fail.
    drawn
        The values that were drawn, by their keys in the schema.
    validation_r2
        The last validation R²; None if there was none.
    steps, core_seconds
        Steps that were planned, and processor time that was used.
    """

    number: int
    state: str
    drawn: dict[str, Any]
    validation_r2: float | None
    steps: int
    core_seconds: float


@dataclass(frozen=True)
class Judged:
    """The validation R² of one schema, trained from several seeds."""

    r2: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.r2))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds (n − 1); NaN for a single seed."""
        return float(np.std(self.r2, ddof=1)) if len(self.r2) > 1 else float("nan")


@dataclass(frozen=True)
class Search:
    """The result of a search.

    Attributes
    ----------
    trials
        The trials, in order.
    best
        Number of the best trial.
    default, found
        Validation R² of the base of the study, and of the settings of the best trial, each trained again from
        other seeds for the time of a trial.
    core_minutes
        Processor time of all trials.
    """

    trials: tuple[Trial, ...]
    best: int
    default: Judged
    found: Judged
    core_minutes: float

    @property
    def gain(self) -> float:
        """Mean validation R² with the settings found, minus that of the default."""
        return self.found.mean - self.default.mean

    @property
    def spread(self) -> float:
        """The larger of the two spreads over seeds."""
        return max(self.default.spread, self.found.spread)

    @property
    def verdict(self) -> str:
        """A sentence that says whether the gain is larger than the spread over seeds."""
        seeds = len(self.found.r2)
        of_both = (
            f"validation R² {mean_and_spread(self.found.r2, 4)} with the settings found, "
            f"{mean_and_spread(self.default.r2, 4)} with the defaults, "
            f"{seeds} {'seed' if seeds == 1 else 'seeds'} each"
        )
        if np.isnan(self.spread):
            chance = "one seed does not say whether it is chance: keep the defaults, or give more seeds"
            return f"{of_both}: a gain of {self.gain:.4f}; {chance}"
        if self.gain > self.spread:
            return f"{of_both}: better by {self.gain:.4f}, more than the spread over seeds"
        return f"{of_both}: no better than the spread over seeds; keep the defaults"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values: the content of search.json."""
        return {**asdict(self), "gain": self.gain, "spread": self.spread, "verdict": self.verdict}


def search(
    study: str | Path,
    simulations: Sequence[xr.Dataset],
    out: str | Path,
    *,
    core_minutes: float | None = None,
    trials: int | None = None,
    seeds: int = 3,
    resume: bool = False,
    say: Callable[[str], None] = lambda _: None,
    progress: StepProgress | None = None,
) -> Search:
    """Try settings, and compare the best of them with the defaults.

    Optuna's tree-structured Parzen estimator draws the settings (Bergstra et al. 2011). A trial is given up
    if its R² at a validation is below the median of the earlier trials at the same validation.

    Parameters
    ----------
    study
        A TOML file, or a name of `reion.studies.ranges.searches()`: see `SearchStudy`.
    simulations
        Simulations to train on.
    out
        A folder for best.toml, the schema with the settings found; study.toml, for `reion compare`, with the
        defaults and the settings found; search.json; trials.png; and trials.log, which Optuna can read.
    core_minutes, trials
        Replace those of the study.
    seeds
        Number of other seeds from which the defaults and the best settings are trained again.
    resume
        Keep the trials in `out`, which must be of the same study, budget and data; an interrupted trial is
        repeated.
    say, progress
        Called with a line for each trial, and after every step.

    Raises
    ------
    InputError
        If the study is not valid, `out` is occupied and `resume` is not given, the content of `out` is of
        another study, budget or data, or no trial was completed.
    """
    import optuna

    out = Path(out)
    given = {"core_minutes": core_minutes, "trials": trials}
    plan = load_search(study).model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    require_new(out, _STORE, resume=resume)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with alone_at(out), scratch_folder(out) as cache:
        _check_same(out, plan, simulations)
        running = _Running(plan, simulations, cache, progress)
        optuna_study = _open(out / _STORE)
        for abandoned in optuna_study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            optuna_study.tell(abandoned.number, state=optuna.trial.TrialState.FAIL)
            optuna_study.enqueue_trial(abandoned.params)
        _try(optuna_study, running, say)
        done = tuple(_read(trial, plan) for trial in optuna_study.get_trials(deepcopy=False))
        judged = [trial for trial in done if trial.state == "complete" and trial.validation_r2 is not None]
        if not judged:
            raise InputError(f"none of {len(done)} trials came to an end", file=out)
        best = max(judged, key=lambda trial: trial.validation_r2 or 0.0)
        say(f"trial {best.number} was the best: training it and the defaults from {seeds} other seeds")
        result = Search(
            done,
            best.number,
            default=running.judge({}, seeds),
            found=running.judge(best.drawn, seeds),
            core_minutes=sum(trial.core_seconds for trial in done) / 60,
        )
        _write(out, result, plan, best)
    return result


def _try(optuna_study: optuna.Study, running: _Running, say: Callable[[str], None]) -> None:
    """Run trials until there are enough, or their processor time is used up."""
    import optuna

    plan, states = running.plan, optuna.trial.TrialState
    finished = (states.COMPLETE, states.PRUNED)
    while True:
        before = optuna_study.get_trials(deepcopy=False)
        taken = sum(trial.user_attrs.get("core_seconds", 0.0) for trial in before)
        count = sum(trial.state in finished for trial in before)
        if count >= plan.trials:
            return
        if taken >= 60 * plan.core_minutes:
            spent = f"the {plan.core_minutes:g} minutes of one core are spent"
            say(f"{spent} after {count} of {plan.trials} trials")
            return
        # A new sampler for each trial: its draws depend on the seed and the number of earlier trials only.
        optuna_study.sampler = optuna.samplers.TPESampler(
            seed=len(before), n_startup_trials=_UNJUDGED_TRIALS + 1
        )
        trial = optuna_study.ask()
        started = time.process_time()
        drawn = {key: span.draw(trial, key) for key, span in plan.ranges.items()}
        r2, pruned = running.train(drawn, trial)
        trial.set_user_attr("core_seconds", time.process_time() - started)
        trial.set_user_attr("validation_r2", r2)
        if r2 is None:
            optuna_study.tell(trial, state=states.FAIL)
        elif pruned:
            optuna_study.tell(trial, state=states.PRUNED)
        else:
            optuna_study.tell(trial, r2)
        how = "failed" if r2 is None else f"{'given up at' if pruned else 'R²'} {r2:.4f}"
        say(f"trial {trial.number}, {count + 1} of {plan.trials}: {how}")


class _Running:
    """Trains trials of a study on the same simulations."""

    def __init__(
        self,
        plan: SearchStudy,
        simulations: Sequence[xr.Dataset],
        cache: Path,
        progress: StepProgress | None,
    ) -> None:
        self.plan = plan
        self._simulations = simulations
        self._cache = cache
        self._progress = progress

    def train(
        self, drawn: Mapping[str, Any], trial: optuna.Trial | None = None, *, later_seed: int = 0
    ) -> tuple[float | None, bool]:
        """Train with these settings; return validation R² (None if undefined) and whether it was given up."""
        begun = time.process_time()
        seconds = core_seconds_per_step(
            self._simulations, with_photons(self.plan.config(drawn, 1), self._simulations)
        )
        # Preparing and compiling also counts: once for the timing, and once more for the trial itself.
        preparing = 2 * (time.process_time() - begun)
        share = 60 * self.plan.core_minutes / self.plan.trials
        steps = max(FEWEST_STEPS, round((share - preparing) / seconds))
        config = with_photons(self.plan.config(drawn, steps), self._simulations)
        config = config.model_copy(update={"seed": config.seed + later_seed})
        if trial is not None:
            trial.set_user_attr("steps", steps)
        loop = Loop.prepare(self._simulations, config, self._cache, progress=self._progress)
        r2: float | None = None
        try:
            for number, finished in enumerate(loop.rounds(), start=1):
                if np.isfinite(finished.validation_r2):
                    r2 = finished.validation_r2
                    if trial is not None and number < ROUNDS:
                        trial.report(r2, number)
                        if trial.should_prune():
                            return r2, True
        except NotFiniteError:
            return None, False
        return r2, False

    def judge(self, drawn: Mapping[str, Any], seeds: int) -> Judged:
        """Train with these settings from `seeds` seeds that the trials did not use."""
        found = [self.train(drawn, later_seed=seed)[0] for seed in range(1, seeds + 1)]
        return Judged(tuple(r2 for r2 in found if r2 is not None))


def _open(path: Path) -> optuna.Study:
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.create_study(
        study_name="reion",
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNJUDGED_TRIALS, n_warmup_steps=1),
    )


@dataclass(frozen=True, kw_only=True)
class _SearchData:
    """The content of boxes.json: the simulations that the trials are trained on."""

    data: list[TrainingBox]


def _check_same(out: Path, plan: SearchStudy, simulations: Sequence[xr.Dataset]) -> None:
    """Write the study and the data of a search beside its trials; refuse to resume another search."""
    study, data, hint = out / "search.toml", out / "boxes.json", "give another --out"
    text = tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True))
    boxes = [describe(sim) for sim in simulations]
    if study.is_file():
        before, now = tomllib.loads(study.read_text(encoding="utf-8")), tomllib.loads(text)
        differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if differing:
            raise InputError(
                f"the search was started with another study: other {', '.join(differing)}",
                file=study,
                hint=hint,
            )
    if data.is_file():
        if changed := changes(read_record(data, _SearchData).data, boxes):
            raise InputError(
                f"the search was started with other simulations: {', '.join(changed)}", file=data, hint=hint
            )
    else:
        write_json(data, asdict(_SearchData(data=boxes)))
    if not study.is_file():
        write_whole(study, text)


def _read(trial: optuna.trial.FrozenTrial, plan: SearchStudy) -> Trial:
    drawn = {}
    for key, value in trial.params.items():
        choices = plan.ranges[key].choices
        drawn[key] = value if choices is None else choices[[repr(item) for item in choices].index(value)]
    return Trial(
        number=trial.number,
        state=trial.state.name.lower(),
        drawn=drawn,
        validation_r2=trial.user_attrs.get("validation_r2"),
        steps=trial.user_attrs.get("steps", 0),
        core_seconds=trial.user_attrs.get("core_seconds", 0.0),
    )


def _write(out: Path, result: Search, plan: SearchStudy, best: Trial) -> None:
    from reion.jobs.figures import own_settings
    from reion.studies.search_plots import plot

    with whole_file(out / "best.toml") as partial:
        write_config(plan.config(best.drawn, best.steps), partial)
    runs = {"default": plan.settings({}), "found": plan.settings(best.drawn)}
    minutes = plan.core_minutes / plan.trials
    write_whole(out / "study.toml", tomli_w.dumps({"core_minutes": minutes, "runs": runs}))
    with own_settings(), whole_file(out / "trials.png") as partial:
        plot(result.trials, plan.ranges, result.default).savefig(partial, dpi=150, format="png")
    write_json(out / "search.json", result.to_json())
