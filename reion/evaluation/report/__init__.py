"""The report of an evaluation: one page to look at, and its figures and numbers as files."""
