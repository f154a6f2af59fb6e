"""Explains settings and choices, from the docstrings of their classes and the comments of conf/."""
