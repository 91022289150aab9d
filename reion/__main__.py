"""`python -m reion`."""

from reion.cli.main import main

main()
