"""The demo page: a folder with all it needs, or a clear error; tests/portability opens it in a browser."""

import json

import numpy as np
import pytest

from reion.demo import RUNTIME_FILES, write_demo_page
from reion.errors import InputError
from reion.simulation.photons import with_n_ion


@pytest.fixture
def runtime(tmp_path):
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder


def test_the_folder_holds_everything_the_page_names(toy_model, simulation, runtime, tmp_path):
    out = tmp_path / "page"
    written = write_demo_page(toy_model, out, runtime=runtime, sim=simulation)
    assert written.to_json() == {
        "output": str(out),
        "model": "toy 1",
        "snapshots": simulation["redshift"].values.tolist(),
        "bytes": sum(path.stat().st_size for path in out.iterdir()),
    }
    assert written.snapshots == simulation["redshift"].values.tolist()
    assert (out / "model.onnx").read_bytes() == toy_model.read_bytes()
    description = json.loads((out / "model.json").read_text())
    assert description["inputs"] == {"n_igm": "g cm-3", "n_ion": "1e66 Mpc-3"}
    expected = with_n_ion(simulation)
    for index, sample in enumerate(description["samples"]):
        with np.load(out / sample["file"], allow_pickle=False) as arrays:
            assert float(arrays["redshift"]) == sample["redshift"]
            np.testing.assert_allclose(arrays["box_size"], simulation.attrs["box_size"])
            for name in ("n_igm", "n_ion", "xi"):
                np.testing.assert_array_equal(arrays[name], expected[name][index])
    page = (out / "index.html").read_text() + (out / "demo.js").read_text()
    for name in ("demo.js", "boxes.js", "style.css", "model.json", "model.onnx", RUNTIME_FILES[0]):
        assert name in page
        assert (out / name).is_file()
    assert "http://" not in page
    assert "https://" not in page, "the page needs nothing from outside"


def test_without_the_web_build_it_says_how_to_get_it(toy_model, simulation, tmp_path):
    with pytest.raises(InputError, match=r"missing ort\.wasm\.min\.mjs.*\n.*npm install onnxruntime-web"):
        write_demo_page(toy_model, tmp_path / "page", runtime=tmp_path, sim=simulation)
    assert not (tmp_path / "page").exists()


def test_nothing_is_overwritten_without_force(toy_model, simulation, runtime, tmp_path):
    out = tmp_path / "page"
    out.mkdir()
    with pytest.raises(InputError, match="exists already"):
        write_demo_page(toy_model, out, runtime=runtime, sim=simulation)
    write_demo_page(toy_model, out, runtime=runtime, sim=simulation, force=True)
    assert (out / "index.html").is_file()
