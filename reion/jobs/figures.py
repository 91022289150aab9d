"""Figures as reion draws them, whatever matplotlib is set to for other programs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Draw with matplotlib's own settings while the block runs.

    A matplotlibrc may ask for LaTeX or fonts that are not on this machine, and MPLBACKEND, which a notebook
    hands on to the commands it runs, for a screen.
    """
    with _no_screen() if "matplotlib" not in sys.modules else contextlib.nullcontext():
        import matplotlib as mpl
    with mpl.rc_context():
        mpl.rcdefaults()
        yield


@contextlib.contextmanager
def _no_screen() -> Iterator[None]:
    """Let matplotlib, which fails for a backend that it does not know, be imported in the block."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        del os.environ["MPLBACKEND"]
        if before is not None:
            os.environ["MPLBACKEND"] = before
