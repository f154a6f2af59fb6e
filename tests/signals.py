"""The signals of the mask by what they need, for tests that range over them."""

from gmt.masking.signals import TABLE

WITHOUT_ACTIVATIONS = [row.name for row in TABLE.values() if not row.needs_activations]
BY_STRETCHES = [row.name for row in TABLE.values() if row.whole is None]
WHOLE = [name for name in TABLE if name not in BY_STRETCHES]
