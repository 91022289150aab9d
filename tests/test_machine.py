"""Anyone's machine: closed streams, poor encodings, full disks, no home, other programs' settings."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from reion.readers import open_simulation
from reion.storage.store import write_simulation
from tests.tiny import TINY_NETWORK

REION = f"{shlex.quote(sys.executable)} -m reion"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="redirections of a POSIX shell")


def shell(line, folder, *, without=(), **variables):
    """Run a line of shell in which `reion` is the command, and return its own exit code."""
    environment = {name: value for name, value in os.environ.items() if name not in without}
    script = f'reion() {{ {REION} "$@"; echo $? >code; }}\n{line}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        timeout=300,
        check=False,
    )
    said = done.stderr.decode()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return int((folder / "code").read_text()), done.stdout.decode(), said


@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_characters_that_the_output_lacks_become_escapes(tmp_path, variables):
    code, printed, _ = shell("reion models", tmp_path, **variables)
    assert code == 0
    assert "held-out R\\xb2" in printed
    assert "rt64-history" in printed
    assert "0.9898" in printed


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["models", "models --json", "--help", "info rt64-history"])
def test_a_reader_that_leaves_is_no_error(tmp_path, arguments):
    code, printed, said = shell(f"reion {arguments} | head -0", tmp_path)
    assert (code, printed, said) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "2>&1 >&- | head -0"])
def test_work_is_done_whatever_becomes_of_the_streams(tmp_path, toy, redirection):
    write_simulation(toy()[["n_igm", "xi"]], tmp_path / "sim.zarr")
    code, _, _ = shell(f"reion convert sim.zarr --out new.zarr {redirection}", tmp_path)
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code", "new.zarr", "sim.zarr"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_result_that_nobody_could_read_is_said(tmp_path):
    code, _, said = shell("reion models --json >/dev/full", tmp_path)
    assert code == 2
    assert "stdout could not be written" in said
    assert "No space left" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--json"], "MODEL"),
        (["frobnicate", "--json"], "frobnicate"),
        (["convert", "a", "--out", "b", "--cell-size", "wide", "--json"], "--cell-size"),
        (["train", "a", "--frob", "--json"], "--frob"),
        (["export", "--json"], "--json"),
    ],
)
def test_bad_usage_with_json_is_one_object(command, arguments, message):
    code, printed, said = command(*arguments)
    assert (code, said) == (2, "")
    error = json.loads(printed)["error"]
    assert set(error) == {"message", "file", "hint"}
    assert message in error["message"]


def test_what_is_not_finite_is_null_in_json(command, monkeypatch, toy, tmp_path):
    class Odd:
        @staticmethod
        def to_json():
            return {"mean": float("nan"), "deep": [{"max": float("inf")}]}

    monkeypatch.setattr("reion.inspection.look.inspect", lambda *_args, **_options: Odd)
    write_simulation(toy(), tmp_path / "sim.zarr")
    code, printed, _ = command("inspect", tmp_path / "sim.zarr", "--json")
    assert code == 0
    assert json.loads(printed) == {"mean": None, "deep": [{"max": None}]}


def test_a_disk_that_cannot_be_written_is_one_message_of_code_2(command, monkeypatch, tmp_path):
    def fail(*_args, **_options):
        raise OSError(30, "Read-only file system", str(tmp_path / "out"))

    monkeypatch.setattr("reion.readers.open_simulation", fail)
    code, printed, said = command("inspect", tmp_path)
    assert (code, printed) == (2, "")
    assert said == f"error: {tmp_path / 'out'}: Read-only file system\n"


HOMELESS = """
import pwd, runpy
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
runpy.run_module("reion", run_name="__main__")
"""


@pytest.mark.slow
def test_a_user_without_a_home_predicts_and_draws(tmp_path, toy, toy_model):
    write_simulation(toy(), tmp_path / "sim.zarr")
    # What other programs of a user, or a notebook, make of matplotlib does not matter either.
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.format: pdf\n")
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(HOMELESS)}"
    homeless = {"without": ("HOME", "USER", "LOGNAME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    code, _, said = shell(
        f'reion() {{ {python} "$@"; echo $? >code; }}; '
        f"reion predict {toy_model} sim.zarr --out xi.zarr && reion inspect sim.zarr --plot pictures",
        tmp_path,
        **homeless,
        MPLBACKEND="nonsense",
    )
    assert code == 0, said
    assert {"xi.zarr", "pictures"} <= {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def keras_home(tmp_path):
    """Writes a keras.json and returns the variable that makes Keras read it."""

    def write(**values):
        (tmp_path / "keras").mkdir()
        (tmp_path / "keras" / "keras.json").write_text(json.dumps(values))
        return {"KERAS_HOME": str(tmp_path / "keras")}

    return write


SETTINGS = (*TINY_NETWORK, "training.steps=2", "training.batch_size=2")
TRAIN = " --set ".join(("reion train sim.zarr --out run --json", *SETTINGS))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, toy):
    """What a training finds where there are no settings of Keras."""
    from reion.config import load_config
    from reion.training.run import train

    folder = tmp_path_factory.mktemp("usual")
    store = write_simulation(toy(), folder / "sim.zarr")
    return train([open_simulation(store)], folder / "run", load_config(settings=SETTINGS)).to_json()


@pytest.mark.slow
def test_settings_of_keras_for_other_programs_change_no_network(tmp_path, toy, keras_home, trained):
    write_simulation(toy(), tmp_path / "sim.zarr")
    odd = {"backend": "absent", "floatx": "wide", "image_data_format": "channels_first", "epsilon": 0.1}
    code, printed, said = shell(TRAIN, tmp_path, without=("KERAS_BACKEND",), **keras_home(**odd))
    assert code == 0, said
    assert {name: json.loads(printed)[name] for name in ("loss", "validation_r2")} == {
        name: trained[name] for name in ("loss", "validation_r2")
    }


def test_a_backend_that_is_not_there_is_one_message(tmp_path, toy):
    write_simulation(toy(), tmp_path / "sim.zarr")
    code, printed, _ = shell(TRAIN, tmp_path, KERAS_BACKEND="absent")
    assert code == 2
    assert "KERAS_BACKEND=absent" in json.loads(printed)["error"]["message"]


@pytest.mark.parametrize(
    ("setting", "value"), [("floatx", "float16"), ("image_data_format", "channels_first"), ("epsilon", 0.1)]
)
def test_a_network_is_not_built_under_other_settings(setting, value):
    import keras

    from reion.config import load_config
    from reion.errors import InputError
    from reion.models.build import build_model

    keras.config.dtype_policy()  # made of floatx when it is asked for first, and kept
    usual = getattr(keras.config, setting)()
    getattr(keras.config, f"set_{setting}")(value)
    try:
        with pytest.raises(InputError, match=f"Keras is set to {setting}"):
            build_model(load_config())
    finally:
        getattr(keras.config, f"set_{setting}")(usual)
