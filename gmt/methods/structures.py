"""The words for matrices whose rows and columns are coupled. Imports no library, so that planning can read them."""

CHANNELS = ("up", "gate", "down")  # of a feed-forward part
HEADS = ("q", "k", "v", "o")  # of an attention part
