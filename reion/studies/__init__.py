"""Whole studies: the quickstart, and networks compared on the same boxes."""
