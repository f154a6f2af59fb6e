"""`python -m gmt` is the same program as `gmt`."""

from gmt.cli import main

main()
