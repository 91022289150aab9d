"""The report of an evaluation: one HTML page, and its figures and numbers as files."""
