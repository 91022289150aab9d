"""Every situation of the corpus is read, and right."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from reion.readers import open_simulation
from reion.simulation.contract import FIELDS, box_size_mpc, check_simulation
from tests.readers.corpus import SIM, load
from tests.readers.corpus.codes import PHOTONS

CORPUS = load()


@pytest.mark.parametrize("name", CORPUS)
def test_the_situation_is_read(name, tmp_path):
    situation = CORPUS[name]
    folder = tmp_path / "run"
    folder.mkdir()
    settings = situation.write(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sim = open_simulation(folder, settings=settings)
        check_simulation(sim)
    said = [str(warning.message) for warning in caught]
    if situation.warns is None:
        assert not said
    else:
        assert any(re.search(situation.warns, text) for text in said), said
    assert [field for field in FIELDS if field in sim] == [f for f in FIELDS if f in situation.fields]
    np.testing.assert_allclose(sim["redshift"].values, SIM["redshift"].values, atol=1e-9)
    np.testing.assert_allclose(box_size_mpc(sim), box_size_mpc(SIM), rtol=1e-6)
    assert sim.attrs["H0"] == pytest.approx(70)
    for field in set(situation.fields) & set(SIM.data_vars):
        expected = SIM[field].values
        atol = situation.rtol * (1.0 if field == "xi" else float(expected.max()))
        np.testing.assert_allclose(sim[field].values, expected, rtol=situation.rtol, atol=atol, err_msg=field)
        part = sim[field][1, 1:3, 2, ::-1].values
        np.testing.assert_array_equal(part, sim[field].values[1, 1:3, 2, ::-1])
    if "n_ion" in situation.fields:
        np.testing.assert_allclose(sim["n_ion"].values, PHOTONS, rtol=2e-3)


def test_the_corpus_is_small(tmp_path):
    total = 0
    for number, situation in enumerate(CORPUS.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        situation.write(folder)
        total += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert total < 1_000_000
