"""`python -m explain.cli` is the `explain` command."""

from explain.cli import main

main()
