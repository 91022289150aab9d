"""Draw the wings of the code from the code itself: `python docs/drawings/architecture.py`, in the root.

Every box is a wing, with what the docstring of its folder says. A wing imports from the bands below its own
and from no other (`tests/test_imports.py` states the floors and holds the code to them). The numbers are the
way of the data.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.test_imports import FLOORS, MODULES  # noqa: E402

WAY_OF_DATA = (
    "readers",
    "simulation",
    "storage",
    "models",
    "training",
    "reion_exports",
    "prediction",
    "evaluation",
)
"""Where the data passes through, in this order."""

NO_WING = {"__main__", "reion"}
GROUND = ("reion_exports", "reion_kernels")
WIDTH, HEIGHT, STEP = 3.1, 0.84, 1.04
INK, BAND, WAY = "#222222", ("#f4f1ea", "#fbfaf7"), "#0072b2"


def purpose(name: str) -> str:
    """The first sentence of a wing's docstring."""
    path = MODULES.get(f"reion.{name}") or MODULES[name]
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("`", "").rstrip(".")


def draw(path: Path) -> None:
    """Draw the house into an image file."""
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "reion"
    rows = [GROUND, *[sorted(names - NO_WING) for names in FLOORS]]
    rows = [row for row in rows if row]
    widest = max(map(len, rows)) * (WIDTH + 0.2)
    figure = Figure(figsize=(0.86 * widest, 0.86 * STEP * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        middle = height * STEP
        axes.add_patch(Rectangle((-widest / 2, middle - STEP / 2), widest, STEP, facecolor=BAND[height % 2]))
        for column, name in enumerate(row):
            _draw_box(axes, name, (column - (len(row) - 1) / 2) * (WIDTH + 0.2), middle)
    axes.set_xlim(-widest / 2, widest / 2)
    axes.set_ylim(-STEP / 2, (len(rows) - 0.5) * STEP)
    axes.set_axis_off()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_box(axes: matplotlib.axes.Axes, name: str, x: float, y: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2),
            WIDTH,
            HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.08",
            facecolor="#ffffff",
            edgecolor=WAY if name in WAY_OF_DATA else INK,
            linewidth=1.8 if name in WAY_OF_DATA else 0.8,
        )
    )
    axes.text(x, y + 0.22, name, ha="center", va="center", weight="bold", size=10, color=INK)
    words = textwrap.fill(textwrap.shorten(purpose(name), 92, placeholder=" …"), 46)
    axes.text(x, y - 0.14, words, ha="center", va="center", size=7, color=INK)
    if name in WAY_OF_DATA:
        number = WAY_OF_DATA.index(name) + 1
        circle = {"boxstyle": "circle,pad=0.25", "facecolor": WAY, "edgecolor": "none"}
        axes.text(
            x - WIDTH / 2 + 0.24,
            y + 0.2,
            str(number),
            ha="center",
            va="center",
            size=8,
            color="white",
            bbox=circle,
        )


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "architecture.svg")
