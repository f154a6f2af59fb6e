"""The files that a run was made of, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gmt.runs.build import Run
from gmt.used_files import KnowsItsFiles, in_words

if TYPE_CHECKING:
    from gmt.runs.prepare import Prepared

Sources = Mapping[str, Mapping[str, Any]]


def sources_of(run: Run, prepared: Prepared) -> Sources:
    """Return commit and SHA-256 of all files that model and task are made of, e.g. by `model.files` and `task.data`.

    Raises:
        UserError: a file of the hub's cache is not what it was downloaded as.
    """
    model = run.model.used_files() if isinstance(run.model, KnowsItsFiles) else {}
    used = {f"model.{word}": files for word, files in model.items()}
    used |= {f"task.{word}": files for word, files in prepared.used_files.items()}
    return {name: files.recorded() for name, files in used.items()}


def of_hub(sources: Sources) -> dict[str, str]:
    """Return what the run id does not hold, in a few words each: commits and files of the hub.

    A branch may move, and files of a shared cache may be changed; the content of local files is in the run id.
    """
    return {name: in_words(source) for name, source in sources.items() if source["commit"] is not None}
