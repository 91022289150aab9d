"""The numbers of an evaluation as CSV files, one row a value, for anyone's plotting program."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GROUPS = ("spectrum", "bubble_sizes", "granulometry", "reliability", "error_by_density")
"""Curves of a snapshot, each a file of its own; the single numbers are in scores.csv."""


def write_csv(evaluation: Mapping[str, Any], folder: Path) -> None:
    """Write scores.csv and a file for each of `GROUPS` into `folder`.

    Columns: method, redshift (or `pooled`), then what the file holds. Undefined values are empty.
    """
    named = {
        str(evaluation["name"]): evaluation,
        "excursion set": evaluation["baselines"]["excursion_set"],
        "mean field": evaluation["baselines"]["mean_field"],
        **evaluation["against"],
    }
    rows = [
        (name, row.get("redshift", "pooled"), row)
        for name, method in named.items()
        for row in (*method["redshifts"], *([method["pooled"]] if method["pooled"] else []))
    ]
    _write(folder / "scores.csv", [{"method": m, "redshift": z, **dict(_scores(row))} for m, z, row in rows])
    for group in GROUPS:
        points = [
            {"method": method, "redshift": z, **point}
            for method, z, row in rows
            for point in _points(row.get(group))
        ]
        _write(folder / f"{group}.csv", points)


def _scores(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if key in GROUPS or key == "redshift":
            continue
        if isinstance(value, Mapping):
            yield from ((f"{key}_{part}", number) for part, number in value.items())
        elif isinstance(value, list):
            yield from ((f"{key}_{part}", number) for part, number in enumerate(value))
        else:
            yield key, value


def _points(curves: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """The curves of one snapshot, point by point."""
    lists = {name: values for name, values in (curves or {}).items() if isinstance(values, list)}
    for values in zip(*lists.values(), strict=True):
        yield dict(zip(lists, values, strict=True))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
