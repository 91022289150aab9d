"""Judging predictions: methods, scores and the report."""
