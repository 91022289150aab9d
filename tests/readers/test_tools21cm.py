"""C2-Ray and pyC2Ray against tools21cm, where it reads them right."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from reion.readers import open_simulation
from tests.readers.layouts import random_simulation, write_c2ray, write_pyc2ray


@pytest.fixture(scope="module")
def t2c():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("tools21cm")
    module.set_verbose(False)
    module.set_sim_constants(500)
    return module


@pytest.fixture
def sim():
    return random_simulation((8, 8, 8), (9.0,))


def test_c2ray(t2c, sim, tmp_path):
    settings = write_c2ray(tmp_path, sim, wrapped=True)
    found = open_simulation(tmp_path, settings=settings)
    xi = t2c.XfracFile(str(tmp_path / "xfrac3d_9.000.bin")).xi
    np.testing.assert_allclose(found["xi"].values[0], xi, atol=1e-7)
    density = t2c.DensityFile(str(tmp_path / "9.000n_all.dat")).cgs_density
    # Its gravitational constant is another one.
    np.testing.assert_allclose(found["n_igm"].values[0], density, rtol=1e-4)


def test_c2ray_sources(t2c, sim, tmp_path):
    write_c2ray(tmp_path, sim, wrapped=True)
    path = tmp_path / "9.000-coarsest_wsubgrid_sources.dat"
    # tools21cm counts masses of one kind; the small haloes' are set to zero for both.
    path.write_text(path.read_text().replace("\n123.0", " 0.0\n0"))
    found = open_simulation(tmp_path, settings={"preset": "500/h", "sources": "mass"})
    listed = t2c.SourceFile(str(path), mass="hm").sources_list
    cells = listed[:, :3].astype(int)
    cell_mpc = 500 / 0.7 / 8
    masses = found["n_src"].values[0][tuple(cells.T)] * cell_mpc**3
    np.testing.assert_allclose(np.log10(masses), np.log10(listed[:, 3]), atol=1e-3)
    assert np.count_nonzero(found["n_src"].values[0]) == len(cells)


def test_pyc2ray(t2c, sim, tmp_path):
    settings = write_pyc2ray(tmp_path, sim)
    xi = t2c.read_cbin(str(tmp_path / "xfrac_z9.000.dat"), bits=64, order="F")
    np.testing.assert_allclose(open_simulation(tmp_path, settings=settings)["xi"].values[0], xi, atol=1e-7)
