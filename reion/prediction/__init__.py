"""Prediction: from a model file and a Simulation to xi, in bounded memory."""
