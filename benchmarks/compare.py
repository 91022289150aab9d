"""Compare two files of this folder: `compare.py BEFORE.json AFTER.json`; exit 1 where a ratio fell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def fallen(before: Mapping[str, Any], after: Mapping[str, Any], allow: float) -> bool:
    """Whether a ratio is below the smallest that was measured before by more than the part `allow` of it."""
    return bool(after["ratio"] < before["spread"][0] * (1 - allow))


def main() -> None:
    """Print what both files have, and exit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--allow", type=float, default=0.15, help="the part by which a ratio may fall")
    options = parser.parse_args()
    before, after = (json.loads(path.read_text(encoding="utf-8")) for path in (options.before, options.after))
    if before["processor"] != after["processor"] or before["cores"] != after["cores"]:
        sys.stderr.write("these files are of two kinds of machine; their ratios may differ for that alone\n")
    earlier = {item["name"]: item for item in before["results"]}
    failed = 0
    for item in after["results"]:
        if item["name"] not in earlier:
            continue
        other = earlier[item["name"]]
        fell = fallen(other, item, options.allow)
        failed += fell
        change = item["ratio"] / other["ratio"]
        figures = f"{other['ratio']:8.2f} {item['ratio']:8.2f} {change:6.2f}x"
        sys.stdout.write(f"{item['name']:60s} {figures}{'  FELL' if fell else ''}\n")
    gone = sorted(set(earlier) - {item["name"] for item in after["results"]})
    if gone:
        sys.stdout.write(f"not measured again: {', '.join(gone)}\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
