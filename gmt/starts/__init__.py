"""What `gmt new` writes: the few lines from which a plug-in of one's own begins."""
