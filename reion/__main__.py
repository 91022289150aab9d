"""`python -m reion`."""

from reion.cli import main

main()
