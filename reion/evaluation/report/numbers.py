"""The numbers of an evaluation as CSV files."""

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
"""Groups of curves, each in a file of its own; the single numbers are in scores.csv."""


def write_csv(evaluation: Evaluation, folder: Path) -> None:
    """Write scores.csv and a file for each of `GROUPS` into `folder`.

    The columns are method, redshift (or `pooled`), then the values, named as in the JSON of the evaluation.
    Undefined values are empty. The file of the last of `GROUPS` is written if a prediction has xi_std.
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
    """Yield column and value of every single number in a JSON row; a list or object gives several columns."""
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
    """Yield the points of the curves of one group; entries that are no curves are left out."""
    lists = {name: values for name, values in (curves or {}).items() if isinstance(values, list)}
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
