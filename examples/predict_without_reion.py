"""Predict one box without reion: `python predict_without_reion.py MODEL.onnx BOX.npz XI.npy [SNAPSHOT]`.

BOX.npz holds an array for each input of the model, under its name: fields as (x, y, z), and redshift and
max_mfp as one number each. Or it holds a series, as `reion convert --out BOX.npz` writes it: then the first
axis of each array counts the snapshots, and SNAPSHOT says which one to predict, from 0.
"""

import sys

import numpy as np
import onnxruntime

model, box, out, *snapshot = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
inputs = {}
with np.load(box, allow_pickle=False) as arrays:
    for item in session.get_inputs():
        if item.name not in arrays:
            sys.exit(f"{box} has no {item.name}, which the model needs")
        values = arrays[item.name]
        if values.ndim == len(item.shape):  # the model's shape counts a batch, so this array is a series
            if not snapshot:
                sys.exit(
                    f"{box} holds {len(values)} snapshots: name one, 0 to {len(values) - 1}, after {out}"
                )
            values = values[int(snapshot[0])]
        inputs[item.name] = values[None].astype(np.float32)
(xi,) = session.run(["xi"], inputs)
np.save(out, xi[0])
