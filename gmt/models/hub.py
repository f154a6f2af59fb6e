"""Downloads the files of a hub model once, into the cache of huggingface_hub. Imports no torch."""

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
_OTHER_FORMATS = ("original/*", "onnx/*")  # the same weights again, for other programs


def download(repo: str, revision: str, *, with_code: bool) -> Path:
    """Return the folder with a model's config, safetensors and tokenizer files; download those that the cache lacks.

    Args:
        repo: the hub id.
        revision: a commit, branch or tag.
        with_code: whether to download Python files too.

    Raises:
        UserError: there is no such model or revision, the model needs an agreement, the hub refuses the download, or
            HF_HUB_OFFLINE forbids it and the cache lacks the files.
        MachineFault: the hub can't be reached or reports a fault of its own, or the disk fails.
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
        with machine_faults_first(f"{named} (a model of the hub, since there is no such folder here)"):
            return Path(
                snapshot_download(
                    repo, revision=revision, allow_patterns=patterns, ignore_patterns=list(_OTHER_FORMATS)
                )
            )
    except GatedRepoError as error:
        raise UserError(
            f"{named} needs an agreement: accept it on the model's page, then `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{named}: the hub has this model, but not this revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{named}: there is no such folder here and no such model on the hub; a private model needs HF_TOKEN"
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
    """Raise UserError if a file of the hub's cache has changed since its download; users may share a cache.

    The cache names a large file by its SHA-256 and a small one by its SHA-1 in git. Files that are copies instead of
    links have other names, and are not checked.

    Raises:
        UserError: the hash of a file differs from its name.
    """
    for blob in (path.resolve() for path in files if path.is_symlink()):
        name_of = sha256_of if _SHA256.fullmatch(blob.name) else git_sha1_of if _SHA1.fullmatch(blob.name) else None
        if name_of is not None and name_of(blob) != blob.name:
            raise UserError(
                f"{blob}, a file of the hub's cache, was cut or changed after its download: delete it, and it is "
                "downloaded again"
            )


def _refused(named: str, error: HfHubHTTPError) -> str:
    code = error.response.status_code
    advice = "HF_TOKEN must hold a token that may read it" if code in (401, 403) else "check both settings"
    return f"{named}: the hub answers with HTTP status {code}; {advice}"
