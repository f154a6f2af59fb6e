"""The decisions of a study: its declared questions, the comparisons that answer them, and the power of its seeds.

Plain numbers in, verdicts out: this package knows neither configs, records nor tables. numpy and scipy compute; ours is
which runs are compared.
"""
