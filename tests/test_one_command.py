"""The commands of docs/how-to/predict.md predict the same from the files of every code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from astropy import units

from reion.readers import open_simulation
from tests.readers.corpus.codes import photons_per_msun, write_cache
from tests.readers.layouts import (
    C2RAY,
    photons_per_s,
    random_simulation,
    snapshots,
    write_c2ray,
    write_npz,
    write_pyc2ray,
    write_zarr,
)

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "predict.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## From the files of any code") : PAGE.index("## What is checked")]
COMMANDS = [
    shlex.split(line.removeprefix("$ reion")) for line in re.findall(r"^\$ reion .*$", SECTION, re.MULTILINE)
]
MAPPINGS = re.findall(r"^```(?:ini|toml)\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
SIDE_MPC, CELLS = 32.0, 16


@pytest.fixture
def sim():
    return random_simulation((CELLS,) * 3, (9.0, 8.0), box_size=SIDE_MPC)


def write_all(folder: Path, sim) -> None:
    """The same simulation in the files that the page names."""
    for name in ("c2ray", "pyc2ray", "cache", "arrays"):
        (folder / name).mkdir()
    write_c2ray(folder / "c2ray", sim)
    matter = C2RAY.critical_density0 * C2RAY.Om0
    grid_msun = float((matter * (SIDE_MPC * units.Mpc / 13824) ** 3).to_value("Msun"))
    mean = (C2RAY.Ob0 * C2RAY.critical_density0).to_value("g cm-3")
    for z, arrays in snapshots(sim):
        cells = np.argwhere(arrays["n_src"])
        photons = photons_per_s(sim, arrays["n_src"])
        masses = photons[tuple(cells.T)] / photons_per_msun(1.0)
        rows = [
            "{} {} {} {:.9e} 0.0".format(*(cell + 1), mass / grid_msun)
            for cell, mass in zip(cells, masses, strict=True)
        ]
        listed = folder / "c2ray" / f"{z}-coarsest_wsubgrid_sources.dat"
        listed.write_text("\n".join([str(len(rows)), *rows]) + "\n")
        positions = (cells + 0.5) * (SIDE_MPC / CELLS) * 0.7
        np.savetxt(folder / f"halos_z{z}.txt", np.column_stack([positions, masses * 0.7]))
        np.save(folder / "arrays" / f"rho_m_z{z}.npy", arrays["n_igm"] / mean - 1)
        np.save(folder / "arrays" / f"photons_z{z}.npy", photons)
    tree = folder / "pyc2ray"
    write_pyc2ray(tree, sim)
    for part, pattern in (("results", "*_z*.dat"), ("coarser_densities", "*n_all.dat"), ("sources", "*.txt")):
        (tree / part).mkdir()
        for path in list(tree.glob(pattern)):
            path.rename(tree / part / path.name)
    write_cache(folder / "cache", sim)
    write_npz(folder, sim)
    for path in list(folder.glob("box_z*.npz")):
        with np.load(path) as archive:
            kept = {name: archive[name] for name in archive if name not in ("n_src", "xi")}
        np.savez(path.with_name(path.name.replace("box", "density")), **kept)
        path.unlink()
    for name, toml in zip(("halos.toml", "arrays.toml"), MAPPINGS, strict=True):
        (folder / name).write_text(toml, encoding="utf-8")


@pytest.mark.filterwarnings("ignore:the series starts at", "ignore:n_ion is zero everywhere at z = 9")
def test_one_command_predicts_from_the_files_of_every_code(command, sim, toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path, sim)
    write_zarr(tmp_path, sim)
    code, _, said = command("predict", toy_model, "box.zarr", "--out", "xi.zarr", "--device", "cpu")
    assert code == 0, said
    expected = open_simulation("xi.zarr")["xi"].values
    spread = float(expected.std())
    assert spread > 1e-5
    assert len(COMMANDS) == 5
    for words in COMMANDS:
        assert words[:2] == ["predict", "rt64-history"]
        code, _, said = command("predict", toy_model, *words[2:], "--device", "cpu")
        assert code == 0, (words, said)
        xi = open_simulation(words[words.index("--out") + 1])["xi"].values
        np.testing.assert_allclose(xi, expected, rtol=0, atol=0.01 * spread, err_msg=" ".join(words))


@pytest.mark.filterwarnings("ignore:the series starts at")
def test_the_model_of_the_page_takes_such_a_box(command, sim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_all(tmp_path, sim)
    code, _, said = command(*COMMANDS[2], "--dry-run")
    assert code == 0, said
