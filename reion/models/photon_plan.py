"""The stem of a network as a plan for `reion_kernels.photon_channels`, which is many times faster.

Nothing here needs Keras, so that prediction can use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from reion.models.transport import (
    FLOOR_PER_ATOM,
    NEAR_CELLS,
    REFERENCE_DENSITY,
    Transport,
    output_steps,
)
from reion.networks import BalanceSettings, PhotonSettings, TransportSettings
from reion.simulation.contract import hydrogen_per_density

if TYPE_CHECKING:
    from reion_kernels.photon_channels import PhotonPlan

SHINING_TIME = 1e-2
"""Photons, in 1e66, from a source of 1e48 s-1 that shines for 1e16 s, about the cosmic age at z = 12."""
SHINING_TIMES = (0.1, 0.3, 0.8)
"""Times, in 1e16 s, for which the sources of one snapshot may have shone to ionise its bubbles.

In the packaged sample, the photons emitted so far divided by the present photon rate grow through this range
from z = 11 to z = 6.
"""


Settings = TypeVar("Settings", bound=PhotonSettings)

_STEMS: Mapping[str, type[BalanceSettings | TransportSettings]] = {
    "reion": BalanceSettings,
    "transport": TransportSettings,
}
"""The networks of reion whose stem compares photons with atoms, and the settings of that stem."""


def photon_settings(stored: Mapping[str, Any]) -> PhotonSettings | None:
    """The settings of the stem, taken from the settings of a network that a run or a model file stores.

    None if the network has no stem of reion that compares photons with atoms. The network is not built.

    Raises
    ------
    KeyError
        If a setting is missing.
    ValidationError
        If a setting has an invalid value.
    """
    kind = _STEMS.get(stored["name"])
    if kind is None:
        return None
    return stem_settings(kind, stored)


def stem_settings(kind: type[Settings], stored: Mapping[str, Any]) -> Settings:
    """The settings of a stem of this kind, taken from the stored settings of a network.

    Raises
    ------
    KeyError, ValidationError
        As `photon_settings` does.
    """
    return kind.model_validate({name: stored[name] for name in kind.model_fields if name != "name"})


def photon_plan(
    settings: PhotonSettings, photon_field: str, *, cell_size_mpc: float, max_mfp: float | None = None
) -> PhotonPlan:
    """The plan of a stem that compares photons with atoms.

    Parameters
    ----------
    settings
        The settings of the stem, as `reion.networks` describes them.
    photon_field
        `n_ion` or `n_src`.
    cell_size_mpc
        Comoving side of a cell, for a stem that works in Mpc.
    max_mfp
        Reach of the photons, Mpc, for a stem that takes it; None leaves out what depends on it.

    Raises
    ------
    TypeError
        For settings of another kind.
    """
    match settings:
        case TransportSettings():
            return plan_of_transport(Transport.of_settings(settings, cell_size_mpc), max_mfp)
        case BalanceSettings():
            photons = 1.0 if settings.photons_per_source is None else settings.photons_per_source
            widths = settings.smoothing_cells, settings.diffusion_cells
            return plan_of_balance(photon_field, *widths, photons)
    raise TypeError(f"expected the settings of photon_balance or photon_transport; received {settings!r}")


def plan_of_balance(
    photon_field: str,
    smoothing_cells: Sequence[int],
    diffusion_cells: Sequence[int],
    photons_per_source: float,
) -> PhotonPlan:
    """The plan that computes the channels of `reion.models.stems.PhotonBalance` with these arguments."""
    from reion_kernels.photon_channels import BoxMean, PhotonPlan

    history = photon_field == "n_ion"
    atoms_per_density = hydrogen_per_density()
    return PhotonPlan(
        atoms_per_density=atoms_per_density,
        photons_per_unit=photons_per_source * (1.0 if history else SHINING_TIME),
        floor=FLOOR_PER_ATOM * atoms_per_density * REFERENCE_DENSITY,
        smoothing=tuple(BoxMean(width // 2, 1.0) for width in smoothing_cells),
        diffusion=tuple(BoxMean(width // 2, 1.0) for width in diffusion_cells),
        output_steps=output_steps(len(diffusion_cells)),
        times=(1.0,) if history else SHINING_TIMES,
    )


def plan_of_transport(transport: Transport, max_mfp: float | None) -> PhotonPlan:
    """The plan that computes the channels of `Transport`."""
    from reion_kernels.photon_channels import BoxMean, PhotonPlan, PhotonReach

    reach = transport.farthest_mpc if max_mfp is None else max_mfp
    atoms_per_density = hydrogen_per_density()
    return PhotonPlan(
        atoms_per_density=atoms_per_density,
        photons_per_unit=transport.photons_per_source,
        floor=FLOOR_PER_ATOM * atoms_per_density * REFERENCE_DENSITY,
        smoothing=tuple(BoxMean(kernel.half, kernel.end) for kernel in transport.smoothing),
        diffusion=tuple(BoxMean(kernel.half, kernel.end) for kernel in transport.diffusion),
        output_steps=transport.output_steps,
        reach=PhotonReach(
            cells=reach / transport.cell_size_mpc,
            farthest_cells=transport.farthest_cells,
            near_cells=NEAR_CELLS,
            shares=transport.shares(reach),
            surviving=transport.surviving(reach),
        ),
    )
