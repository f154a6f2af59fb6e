"""The parser of `gmt`: each command is a sub-parser, declared beside the function that carries the command out."""

from gmt.commands.parsers.parse import make_parser, parse, sub_parsers

__all__ = ["make_parser", "parse", "sub_parsers"]
