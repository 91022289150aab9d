"""Evaluation of predictions: methods, scores and the report."""
