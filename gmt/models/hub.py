"""Files of a hub's model on this machine: fetched once, by huggingface_hub, and kept in its cache. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gmt.errors import UserError
from gmt.file_digests import git_sha1_of, sha256_of
from gmt.machine_faults import machine_faults_first
from gmt.models.model_files import PATTERNS

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_OF_OTHERS = ("original/*", "onnx/*")  # the same weights once more, for other programs


def download(repo: str, revision: str, *, with_code: bool) -> Path:
    """The folder with a model's config, safetensors and tokenizer; without a network that of an earlier download.

    Args:
        repo: the hub id.
        revision: commit, branch or tag.
        with_code: whether its Python files are fetched too.

    Raises:
        UserError: there is none of that name or revision, it needs an agreement, or the hub may not be asked
            (HF_HUB_OFFLINE) and its files aren't in the cache.
        MachineFault: the hub can't be reached or answers that it is out of order, or the disk fails.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    named = f"model.path={repo} with model.revision={revision}"
    patterns = [*PATTERNS, "*.py"] if with_code else list(PATTERNS)
    try:
        with machine_faults_first(f"{named} (there is no such folder here, so that it is asked of the hub)"):
            return Path(
                snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=list(_OF_OTHERS))
            )
    except GatedRepoError as error:
        raise UserError(
            f"{named} needs an agreement: accept it on the model's page, then `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{named}: the hub has that model, and not that revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{named}: there is no such folder here, and no such model on the hub, or it is private (HF_TOKEN)"
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise UserError(_refused(named, error.__cause__)) from error
        raise UserError(
            f"{named}: the hub can't be reached and its files aren't in the cache; model.path may be a local folder"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(_refused(named, error)) from error


def check_blobs(files: Iterable[Path]) -> None:
    """Refuse files of the hub's cache that are not what they were downloaded as: a cache may be shared.

    The cache calls a large file by its SHA-256 and a small one by the SHA-1 that git gives it. Where a cache holds
    copies in place of links, their names are not kept.

    Raises:
        UserError: a file's content is not what its name says.
    """
    for blob in (path.resolve() for path in files if path.is_symlink()):
        name_of = sha256_of if _SHA256.fullmatch(blob.name) else git_sha1_of if _SHA1.fullmatch(blob.name) else None
        if name_of is not None and name_of(blob) != blob.name:
            raise UserError(
                f"a file of the hub's cache must be what it was downloaded as, and {blob} was cut or changed: delete "
                "it, and it is downloaded anew"
            )


def _refused(named: str, error: HfHubHTTPError) -> str:
    code = error.response.status_code
    advice = "HF_TOKEN must hold a token that may read it" if code in (401, 403) else "ask for something else"
    return f"{named}: the hub answers {code}; {advice}"
