"""Runs the program `gmt` as `python -m gmt`."""

from gmt.cli import main

main()
