"""Draws reion's figures with the same matplotlib settings on every machine."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Use matplotlib's defaults while the block runs, and not the settings of the user.

    A matplotlibrc may ask for LaTeX or for fonts that this machine lacks. MPLBACKEND, which a notebook passes
    on to the commands that it runs, may ask for a screen.
    """
    with _no_screen() if "matplotlib" not in sys.modules else contextlib.nullcontext():
        import matplotlib as mpl
    with mpl.rc_context():
        mpl.rcdefaults()
        yield


@contextlib.contextmanager
def _no_screen() -> Iterator[None]:
    """Set MPLBACKEND to agg while the block imports matplotlib, which fails for an unknown backend."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        yield
    finally:
        del os.environ["MPLBACKEND"]
        if before is not None:
            os.environ["MPLBACKEND"] = before
