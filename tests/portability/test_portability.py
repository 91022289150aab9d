"""The same file and the same input give the same answer in Python, in Node and in a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from reion.demo import RUNTIME_FILES, write_demo_page
from reion.prediction.emulator import Emulator
from reion.prediction.model_file import shipped_models
from reion.sample import load_sample
from reion.simulation.photons import with_n_ion

EXAMPLE = Path(__file__).parents[2] / "examples" / "predict.mjs"
CELLS = 24
REDSHIFT = 8.0

MODELS = ["toy", *shipped_models()]

BROWSER_PAGE = """
<!doctype html><script type="module">
import * as ort from "./ort.wasm.min.mjs";
try {
  ort.env.wasm.wasmPaths = new URL(".", import.meta.url).href;
  ort.env.wasm.numThreads = 1;
  const bytes = async (file) => (await fetch(file)).arrayBuffer();
  const { names, dims, redshift } = await (await fetch("box.json")).json();
  const session = await ort.InferenceSession.create(new Uint8Array(await bytes("model.onnx")),
    { executionProviders: ["wasm"], logSeverityLevel: 3 });
  const feeds = { redshift: new ort.Tensor("float32", [redshift], [1]) };
  for (const name of names) {
    feeds[name] = new ort.Tensor("float32", new Float32Array(await bytes(name + ".raw")), dims);
  }
  const { xi } = await session.run(feeds);
  window.xi = Array.from(xi.data);
} catch (error) {
  window.failure = String(error);
}
</script>
"""


@pytest.fixture(scope="module", params=MODELS)
def emulator(request):
    if request.param == "toy":
        return Emulator(request.getfixturevalue("toy_model"), device="cpu")
    return Emulator(request.param, device="cpu")


@pytest.fixture(scope="module")
def box(emulator):
    sim = with_n_ion(load_sample().held_out).sel(redshift=REDSHIFT)
    return {name: sim[name].values[:CELLS, :CELLS, :CELLS].copy() for name in emulator.card.inputs}


@pytest.fixture(scope="module")
def expected(emulator, box):
    return emulator.predict_arrays(REDSHIFT, **box)


def test_node(web_runtime, emulator, box, expected, tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "predict.mjs")
    (tmp_path / "node_modules").symlink_to(web_runtime.parents[1].resolve())
    (tmp_path / "model.onnx").write_bytes(emulator.content)
    for name, values in box.items():
        values.tofile(tmp_path / f"{name}.raw")
    size = [str(CELLS)] * 3
    fields = [f"{name}={name}.raw" for name in box]
    command = ["node", "predict.mjs", "model.onnx", *size, str(REDSHIFT), "xi.raw", *fields]
    subprocess.run(command, cwd=tmp_path, check=True)
    xi = np.fromfile(tmp_path / "xi.raw", dtype="<f4").reshape(expected.shape)
    np.testing.assert_allclose(xi, expected, rtol=0, atol=1e-5)


def test_chromium(web_runtime, page, serve, emulator, box, expected, tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for name in RUNTIME_FILES:
        shutil.copy(web_runtime / name, folder / name)
    (folder / "model.onnx").write_bytes(emulator.content)
    (folder / "index.html").write_text(BROWSER_PAGE)
    description = {"names": list(box), "dims": [1, CELLS, CELLS, CELLS], "redshift": REDSHIFT}
    (folder / "box.json").write_text(json.dumps(description))
    for name, values in box.items():
        values.tofile(folder / f"{name}.raw")
    page.call("Page.navigate", url=f"{serve(folder)}/index.html")
    page.wait_for("window.xi !== undefined || window.failure !== undefined")
    assert page.evaluate("window.failure") is None
    xi = np.array(page.evaluate("window.xi"), dtype=np.float32).reshape(expected.shape)
    np.testing.assert_allclose(xi, expected, rtol=0, atol=1e-5)


def test_the_demo_page_predicts_the_sample_and_a_dropped_box(web_runtime, page, serve, toy_model, tmp_path):
    model = shipped_models()[0] if shipped_models() else toy_model
    sim = with_n_ion(load_sample().held_out).sel(redshift=[9.0, 8.0, 7.0])
    folder = tmp_path / "page"
    written = write_demo_page(model, folder, runtime=web_runtime, sim=sim)
    assert written.snapshots == [9.0, 8.0, 7.0]
    page.call("Page.navigate", url=f"{serve(folder)}/")
    page.wait_for("document.body?.dataset.predicted === '8' || document.body?.dataset.failed")
    assert page.evaluate("document.body.dataset.failed ?? null") is None
    status = str(page.evaluate("document.getElementById('status').textContent"))
    emulator = Emulator(model, device="cpu")
    true, xi = sim["xi"][1].values, emulator.predict(sim)[1].values
    r2 = 1 - np.sum((xi - true) ** 2) / np.sum((true - true.mean()) ** 2)
    assert f"{100 * xi.mean():.1f} % of the volume is ionised" in status
    assert f"{100 * true.mean():.1f} % in the ray tracing" in status
    assert f"R² = {r2:.3f}" in status
    painted = page.evaluate(
        "[...document.querySelectorAll('canvas.map')].map(c => new Set(c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data).size)"
    )
    assert len(painted) == len(emulator.card.inputs) + 2
    assert min(painted) > 8, "a panel is empty"
    page.picture(tmp_path / "demo.png")

    # Drop a series of two small boxes without n_ion: the page derives it.
    small = sim.isel(x=slice(0, 16), y=slice(0, 12), z=slice(0, 8))
    for index in range(2):
        np.savez_compressed(
            folder / f"own_{index}.npz",
            allow_pickle=False,
            n_igm=small["n_igm"][index].values,
            n_src=np.asfortranarray(small["n_src"][index].values),
            redshift=float(small["redshift"][index]),
            box_size=[32.0, 24.0, 16.0],
        )
    page.evaluate(
        """(async () => {
          const transfer = new DataTransfer();
          for (const name of ["own_1.npz", "own_0.npz"]) {
            transfer.items.add(new File([await (await fetch(name)).blob()], name));
          }
          delete document.body.dataset.predicted;
          document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
        })()"""
    )
    page.wait_for("document.body.dataset.predicted || document.body.dataset.failed")
    assert page.evaluate("document.body.dataset.failed ?? null") is None
    status = str(page.evaluate("document.getElementById('status').textContent"))
    with pytest.warns(UserWarning, match="not in n_ion"):  # these two begin with sources that shine
        small = with_n_ion(small.drop_vars("n_ion"))
    xi = emulator.predict_arrays(8.0, **{name: small[name][1].values for name in emulator.card.inputs})
    assert status.startswith("1,536 cells predicted")
    assert f"{100 * xi.mean():.1f} % of the volume is ionised" in status
