"""Where `gmt submit` can hand a sweep to: one file for each kind of cluster, one class in it.

The sweep that runs there is `gmt sweep` itself, joined to the cluster's Ray; these files only bring it there.
"""
