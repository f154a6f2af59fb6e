"""Templates of `gmt new`: the first files of a plug-in."""
