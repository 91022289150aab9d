"""The numbers of an evaluation as CSV files, for anyone's plotting program."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reion.evaluation.result import Evaluation

GROUPS = (
    "spectrum",
    "bubble_sizes",
    "granulometry",
    "reliability",
    "error_by_density",
    "spread_calibration",
)
"""Curves of a snapshot, each a file of its own; the single numbers are in scores.csv."""


def write_csv(evaluation: Evaluation, folder: Path) -> None:
    """Write scores.csv and a file for each of `GROUPS` into `folder`.

    Columns: method, redshift (or `pooled`), then what the file holds, named as in the JSON of the evaluation.
    Undefined values are empty. The last of `GROUPS` is there where a prediction says how far it is off.
    """
    rows = [
        ({"method": method.label, "redshift": values.get("redshift", "pooled")}, values)
        for method in evaluation.methods
        for values in (
            *(snapshot.to_json() for snapshot in method.scores.snapshots),
            method.scores.pooled.to_json(),
        )
    ]
    _write(folder / "scores.csv", [{**key, **dict(_scores(values))} for key, values in rows])
    for group in GROUPS:
        points = [{**key, **point} for key, values in rows for point in points_of(values.get(group))]
        if points or group != "spread_calibration":
            _write(folder / f"{group}.csv", points)


def _scores(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Column and number of every single number of a row of JSON; a list or object makes several columns."""
    for key, value in row.items():
        if key in GROUPS or key == "redshift":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}_{part}", number) for part, number in value.items())
        elif isinstance(value, list):
            yield from ((f"{key}_{part}", number) for part, number in enumerate(value))
        else:
            yield key, value


def points_of(curves: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The curves of one group, point by point; what is not a curve is left out."""
    lists = {name: values for name, values in (curves or {}).items() if isinstance(values, list)}
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
