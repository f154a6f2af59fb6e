"""The files of a run's model and task, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gmt.runs.build import Run
from gmt.used_files import KnowsItsFiles, in_words

if TYPE_CHECKING:
    from gmt.runs.prepare import Prepared

Sources = Mapping[str, Mapping[str, Any]]


def sources_of(run: Run, prepared: Prepared) -> Sources:
    """Return the commits and SHA-256 of all files of model and task, by names such as `model.files` and `task.data`.

    Raises:
        UserError: a file in the hub's cache has changed since it was downloaded.
    """
    model = run.model.used_files() if isinstance(run.model, KnowsItsFiles) else {}
    used = {f"model.{name}": files for name, files in model.items()}
    used |= {f"task.{name}": files for name, files in prepared.used_files.items()}
    return {name: files.recorded() for name, files in used.items()}


def hub_versions(sources: Sources) -> dict[str, str]:
    """Return a few words on the commit and the files of each source on the hub, by the source's name.

    The run id covers the content of local files, but not of files of the hub: a branch may move, and files in a shared
    cache may change.
    """
    return {name: in_words(source) for name, source in sources.items() if source["commit"] is not None}
