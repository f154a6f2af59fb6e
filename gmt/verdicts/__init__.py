"""What a study decides: its declared questions, the comparisons that answer them, and what the seeds can show.

Plain numbers in, verdicts out: this package knows neither configs, records nor tables. numpy and scipy compute; ours is
which runs are compared.
"""
