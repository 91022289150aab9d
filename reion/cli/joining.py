"""Opens an ionised fraction and the gas that it belongs to, which the command line names separately."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reion.cli.options import parse_settings

if TYPE_CHECKING:
    import xarray as xr

    from reion.readers.tree import Tree


def joined(
    xi: Path,
    xi_format: str | None,
    xi_settings: Sequence[str] | None,
    sources: Sequence[Path] | None,
    format_: str | None,
    settings: Sequence[str] | None,
) -> xr.Dataset:
    """The Simulation of `sources` with the ionised fraction at `xi`; without sources, the one at `xi`."""
    from reion.readers import open_simulation
    from reion.simulation.contract import require_fields
    from reion.simulation.joining import with_xi

    facts: Mapping[str, Any] = parse_settings(xi_settings)
    own = open_simulation(xi, format=xi_format, settings=facts)
    if not sources:
        require_fields(own, ["xi"], purpose="this command", file=str(xi))
        return own
    sim = open_simulation(sources, format=format_, settings=parse_settings(settings))
    return with_xi(sim, own, file=str(xi))


def opened(sources: Sequence[Path], format_: str | None, settings: Sequence[str] | None) -> xr.Dataset:
    """The Simulation of `sources`. If the first holds xi, it is joined to the gas of the others.

    Files and stores that form one series, such as `box_z9.zarr box_z8.zarr`, are opened as that series.
    """
    from reion.readers import open_simulation
    from reion.simulation.joining import with_xi

    first, *others = sources
    facts = parse_settings(settings)
    if not _holds_xi_of(first, others):
        return open_simulation(sources, format=format_, settings=facts)
    own = open_simulation(first, settings=_facts_lacking(first, facts))
    sim = open_simulation(others, format=format_, settings=facts)
    both = with_xi(sim, own, file=str(first))
    if both.sizes["redshift"] < sim.sizes["redshift"] and "n_src" in sim and "n_ion" not in sim:
        left_out = sorted(set(sim["redshift"].values) - set(both["redshift"].values), reverse=True)
        warnings.warn(
            f"{first} has no xi at z = {', '.join(f'{z:g}' for z in left_out)}: photons of the sources there "
            "are not counted; `reion convert` stores the photons emitted so far, which are counted whole",
            stacklevel=2,
        )
    return both


def _holds_xi_of(first: Path, others: Sequence[Path]) -> bool:
    """Whether `first` holds the xi for the gas in `others`, and is not of one series with them.

    It is a store or a file as `reion predict` writes them. A file with a redshift in its name that holds gas
    besides is a snapshot of a simulation.
    """
    from reion.readers.filenames import label_of, redshift_of

    tree = _tree_of(first) if others else None
    if tree is None or tree.shape("xi") is None:
        return False
    redshift = redshift_of(first)
    if redshift is None:
        return True
    series = any(
        label_of(other) == label_of(first) and redshift_of(other) not in (None, redshift) for other in others
    )
    return not series and (first.is_dir() or tree.shape("n_igm") is None)


def _tree_of(source: Path) -> Tree | None:
    """The arrays in a store or a file with one of the endings that `reion predict` writes; None in others."""
    from reion.readers import npz
    from reion.readers.filenames import ending_of
    from reion.readers.hdf5 import Hdf5Tree
    from reion.readers.zarr import ZarrTree, is_store

    if is_store(source):
        return ZarrTree(source)
    if npz.claim([source]):
        return npz.NpzTree(source)
    is_hdf5 = source.is_file() and ending_of(source.name) in (".h5", ".hdf5", ".nc")
    return Hdf5Tree(source) if is_hdf5 else None


def _facts_lacking(source: Path, facts: Mapping[str, str]) -> Mapping[str, str]:
    """The facts that a source of xi needs: none, unless another program wrote it without its box size."""
    tree = _tree_of(source)
    if tree is None or tree.attribute("box_size") is not None or tree.shape("box_size") is not None:
        return {}
    return {key: facts[key] for key in ("box_size", "xi_unit") if key in facts}
