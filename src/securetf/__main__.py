"""`python -m securetf` is `securetf`."""

from securetf.cli import main

main()
