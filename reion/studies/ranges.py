"""The study of a search: the settings that all trials share, the ranges of the others, and the budget."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field, model_validator

from reion.config import RunConfig, load_config
from reion.errors import InputError, did_you_mean
from reion.schema import Schema, load_schema
from reion.studies.study import round_steps


class Draws(Protocol):
    """The methods of an Optuna trial that choose its values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from a range."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number from a range."""

    def suggest_categorical(self, name: str, choices: list[str]) -> Any:
        """One of several choices."""


class Range(Schema):
    """The values of a setting: from `low` to `high`, with `log` uniformly in the logarithm; or `choices`."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Range:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("expected low and high, or choices")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"expected low below high; received {self.low} and {self.high}")
        if self.log and not (self.low and self.low > 0):
            raise ValueError("log needs low above 0")
        if self.choices is not None and len(self.choices) < 2:
            raise ValueError("expected two choices or more")
        return self

    def draw(self, trial: Draws, key: str) -> Any:
        """Draw the value of the setting `key` for a trial."""
        if self.choices is not None:
            # Optuna compares choices, and cannot store lists.
            texts = [repr(choice) for choice in self.choices]
            return self.choices[texts.index(trial.suggest_categorical(key, texts))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        assert self.low is not None  # noqa: S101 (checked above; for the types)
        assert self.high is not None  # noqa: S101
        return trial.suggest_float(key, self.low, self.high, log=self.log)


class SearchStudy(Schema):
    """The study of a search, as its TOML file holds it.

    Attributes
    ----------
    core_minutes
        Processor time of all trials together, summed over cores; each trial may take an equal share.
    trials
        Number of trials.
    base
        Settings that every trial changes in the schema of a run.
    ranges
        The range of each setting that is searched, by its key in the schema, such as training.learning_rate.
    """

    core_minutes: Annotated[float, Field(gt=0)] = 20.0
    trials: Annotated[int, Field(ge=2)] = 20
    base: dict[str, Any] = Field(default_factory=dict)
    ranges: Annotated[dict[str, Range], Field(min_length=1)]

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that a trial with these values changes in the schema of a run."""
        values = _copy(self.base)
        for key, value in drawn.items():
            *parents, name = key.split(".")
            place = values
            for parent in parents:
                place = place.setdefault(parent, {})
            place[name] = value
        return values

    def config(self, drawn: Mapping[str, Any], steps: int) -> RunConfig:
        """The schema of a trial of `steps` steps, with five validations.

        Raises
        ------
        InputError
            If the schema is not valid.
        """
        values = self.settings(drawn)
        training = {**values.get("training", {}), "steps": steps, "round_steps": round_steps(steps)}
        return load_config(base={**values, "training": training})


def searches() -> tuple[str, ...]:
    """Names of the searches that come with reion."""
    folder = resources.files("reion") / "studies" / "searches"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir()))


def load_search(study: str | Path) -> SearchStudy:
    """Read a search: a TOML file or a name of `searches()`.

    Raises
    ------
    InputError
        If there is no such search, or it is not valid; the lowest and highest value of every range, or all of
        its choices, are tried in the schema.
    """
    if str(study) in searches():
        own = resources.files("reion") / "studies" / "searches" / f"{study}.toml"
        found = load_schema(SearchStudy, base=tomllib.loads(own.read_text(encoding="utf-8")))
    elif Path(study).expanduser().is_file():
        found = load_schema(SearchStudy, Path(study).expanduser())
    else:
        raise InputError(
            f"expected a TOML file or the name of a search ({', '.join(searches())})"
            + did_you_mean(study, searches()),
            file=study,
        )
    for key, span in found.ranges.items():
        ends = (span.low, span.high) if span.choices is None else span.choices
        for value in ends:
            try:
                found.config({key: value}, steps=1)
            except InputError as error:
                error.message = f"ranges.{key}={value!r}: {error.message}"
                raise
    return found


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, Mapping) else item for key, item in values.items()}
