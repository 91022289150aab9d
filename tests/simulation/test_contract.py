"""The data contract, checked at the door."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM

from reion.errors import InputError
from reion.simulation.contract import (
    box_size_mpc,
    cell_size_mpc,
    check_simulation,
    cubic_cell_size_mpc,
    hydrogen_density,
    make_simulation,
    mean_baryon_density,
    require_fields,
)
from reion.simulation.photons import with_n_ion


def build(**fields):
    return make_simulation(fields, redshift=[9.0, 8.0], box_size=8.0)


def test_a_simulation_knows_its_box(simulation):
    assert box_size_mpc(simulation) == (24.0, 20.0, 16.0)
    assert cell_size_mpc(simulation) == (2.0, 2.0, 2.0)
    assert cubic_cell_size_mpc(simulation) == 2.0
    assert simulation["x"].values[0] == 1.0


def test_redshifts_are_put_into_the_order_of_time():
    xi = np.stack([np.full((4, 4, 4), 0.9), np.full((4, 4, 4), 0.1)]).astype(np.float32)
    sim = make_simulation({"xi": xi}, redshift=[6.0, 9.0], box_size=8.0)
    assert sim["redshift"].values.tolist() == [9.0, 6.0]
    assert sim["xi"].values[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.9])


def test_n_ion_is_the_time_integral_of_the_earlier_sources(simulation):
    n_ion = with_n_ion(simulation)["n_ion"]
    age = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897).age(simulation["redshift"].values)
    rate = simulation["n_src"].values.astype(np.float64) * 1e48 / units.s / units.Mpc**3
    expected = np.zeros(rate.shape)
    for j in range(1, rate.shape[0]):
        for i in range(j):
            photons = rate[i] * (age[i + 1] - age[i])
            expected[j] += photons.to_value(units.Mpc**-3) / 1e66
    np.testing.assert_allclose(n_ion.values, expected, rtol=1e-6)
    assert n_ion.attrs["units"] == "1e66 Mpc-3"


def test_a_series_that_starts_late_is_a_warning(simulation):
    with pytest.warns(UserWarning, match="starts at z = 10"):
        with_n_ion(simulation.isel(redshift=slice(1, None)))


def test_hydrogen_and_mean_density_follow_their_definitions(simulation):
    n_igm = np.array([4e-31])
    expected = 4e-31 / (1.222 * constants.m_p.to_value("g")) * units.Mpc.to("cm") ** 3 / 1e66
    # The proton's mass of CODATA 2018, in older versions of astropy, and that of 2022 differ by 1.3e-9.
    assert hydrogen_density(n_igm)[0] == pytest.approx(expected, rel=1e-8)
    cosmology = FlatLambdaCDM(H0=67.66, Om0=0.30964, Ob0=0.04897)
    assert mean_baryon_density(simulation) == pytest.approx(
        0.04897 * cosmology.critical_density(0).to_value("g cm-3"), rel=1e-6
    )


def test_the_first_bad_cell_is_named():
    n_igm = np.full((2, 4, 4, 4), 4e-31, dtype=np.float32)
    n_igm[1, 2, 3, 1] = np.nan
    with pytest.raises(InputError, match=r"n_igm at z = 8: .* the first at cell \(2, 3, 1\): nan"):
        build(n_igm=n_igm)


@pytest.mark.parametrize(("value", "what"), [(1.5, "from 0 to 1"), (-0.1, "from 0 to 1"), (np.inf, "finite")])
def test_xi_is_a_fraction(value, what):
    xi = np.full((2, 4, 4, 4), 0.5, dtype=np.float32)
    xi[0, 0, 0, 3] = value
    with pytest.raises(InputError, match=what):
        build(xi=xi)


def test_rounding_of_xi_is_no_error():
    build(xi=np.full((2, 4, 4, 4), 1.000001, dtype=np.float32))


def test_negative_sources_are_refused():
    with pytest.raises(InputError, match="no negative values"):
        build(n_src=np.full((2, 4, 4, 4), -1.0, dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop_attrs(), "units"),
        (lambda s: s.assign_attrs(box_size=-3.0), "positive"),
        (lambda s: s.assign_attrs(box_size=30.0), "cell centres"),
        (lambda s: s.assign_coords(redshift=[9.0, 9.0, 8.0, 7.0]), "each redshift once"),
        (lambda s: s.assign_coords(redshift=[7.0, 8.0, 9.0, 10.0]), "descending"),
        (lambda s: s.isel(x=slice(0, 6)), "whole box"),
        (lambda s: s.drop_vars(["n_igm", "n_src", "xi"]), "any of the fields"),
        (lambda s: s.transpose("x", "y", "z", "redshift"), "dimensions"),
    ],
)
def test_what_is_no_simulation_is_refused(simulation, change, message):
    with pytest.raises(InputError, match=message):
        check_simulation(change(simulation))


def test_fields_of_different_shape_are_refused():
    with pytest.raises(InputError, match="one shape"):
        build(xi=np.zeros((2, 4, 4, 4), np.float32), n_igm=np.ones((2, 4, 4, 5), np.float32))


def test_a_missing_field_is_named_with_what_needs_it(simulation):
    with pytest.raises(
        InputError, match="prediction needs n_ion; this simulation has n_igm, n_src, xi"
    ) as error:
        require_fields(simulation, ["n_igm", "n_ion"], purpose="prediction")
    assert "the sources of all snapshots" in error.value.hint


def test_cells_that_are_no_cubes_are_refused_where_cubes_are_needed():
    sim = make_simulation({"xi": np.zeros((1, 4, 4, 4), np.float32)}, redshift=[8], box_size=[8, 8, 9])
    with pytest.raises(InputError, match="cubic"):
        cubic_cell_size_mpc(sim)
