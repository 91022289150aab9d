"""An output replaces nothing but what reion wrote, and never what the command reads."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import xarray as xr

import reion
from reion.demo import RUNTIME_FILES
from reion.errors import InputError
from reion.evaluation.report.page import PAGE, REPORT
from reion.inspection.pictures import PICTURES
from reion.jobs.places import Kind, claimed, output_path, refuse_existing
from reion.prediction.model_file import shipped_models
from reion.storage.conversion import convert
from reion.storage.store import STORE, write_simulation

ANY = Kind(name="an output", is_ours=lambda path: False)


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sim(toy, tmp_path):
    return write_simulation(toy(shape=(12, 12, 12)), tmp_path / "sim.zarr")


@pytest.mark.parametrize(
    "there", ["a folder of files", "a text file", "our store with a note in it", "a Zarr of others"]
)
@pytest.mark.parametrize("verb", ["convert", "predict", "inspect"])
def test_force_replaces_only_what_is_ours(verb, there, command, sim, toy, toy_model, tmp_path):
    out = tmp_path / "precious"
    if there == "a folder of files":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif there == "a text file":
        out.write_text("years of work")
    elif there == "our store with a note in it":
        write_simulation(toy(shape=(4, 4, 4)), out)
        (out / "notes.txt").write_text("years of work")
    else:
        toy(shape=(4, 4, 4)).to_zarr(out, zarr_format=3, consolidated=False)
    before = tree(tmp_path)
    target = "--plot" if verb == "inspect" else "--out"
    model = [toy_model] if verb == "predict" else []
    code, _, said = command(verb, *model, sim, target, out, "--force")
    if verb == "convert" and there == "a folder of files":
        # A folder receives the store under a name of its own.
        assert code == 0, said
        assert tree(tmp_path).items() >= before.items()
        return
    assert code == 2
    assert "that reion wrote" in said
    assert "Traceback" not in said
    assert tree(tmp_path) == before
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["precious", "sim.zarr"]


@pytest.mark.slow
def test_force_replaces_what_is_ours(command, sim, toy, toy_model, tmp_path):
    one_snapshot = write_simulation(
        toy(shape=(4, 4, 4), redshift=(8.0,))[["n_igm", "xi"]], tmp_path / "one.zarr"
    )
    for line in (
        ["convert", sim, "--out", tmp_path / "copy.zarr"],
        ["predict", toy_model, sim, "--out", tmp_path / "xi.zarr"],
        ["inspect", one_snapshot, "--plot", tmp_path / "pictures"],
    ):
        assert command(*line)[0] == 0
        before = tree(line[-1])
        assert command(*line)[0] == 2
        assert tree(line[-1]) == before
        code, _, said = command(*line, "--force")
        assert code == 0, said
        assert all(after > before[path] for path, after in tree(line[-1]).items())


@pytest.mark.parametrize("way", ["the same", "inside", "around", "through a link", "a folder read whole"])
@pytest.mark.parametrize("verb", ["convert", "predict"])
def test_an_output_is_apart_from_what_is_read(verb, way, command, toy, toy_model, tmp_path):
    folder = tmp_path / "data"
    sim = write_simulation(toy(shape=(12, 12, 12)), folder / "sim.zarr")
    source, out = sim, sim
    if way == "inside":
        out = sim / "xi"
    elif way == "around":
        out = folder
    elif way == "through a link":
        out = tmp_path / "link.zarr"
        out.symlink_to(sim)
    elif way == "a folder read whole":
        source = folder / "*"
    before = tree(tmp_path)
    model = [toy_model] if verb == "predict" else []
    code, _, said = command(verb, *model, source, "--out", out, "--force")
    assert code == 2
    if verb == "predict" or way != "around":  # convert would write a store of its own into the folder
        assert "is read" in said
    assert tree(tmp_path) == before


def test_a_model_is_not_overwritten_by_its_prediction(command, sim, toy_model, tmp_path):
    code, _, said = command("predict", toy_model, sim, "--out", toy_model, "--force")
    assert code == 2
    assert "not a file of format .onnx" in said
    assert toy_model.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (".", "expected the name"),
        ("..", "expected the name"),
        ("dangling", "is a link to"),
        ("circle", "cannot be written|is a link to"),
        ("sim.zarr/xi", "lies in the Zarr store"),
        ("xi.npy", "not a file of format .npy"),
        ("xi.H5", "not a file of format .h5"),
        ("rep.html", "not a file of format .html"),
        ("xi.fits", "not a file of format .fits"),
        ("xi.tar.gz", "not a file of format .gz"),
        ("n" * 240, "at most"),
        ("/".join(["n" * 100] * 50), "cannot be written: .*too long"),
        ("a note/xi.zarr", "cannot be written: .*a note is not a folder"),
        ("a note/new/xi.zarr", "cannot be written: .*a note is not a folder"),
        ("dangling/xi.zarr", "cannot be written: .*dangling is not a folder"),
    ],
)
def test_a_place_that_cannot_be_is_said_before_any_work(name, message, sim, tmp_path):
    (tmp_path / "a note").write_text("years of work")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    before = sorted(path.name for path in tmp_path.iterdir())
    out = name if name.startswith(".") else tmp_path / name
    with pytest.raises(InputError, match=message), claimed(out, STORE, force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_without_permission_is_said_before_any_work():
    if os.name != "posix":
        pytest.skip("permissions are another matter here")
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o500)
            for place in ("xi.zarr", "new/xi.zarr"):
                with pytest.raises(InputError, match="no permission to write into"):
                    output_path(Path(name, place), STORE)
            Path(name).chmod(0o700)
            output_path(Path(name, "new/xi.zarr"), STORE)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    "verb",
    [
        "convert",
        "predict",
        "inspect",
        "evaluate",
        "report",
        "history",
        "lightcone",
        "picture",
        "simulate",
        "worlds",
        "train",
        "seeds",
        "compare",
        "search",
        "quickstart",
        "export",
        "calibrate",
        "demo-page",
        "plan-run",
    ],
)
def test_a_file_in_the_way_of_the_output_is_said_before_any_work(verb, command, sim, toy_model, tmp_path):
    for field in ("n_igm", "n_src", "xi"):  # a command that reads values says that they are damaged
        for chunk in (sim / field / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    note = tmp_path / "note"
    note.write_text("years of work")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in RUNTIME_FILES:
        (runtime / name).write_text("")
    series = tmp_path / "series.toml"
    series.write_text('[[world]]\nname = "one"\nseries = "sim"\nmax_mfp = 20.0\n')

    out = {
        "convert": [sim, "--out", note / "new" / "sim.zarr"],
        "predict": [toy_model, sim, "--out", note / "xi.zarr"],
        "inspect": [sim, "--plot", note / "pictures"],
        "evaluate": [toy_model, sim, "--report", note / "report"],
        "report": [sim, "--report", note / "report.html"],
        "history": [sim, "--out", note / "history.zarr"],
        "lightcone": [sim, "--out", note / "cone.zarr"],
        "picture": [sim, "--out", tmp_path / "cone.zarr", "--picture", note / "cone.png"],
        "simulate": [sim, "--out", note / "traced.zarr", "--set", "max_mfp=20"],
        "worlds": [sim, "--out", note, "--config", series],
        "train": [sim, "--out", note / "run"],
        "seeds": [sim, "--out", note / "runs", "--seeds", "2"],
        "compare": ["sizes", sim, "--test", sim, "--out", note / "study"],
        "search": ["voxel", sim, "--out", note / "search"],
        "quickstart": ["--out", note / "quick"],
        "export": ["onnx", "rt-worlds-fast", "--cell-size", "2", "--out", note / "model.onnx"],
        "calibrate": ["rt-worlds-fast", sim, "--out", note / "model.onnx"],
        "demo-page": [toy_model, "--out", note / "page", "--runtime", runtime],
        "plan-run": [sim, "--out", note / "plan.toml"],
    }[verb]
    code, _, said = command({"picture": "lightcone", "seeds": "train"}.get(verb, verb), *out)
    assert code == 2, said
    assert f"{note} is not a folder" in " ".join(said.split())
    assert "Traceback" not in said
    assert not (tmp_path / "cone.zarr").exists()


@pytest.mark.parametrize("force", [False, True])
def test_force_is_advised_only_where_it_would_help(force, command, sim, toy, toy_model, tmp_path):
    own = write_simulation(toy(shape=(4, 4, 4)), tmp_path / "own.zarr")
    raw, note = tmp_path / "raw", tmp_path / "note.html"
    raw.mkdir()
    (raw / "xi.raw").write_bytes(bytes(8))
    note.write_text("years of work")
    more = ["--force"] if force else []
    for line in (
        ["predict", toy_model, sim, "--out", raw],
        ["report", sim, "--report", raw],
        ["report", sim, "--report", note],
        ["inspect", sim, "--plot", raw],
    ):
        code, _, said = command(*line, *more)
        said = " ".join(said.split())
        assert code == 2
        assert "exists already" in said
        assert "that reion wrote" in said
        assert "--force does not replace it: give another place, or move it away" in said
    if not force:
        code, _, said = command("convert", sim, "--out", own)
        assert code == 2
        assert "--force replaces it" in said
        assert "that reion wrote" not in said


def test_a_name_with_dots_names_no_format():
    for name in ("z8.0", "run.v2", "xi.zarr", "box_500.h"):
        assert output_path(name, STORE).name == name


def test_the_home_folder_is_meant_by_a_tilde(sim, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (result,) = convert(str(sim), "~/copy.zarr")["stores"]
    assert result["path"] == str(tmp_path / "home" / "copy.zarr")
    assert xr.open_zarr(tmp_path / "home" / "copy.zarr").sizes["x"] == 12


def test_a_link_to_a_place_leads_there(toy, tmp_path):
    real, link = tmp_path / "large disk" / "sim.zarr", tmp_path / "sim.zarr"
    write_simulation(toy(shape=(4, 4, 4)), real)
    link.symlink_to(real)
    write_simulation(toy(shape=(6, 6, 6)), link, force=True)
    assert link.is_symlink()
    assert xr.open_zarr(real).sizes["x"] == 6


def test_what_is_ours_is_known(tmp_path):
    pytest.importorskip("keras")
    from reion.jobs.places import MODEL_FILE
    from reion.training.run_folder import RUN

    for name in shipped_models():
        assert MODEL_FILE.is_ours(Path(reion.__file__).parent / "weights" / f"{name}.onnx")
    for kind in (MODEL_FILE, RUN, PAGE, REPORT, PICTURES, STORE):
        foreign = tmp_path / "foreign"
        foreign.write_bytes(os.urandom(1000))
        assert not kind.is_ours(foreign)
        with pytest.raises(InputError, match="that reion wrote"):
            refuse_existing(foreign, kind, force=True)
        foreign.unlink()
        foreign.mkdir()
        for name in ("config.toml", "report.html", "history.png", "zarr.json"):
            (foreign / name).write_text("{}")
        assert not kind.is_ours(foreign)
        for path in foreign.iterdir():
            path.unlink()
        foreign.rmdir()


def test_an_empty_folder_is_nothing_only_to_some(tmp_path):
    with pytest.raises(InputError, match="exists already") as caught:
        refuse_existing(tmp_path, ANY, force=False)
    assert caught.value.hint == "--force replaces it"
    refuse_existing(tmp_path, ANY, force=True)
    refuse_existing(tmp_path, REPORT, force=False)
