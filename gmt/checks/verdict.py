"""The verdict on a law. Imports no library."""

from dataclasses import dataclass
from typing import Literal

State = Literal["holds", "refused", "skipped", "broken"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one law.

    Args:
        law: the law, as a sentence.
        state: `holds`; `refused`: the plug-in says in a sentence that it does not support this, which is no fault;
            `skipped`: the law can't be tested on this config; `broken`.
        detail: the observation; of a broken law also the remedy.
    """

    law: str
    state: State
    detail: str = ""
