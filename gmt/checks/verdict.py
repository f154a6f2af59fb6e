"""What came of a law. Imports no library."""

from dataclasses import dataclass
from typing import Literal

State = Literal["holds", "refused", "skipped", "broken"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one law.

    Args:
        law: a sentence on what must hold.
        state: `holds`; `refused`: the plug-in says in a sentence that it can't, which is as good; `skipped`: it could
            not be tried; `broken`.
        detail: what was seen; of a broken law also what to do.
    """

    law: str
    state: State
    detail: str = ""
