"""The clusters that `gmt submit` can submit a sweep to: one file with one class for each type of cluster.

The submitted job is `gmt sweep` itself, joined to the cluster's Ray; these files only submit it.
"""
