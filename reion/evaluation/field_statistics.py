"""Statistics of one field of xi, without a truth: mean, power spectra, bubble sizes and topology."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from reion.metrics.bubbles import (
    BubbleSizes,
    bubble_sizes,
    geometric_centres,
    granulometry,
    granulometry_radii_mpc,
    size_edges_mpc,
)
from reion.metrics.fields import Curve, Field, Transform
from reion.metrics.history import mass_mean, volume_mean
from reion.metrics.spectra import Modes, coefficient, dimensionless_factor
from reion.metrics.topology import betti_numbers, euler_characteristic, largest_cluster_fraction
from reion.metrics.twenty_one_cm import brightness_temperature
from reion.simulation.contract import check_values, cosmology

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM


@dataclass(frozen=True)
class Bins:
    """The abscissas of the curves of a box, the same for all its snapshots and fields.

    Parameters
    ----------
    k, modes
        Mean wavenumber in Mpc-1 and number of modes of each shell, shape (shells,).
    bubble_radius_mpc
        Centres of the bins of the size distribution, shape (bins,).
    ball_radius_mpc
        Radii of the balls of the granulometry, shape (radii,).
    """

    k: Curve
    modes: Curve
    bubble_radius_mpc: Curve
    ball_radius_mpc: Curve

    @classmethod
    def of(cls, modes: Modes) -> Bins:
        """The bins of the box with these Fourier modes."""
        edges = size_edges_mpc(modes.shape, modes.box_size_mpc)
        return cls(
            k=modes.shell_k,
            modes=modes.shell_modes,
            bubble_radius_mpc=geometric_centres(edges),
            ball_radius_mpc=granulometry_radii_mpc(modes.shape, modes.box_size_mpc),
        )


@dataclass(frozen=True)
class Gas:
    """The gas of one snapshot, to which the fields of xi belong.

    Parameters
    ----------
    density, density_transform
        n_igm over its mean, shape (x, y, z), and its Fourier transform; None if the simulation has no n_igm
        or its mean is zero.
    spin_temperature_k
        Spin temperature of the 21-cm line in K, shape (x, y, z); None if the simulation has no `t_spin`.
    """

    redshift: float
    modes: Modes
    cosmology: FlatLambdaCDM
    density: Field | None
    density_transform: Transform | None
    spin_temperature_k: Field | None = None

    @classmethod
    def read(cls, sim: xr.Dataset, index: int, modes: Modes) -> Gas:
        """Read snapshot `index` of a Simulation.

        Raises
        ------
        InputError
            If a value of n_igm or t_spin is not finite or out of range.
        """
        redshift = float(sim["redshift"][index])
        density = None
        if "n_igm" in sim.data_vars:
            n_igm = sim["n_igm"][index].values
            check_values("n_igm", n_igm, redshift=redshift, file="truth")
            mean = float(n_igm.mean(dtype=np.float64))
            density = n_igm / mean if mean > 0 else None
        spin = None
        if "t_spin" in sim.data_vars:
            spin = sim["t_spin"][index].values
            check_values("t_spin", spin, redshift=redshift, file="truth")
        return cls(
            redshift=redshift,
            modes=modes,
            cosmology=cosmology(sim),
            density=density,
            density_transform=None if density is None else modes.transform(density),
            spin_temperature_k=spin,
        )


@dataclass(frozen=True)
class Spectrum:
    """Spectra of a field of xi in shells of k, shape (shells,).

    Parameters
    ----------
    power
        Dimensionless power of xi, k^3 P / (2 pi^2); None if xi is featureless.
    density_correlation
        Cross-correlation coefficient of xi with the density, NaN where not defined; None without density, or
        if xi is featureless.
    brightness_power
        Power of the 21-cm signal, k^3 P / (2 pi^2), in mK^2; None without density.
    """

    power: Curve | None
    density_correlation: Curve | None
    brightness_power: Curve | None

    @classmethod
    def of(cls, xi: Field, transform: Transform, gas: Gas) -> Spectrum:
        """Measure a field whose Fourier transform is `transform`."""
        modes = gas.modes
        power = modes.power(transform)
        density_correlation = None
        if gas.density_transform is not None:
            cross_power = modes.power(transform, gas.density_transform)
            density_correlation = coefficient(cross_power, power, modes.power(gas.density_transform))
        factor = dimensionless_factor(modes.shell_k)
        return cls(factor * power, density_correlation, _brightness_power(xi, gas))

    @classmethod
    def of_featureless(cls, xi: Field, gas: Gas) -> Spectrum:
        """Measure only the 21-cm signal, which has the structure of the density where xi has none."""
        return cls(None, None, _brightness_power(xi, gas))


def _brightness_power(xi: Field, gas: Gas) -> Curve | None:
    if gas.density is None:
        return None
    modes = gas.modes
    signal = brightness_temperature(
        xi, gas.density - 1, gas.redshift, gas.cosmology, spin_temperature_k=gas.spin_temperature_k
    )
    power: Curve = dimensionless_factor(modes.shell_k) * modes.power(modes.transform(signal))
    return power


@dataclass(frozen=True)
class FieldStatistics:
    """Statistics of one field of xi.

    Parameters
    ----------
    mass_weighted_xi
        Mean xi by mass; None without density.
    bubble_sizes
        Distribution of the bubble sizes; None if no cell is ionised, or every cell is.
    ball_fraction
        Fraction of the ionised volume that is covered by balls of `Bins.ball_radius_mpc` inside ionised gas,
        shape (radii,); None if no cell is ionised.
    largest_cluster
        Volume of the largest ionised region over all ionised volume; None if no cell is ionised.
    spectrum
        Spectra of the field; None if they were not asked for.
    """

    mean_xi: float
    mass_weighted_xi: float | None
    bubble_sizes: BubbleSizes | None
    ball_fraction: Curve | None
    largest_cluster: float | None
    euler_characteristic: int
    betti: tuple[int, int, int]
    spectrum: Spectrum | None

    @classmethod
    def of(cls, xi: Field, transform: Transform, gas: Gas, *, spectrum: bool = True) -> FieldStatistics:
        """Measure a field of shape (x, y, z) whose Fourier transform is `transform`.

        Raises
        ------
        InputError
            If the field and the gas differ in shape or a value is not finite.
        """
        balls = granulometry(xi, gas.modes.box_size_mpc)
        return cls(
            mean_xi=volume_mean(xi),
            mass_weighted_xi=None if gas.density is None else mass_mean(xi, gas.density),
            bubble_sizes=bubble_sizes(xi, gas.modes.box_size_mpc),
            ball_fraction=balls[1] if balls else None,
            largest_cluster=largest_cluster_fraction(xi),
            euler_characteristic=euler_characteristic(xi),
            betti=betti_numbers(xi),
            spectrum=Spectrum.of(xi, transform, gas) if spectrum else None,
        )

    @property
    def bubble_size_mpc(self) -> float | None:
        """Mean free path through the ionised regions; None if no cell is ionised, or every cell is."""
        return self.bubble_sizes.mean_mpc if self.bubble_sizes else None

    @property
    def history_xi(self) -> float:
        """Mean xi for the optical depth: by mass, or by volume if there is no density."""
        return self.mean_xi if self.mass_weighted_xi is None else self.mass_weighted_xi
