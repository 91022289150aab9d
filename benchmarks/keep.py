"""Keep what `reion bench --json` printed.

`reion bench predict --json | python benchmarks/keep.py --machine NAME`
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

import reion
from reion.jobs.resources import cores


def processor() -> str:
    """The name that the system gives its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def kept(earlier: dict[str, Any], printed: dict[str, Any]) -> dict[str, Any]:
    """The results of an earlier file with those that were printed added or put in their place."""
    results = {item["name"]: item for item in [*earlier.get("results", []), *printed["results"]]}
    return {
        "version": reion.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(),
        "cores": len(cores()),
        "results": [results[name] for name in sorted(results)],
    }


def main() -> None:
    """Read the results from the standard input and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machine", required=True, help="its name, a part of the file's name")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    path = options.folder / f"{reion.__version__}-{options.machine}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(kept(earlier, json.load(sys.stdin)), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
