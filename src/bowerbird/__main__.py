"""`python -m bowerbird`."""

from bowerbird.cli import main

main()
