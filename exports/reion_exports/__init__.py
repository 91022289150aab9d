"""A Keras model in, a self-contained ONNX file out, and the proof that both agree."""
