"""Short names of matrices whose rows and columns are coupled. Imports no library, so that planning can import it."""

CHANNELS = ("up", "gate", "down")  # of a feed-forward part
HEADS = ("q", "k", "v", "o")  # of an attention part
