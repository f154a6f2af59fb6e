"""The commands of `gmt`, one file each: each composes the config, calls the code that does the work, and prints."""
