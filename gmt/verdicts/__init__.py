"""The decisions of a study: its declared questions, the comparisons that answer them, and the power of its seeds.

This package takes plain numbers and returns verdicts: it knows neither configs, records nor tables. numpy and scipy do
the statistics; this package decides which runs are compared, and words the result.
"""
