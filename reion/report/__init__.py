"""The report of an evaluation: one page to look at, and its figures and numbers as files."""

from reion.report.page import write_report

__all__ = ["write_report"]
