"""The commands of `gmt`, one file each: they compose, build, call what does the work, and print."""
