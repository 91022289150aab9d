"""The report page: whole, self-contained, and true to the numbers it was given."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from reion import InputError, evaluate, with_n_ion
from reion.evaluation.report.figures import figures
from reion.evaluation.report.numbers import write_csv
from reion.evaluation.report.page import write_report
from reion.evaluation.report.slices import Slicer, middle_planes, pack
from reion.evaluation.report.summary import headline
from reion.evaluation.report.wording import figure

pytestmark = pytest.mark.slow
HOSTILE = "{{ data }} </script><script>throw 1</script> {% for %} <!--"
"""A method's name that means something to HTML, to scripts and to templates."""


@pytest.fixture(scope="module")
def true(toy):
    return toy(shape=(12, 12, 10), redshift=(12.0, 9.0, 8.0))


@pytest.fixture(scope="module")
def predictions(true):
    rng = np.random.default_rng(0)

    def noisy(sigma):
        values = true["xi"].values + rng.normal(0, sigma, true["xi"].shape)
        return true["xi"].copy(data=np.clip(values, 0, 1).astype(np.float32))

    return {"reion": noisy(0.1), HOSTILE: noisy(0.3)}


@pytest.fixture(scope="module")
def evaluation(predictions, true):
    return evaluate(predictions, true)


@pytest.fixture(scope="module")
def page(evaluation, true, predictions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    provenance = {
        "command": "reion evaluate <model>",
        "versions": {"reion": "0.1.0"},
        "data": [{"box": 1}, {"box": 3}],
        "<b onclick='x'>": "<img src=x onerror=alert(1)>",
    }
    return write_report(evaluation, true, predictions, folder, provenance=provenance)


def page_data(page):
    html = page.read_text(encoding="utf-8")
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(text)


def test_the_page_needs_nothing_else(page):
    html = page.read_text(encoding="utf-8")
    assert page.name == "report.html"
    assert not re.search(r"""(src|href)\s*=\s*["']|@import|url\((?!#)""", html)


def test_the_page_carries_the_evaluation(page, evaluation):
    assert page_data(page)["evaluation"] == json.loads(json.dumps(evaluation.to_json()))
    html = page.read_text(encoding="utf-8")
    assert f"{evaluation.pooled.r2:.4f}" in html
    assert "reion evaluate &lt;model&gt;" in html
    assert "versions.reion" in html
    assert '<th scope="row">data.2.box</th><td>3</td>' in html


def test_a_hostile_name_or_attribute_is_text_and_nothing_else(page, true, predictions, tmp_path, no_figures):
    texts, elements = [], []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: elements.append((tag, dict(attributes)))
    parser.handle_data = texts.append
    parser.feed(page.read_text(encoding="utf-8"))
    assert [tag for tag, _ in elements].count("script") == 2
    assert "img" not in [tag for tag, _ in elements]
    assert not any("onclick" in attributes for _, attributes in elements)
    for name in (HOSTILE, f"{HOSTILE}, every redshift", "<b onclick='x'>", "<img src=x onerror=alert(1)>"):
        assert name in texts
    assert page_data(page)["methods"][1]["name"] == HOSTILE

    hostile = true.assign_attrs(source_code="</script>{{ css }}")
    name = "<i>{{ data }}</i>"
    written = write_report(
        evaluate({name: predictions["reion"]}, hostile),
        hostile,
        {name: predictions["reion"]},
        tmp_path / "x.html",
    )
    html = written.read_text(encoding="utf-8")
    assert "<title>&lt;i&gt;{{ data }}&lt;/i&gt;: ionised fraction against the truth</title>" in html
    assert "<td>&lt;/script&gt;{{ css }}</td>" in html


def test_the_slices_are_those_of_the_boxes(page, true, predictions):
    slices = page_data(page)["slices"]

    def unpacked(text):
        levels = np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype=np.uint8)
        return levels.reshape(3, 10, 12, 12)

    truth = np.rint(true["xi"].values * 255).astype(np.uint8)
    # (snapshot, x, y, z) as (snapshot, depth, row from the top, column)
    assert np.array_equal(unpacked(slices["fields"]["true"]), truth.transpose(0, 3, 2, 1)[:, :, ::-1])
    rival = next(method for method in slices["methods"] if method["name"] == HOSTILE)
    values = np.rint(predictions[HOSTILE].values * 255).transpose(0, 3, 2, 1)[:, :, ::-1]
    assert np.array_equal(unpacked(rival["packed"]), values)
    assert slices["depths"] == pytest.approx(true["z"].values.tolist())
    assert [method["name"] for method in slices["methods"]] == ["reion", HOSTILE, "excursion set"]


def test_a_large_box_is_averaged_in_blocks():
    slicer = Slicer((400, 200, 600), snapshots=20)
    box = np.broadcast_to(np.arange(400.0)[:, None, None], (400, 200, 600))
    planes = slicer.planes(box)
    assert planes.shape == (len(slicer.depths), 67, 134)
    assert planes.size * 20 <= 3_000_000
    assert planes[0, 0, :3].tolist() == [1.0, 4.0, 7.0]
    assert planes[0, 0, -1] == 399.0


