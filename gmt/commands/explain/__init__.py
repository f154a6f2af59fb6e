"""Explains settings and choices by the docstrings of their classes and the comments of conf/."""
