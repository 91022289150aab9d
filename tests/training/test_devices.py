"""What training needs of a machine."""

from __future__ import annotations

import pytest

from reion.cli import environment
from reion.errors import InputError


def test_training_on_another_backend_needs_no_tensorflow(monkeypatch):
    installed = {"keras", "tensorboard", "jax"}
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(environment, "find_spec", lambda name: name if name in installed else None)
    environment.need_training("reion train")
    with pytest.raises(InputError, match="reion export onnx needs tensorflow, onnx, tf2onnx"):
        environment.need_training("reion export onnx", exports=True)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(InputError, match="cannot compute with KERAS_BACKEND=torch"):
        environment.need_training("reion train")
    monkeypatch.delenv("KERAS_BACKEND")
    with pytest.raises(InputError, match="reion train needs tensorflow"):
        environment.need_training("reion train")
