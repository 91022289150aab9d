"""Predict one box without reion: `python predict_without_reion.py MODEL.onnx BOX.npz XI.npy`."""

import sys

import numpy as np
import onnxruntime

model, box, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
with np.load(box, allow_pickle=False) as arrays:
    names = [item.name for item in session.get_inputs()]
    fields = {name: arrays[name][None].astype(np.float32) for name in names if name != "redshift"}
    (xi,) = session.run(["xi"], {**fields, "redshift": np.float32([arrays["redshift"]])})
np.save(out, xi[0])