def test_packing_clips_to_the_scale():
    levels = gzip.decompress(base64.b64decode(pack(np.array([-5.0, 0.0, 1.0, 2.0, 9.0]), 0.0, 2.0)))
    assert list(levels) == [0, 0, 128, 255, 255]


def test_figures_and_numbers_are_files(page, evaluation):
    folder = page.parent
    assert {path.name for path in folder.iterdir()} == {"report.html", "figures", "numbers"}
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"slices", "history", "power_spectrum", "bubble_sizes", "calibration"} <= names
    for name in names:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    numbers = json.loads((folder / "numbers" / "evaluation.json").read_text(encoding="utf-8"))
    assert numbers == json.loads(json.dumps(evaluation.to_json()))


def test_the_csv_files_hold_the_evaluation(page, evaluation):
    with (page.parent / "numbers" / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = {(row["method"], row["redshift"]): row for row in csv.DictReader(file)}
    snapshot = evaluation.snapshots[1]
    assert float(scores["reion", "9.0"]["r2"]) == snapshot.r2
    assert float(scores["reion", "9.0"]["power_ratio_1.0"]) == snapshot.power_ratio["1.0"]
    assert int(scores["reion", "9.0"]["betti_true_0"]) == snapshot.true.betti[0]
    assert float(scores["excursion set", "pooled"]["optical_depth_pred"]) > 0
    assert scores["reion", "9.0"]["cross_correlation_0.1"] == ""
    with (page.parent / "numbers" / "spectrum.csv").open(encoding="utf-8", newline="") as file:
        points = [
            point
            for point in csv.DictReader(file)
            if (point["method"], point["redshift"]) == ("reion", "8.0")
        ]
    snapshot = evaluation.snapshots[2]
    assert [float(point["k"]) for point in points] == snapshot.bins.k.tolist()
    assert [float(point["power_true"]) for point in points] == snapshot.true.spectrum.power.tolist()


def test_the_figures_are_the_same_every_time(page, evaluation, true, predictions, tmp_path):
    again = write_report(evaluation, true, predictions, tmp_path).parent
    for path in (page.parent / "figures").iterdir():
        assert path.read_bytes() == (again / "figures" / path.name).read_bytes()


def test_nothing_is_overwritten_without_force(evaluation, true, predictions, tmp_path, no_figures):
    page = write_report(evaluation, true, predictions, tmp_path / "report")
    old = page.stat().st_ino
    with pytest.raises(InputError, match="exists already"):
        write_report(evaluation, true, predictions, page.parent)
    assert page.stat().st_ino == old
    assert write_report(evaluation, true, predictions, page.parent, force=True) == page
    assert page.stat().st_ino != old


def test_a_file_name_and_a_simulation_without_sources(true, predictions, tmp_path, no_figures):
    bare = true.drop_vars(["n_src", "n_igm"])
    evaluation = evaluate(predictions["reion"], bare)
    page = write_report(evaluation, bare, predictions["reion"], tmp_path / "deep" / "one.html")
    assert page == tmp_path / "deep" / "one.html"
    assert list(page.parent.iterdir()) == [page]
    assert set(page_data(page)["slices"]["fields"]) == {"true"}


def test_photons_stand_in_for_sources_and_left_out_redshifts_are_said(
    true, predictions, tmp_path, no_figures
):
    history = with_n_ion(true).drop_vars("n_src")
    some = predictions["reion"].isel(redshift=[1, 2])
    page = write_report(evaluate(some, history), history, some, tmp_path / "page.html")
    slices = page_data(page)["slices"]
    assert slices["scales"]["sources"]["units"] == "10⁶⁶ Mpc⁻³"
    assert slices["redshifts"] == [9.0, 8.0]
    html = page.read_text(encoding="utf-8")
    assert "redshifts that not every prediction has: 12" in html
    assert "ionising photons emitted so far" in html


def test_the_summary_says_where_it_fails_and_when_it_cannot_say(evaluation, true):
    weakest = min((s for s in evaluation.snapshots if s.r2 is not None), key=lambda snapshot: snapshot.r2)
    text = headline(evaluation)
    assert f"reion reproduces {100 * evaluation.pooled.r2:.1f} %" in text
    assert f"weakest at z = {weakest.redshift:g} (R² {weakest.r2:.3f})" in text
    early = true.isel(redshift=[0])
    assert "cannot be judged" in headline(evaluate(early["xi"], early))


def test_figures_are_written_without_a_minus_before_zero():
    assert figure(None) == "–"
    assert figure(-1e-9) == "0.000"
    assert figure(-0.25, 1) == "−0.2"


@pytest.fixture(scope="module")
def chromium():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    return pytest.skip("no Chromium")


def run_chromium(chromium, tmp_path, page, *flags):
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [
        "--disable-component-update",
        "--no-first-run",
        "--hide-scrollbars",
        "--enable-logging=stderr",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", *flags]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert ":CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def test_chromium_draws_every_chart_and_map(chromium, page, tmp_path):
    dom = run_chromium(chromium, tmp_path, page, "--dump-dom")
    assert dom.count('class="plot"') == 6 + 8 + 3
    assert dom.count('<canvas class="map"') == 5
    assert dom.count("<option") == 3
    assert "NaN" not in re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    assert re.search(r'id="redshift-value">z = \d', dom)


def test_the_sliders_choose_what_is_drawn(chromium, page, true, tmp_path):
    move = """<script>setTimeout(() => {
      for (const [id, value] of [["redshift", 1], ["depth", 3]]) {
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event("input"));
      }
      const map = document.querySelectorAll("canvas.map")[2];
      const pixels = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
      document.body.dataset.pixels = Array.from(pixels).join(" ");
    }, 3000);</script></body>"""
    moved = tmp_path / "moved.html"
    moved.write_text(page.read_text(encoding="utf-8").replace("</body>", move), encoding="utf-8")
    dom = run_chromium(chromium, tmp_path, moved, "--dump-dom")
    assert 'id="redshift-value">z = 9<' in dom
    assert 'id="depth-value">7 Mpc<' in dom
    (pixels,) = re.findall(r'data-pixels="([\d ]+)"', dom)
    drawn = np.array(pixels.split(), dtype=np.uint8).reshape(12, 12, 4)
    levels = np.rint(true["xi"].values[1, :, :, 3].T[::-1] * 255).astype(int)
    assert np.abs(drawn[..., :3] - 255 * matplotlib.colormaps["viridis"](levels)[..., :3]).max() <= 1


@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_paints_the_page_in_light_and_dark(chromium, page, tmp_path, width):
    brightness = []
    for scheme in (1, 0):
        picture = tmp_path / f"{scheme}.png"
        flags = [f"--window-size={width},1600", f"--screenshot={picture}"]
        run_chromium(chromium, tmp_path, page, f"--blink-settings=preferredColorScheme={scheme}", *flags)
        pixels = matplotlib.image.imread(picture)[..., :3]
        assert pixels.shape[:2] == (1600, width)
        # Charts and maps are there: text alone would leave hardly a saturated pixel.
        assert np.mean(np.ptp(pixels, axis=-1) > 0.3) > 0.01
        brightness.append(np.median(pixels))
    assert brightness[0] > 0.9
    assert brightness[1] < 0.2


def test_chromium_prints_the_page(chromium, page, tmp_path):
    run_chromium(
        chromium, tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}"
    )
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_error_bars_are_shown_and_judged(toy, tmp_path, no_figures):
    sim = toy(shape=(8, 8, 8), redshift=(12.0, 8.0))
    rng = np.random.default_rng(0)
    spread = sim["xi"].copy(data=(0.02 + 0.2 * rng.random(sim["xi"].shape)).astype(np.float32))
    off = spread.values * rng.standard_normal(spread.shape)
    pred = {"mine": sim["xi"].copy(data=np.clip(sim["xi"].values + off, 0, 1).astype(np.float32))}
    found = evaluate(pred, sim, spreads={"mine": spread})
    pooled = found.predictions["mine"].pooled.spread_calibration
    assert pooled.cells.sum() == 8**3 * sum(snapshot.is_pooled for snapshot in found.snapshots) > 0
    warned = {"mine": ["the cells are <too> large"], "theirs": []}
    page = write_report(found, sim, pred, tmp_path / "x.html", spreads={"mine": spread}, warned=warned)
    html = page.read_text(encoding="utf-8")
    assert "What mine warned of" in html
    assert "theirs" not in html
    assert "the cells are &lt;too&gt; large" in html
    data = page_data(page)
    scale = data["slices"]["scales"]["spread"]
    assert scale["high"] == pytest.approx(float(spread.max()))
    packed = np.frombuffer(
        gzip.decompress(base64.b64decode(data["slices"]["methods"][0]["spread"])), np.uint8
    )
    expected = np.rint(spread.values / scale["high"] * 255).transpose(0, 3, 2, 1)[:, :, ::-1]
    assert np.array_equal(packed.reshape(expected.shape), expected)
    assert data["evaluation"]["pooled"]["spread_calibration"]["cells"] == pooled.cells.tolist()
    write_csv(found, tmp_path)
    with (tmp_path / "spread_calibration.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["redshift"] == "pooled"]
    assert [float(row["cells"]) for row in rows] == pooled.cells.tolist()
    planes = middle_planes(found, sim, pred["mine"], spread=spread)
    assert "error_bars" in dict(figures(found, planes, (16.0, 16.0)))
