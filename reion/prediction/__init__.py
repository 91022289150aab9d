"""Prediction: xi from a model file and a Simulation, in bounded memory."""
