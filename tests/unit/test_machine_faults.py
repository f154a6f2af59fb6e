"""A fault of the machine while something is read is tried again; a mistake of the user is not: the cause decides."""

import builtins
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from gmt.errors import MachineFault, UserError
from gmt.machine_faults import ERRNOS, machine_fault, machine_faults_first
from gmt.models.pretrained import SHIPPED
from gmt.records.record import RunRecord
from gmt.runs.attempt import outcome_of
from gmt.runs.failures import kind_of
from gmt.runs.settings import RecordSettings
from gmt.tasks.rows import Source
from tests.models import pretrained

pytestmark = pytest.mark.heavy

BROKEN = Path("/proc/self/mem")  # opens, and answers a read with EIO and a mapping with ENODEV: a broken disk
OF_THE_USER = ("ENOENT", "EACCES", "EPERM", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "EINVAL", "EEXIST", "EFBIG")

needs_broken = pytest.mark.skipif(not BROKEN.exists(), reason="needs Linux's /proc/self/mem")


def kind_of_raised(do: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # of any class: its kind is what counts
        do()
    return kind_of(caught.value)


def rows_of(path: Path | str, revision: str | None = None) -> object:
    return Source(setting="task.data", path=str(path), subset=None, revision=revision, split="train").rows()


def folder_with(tmp_path: Path, name: str, put: Callable[[Path], object]) -> Path:
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    put(folder / name)
    return folder


@needs_broken
@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("config.json", "load_config"),
        ("tokenizer.json", "load_tokenizer"),
        ("tokenizer_config.json", "load_tokenizer"),
        ("model.safetensors", "base"),
        ("generation_config.json", "base"),
        ("config.json", "fingerprint"),
    ],
)
def test_a_broken_disk_below_a_model_is_no_mistake_of_the_user(tmp_path: Path, name: str, stage: str) -> None:
    folder = folder_with(tmp_path, name, lambda file: file.symlink_to(BROKEN))
    assert kind_of_raised(getattr(pretrained(path=str(folder)), stage)) == "infrastructure"


@needs_broken
def test_a_broken_disk_below_data_is_no_mistake_of_the_user(tmp_path: Path) -> None:
    for path in (tmp_path / "rows.jsonl", tmp_path / "folder"):
        file = path if path.suffix else path / "train.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.symlink_to(BROKEN)
        assert kind_of_raised(lambda path=path: rows_of(path)) == "infrastructure"  # type: ignore[misc]


@needs_broken
def test_a_record_on_a_broken_disk_is_not_to_be_deleted(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, "ab")
    record.folder.mkdir()
    (record.folder / "status.json").symlink_to(BROKEN)
    with pytest.raises(MachineFault) as caught:
        record.status()
    assert "delete" not in str(caught.value)


@pytest.mark.parametrize("number", sorted(ERRNOS), ids=errno.errorcode.get)
def test_each_fault_that_a_disk_reports_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "rows.json").write_text('[{"a": 1}]')
    (tmp_path / "weights.gguf").write_text("GGUF")
    broken, whole = "", builtins.open

    def open_(file: Any, *arguments: Any, **more: Any) -> Any:
        if str(file).endswith(broken):
            raise OSError(number, os.strerror(number), str(file))
        return whole(file, *arguments, **more)

    of_gguf = pretrained(source="gguf", gguf=str(tmp_path / "weights.gguf"))
    reads: list[tuple[str, Callable[[], object]]] = [
        ("config.json", pretrained().load_config),
        ("tokenizer_config.json", pretrained().load_tokenizer),
        ("rows.jsonl", lambda: rows_of(tmp_path / "rows.jsonl")),
        ("rows.json", lambda: rows_of(tmp_path / "rows.json")),
        ("weights.gguf", of_gguf.load_config),
        ("weights.gguf", of_gguf.load_tokenizer),
        ("weights.gguf", of_gguf.base),
    ]
    monkeypatch.setattr(builtins, "open", open_)
    monkeypatch.setattr("io.open", open_)
    for broken, read in reads:
        assert kind_of_raised(read) == "infrastructure", broken


@pytest.mark.parametrize("number", [getattr(errno, name) for name in OF_THE_USER], ids=OF_THE_USER)
def test_the_error_of_a_wrong_path_is_no_fault_of_the_machine(number: int) -> None:
    def wrapped() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise UserError("no") from error

    assert kind_of_raised(wrapped) == "user"


@pytest.mark.parametrize(
    ("name", "text", "stage"),
    [
        ("config.json", "{", "load_config"),
        ("config.json", json.dumps({"model_type": "unheard_of"}), "load_config"),
        ("tokenizer.json", "{", "load_tokenizer"),
        ("model.safetensors", "no weights", "base"),
    ],
)
def test_files_of_a_wrong_format_are_the_users_mistake(tmp_path: Path, name: str, text: str, stage: str) -> None:
    folder = folder_with(tmp_path, name, lambda file: file.write_text(text))
    assert kind_of_raised(getattr(pretrained(path=str(folder)), stage)) == "user"


@pytest.mark.parametrize(("name", "text"), [("rows.jsonl", "{"), ("rows.json", "{"), ("rows.parquet", "PAR")])
def test_data_of_a_wrong_format_is_the_users_mistake(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert kind_of_raised(lambda: rows_of(tmp_path / name)) == "user"


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    assert kind_of_raised(lambda: pretrained(path=str(tmp_path / "none"))) == "user"
    assert kind_of_raised(lambda: rows_of(tmp_path / "none.jsonl")) == "user"
    assert kind_of_raised(lambda: pretrained(source="gguf", gguf=str(tmp_path / "none.gguf"))) == "user"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "infrastructure"),
        (RuntimeError("cuBLAS: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"), "infrastructure"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
            "infrastructure",
        ),
        (SafetensorError("I/O error: Stale file handle (os error 116)"), "infrastructure"),
        (MemoryError(), "infrastructure"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "user"),  # of what was loaded
        (RuntimeError("size mismatch"), "user"),
    ],
)
def test_a_device_that_fails_while_weights_load_is_no_mistake_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, kind: str
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("gmt.models.base_weights.load_base", load)
    folder = shutil.copytree(SHIPPED / "nano", tmp_path / "model")
    assert kind_of_raised(pretrained(path=str(folder)).base) == kind


def test_lm_evals_data_on_a_broken_disk_is_no_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmt.evaluation.harness_tasks._has_several_tasks", lambda task: False)  # lm-eval takes seconds
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    from gmt.evaluation.harness_tasks import explain_data_errors

    def raised(cause: Exception, error: Exception) -> Callable[[], None]:
        def do() -> None:
            with explain_data_errors("gsm8k", None):
                raise error from cause

        return do

    assert kind_of_raised(raised(OSError(errno.EIO, "I/O"), DatasetGenerationError("no"))) == "infrastructure"
    assert kind_of_raised(raised(ConnectionResetError(), ConnectionError("no"))) == "infrastructure"
    assert kind_of_raised(raised(ValueError("404"), DatasetNotFoundError("no"))) == "user"


@contextlib.contextmanager
def hub_that_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int | None) -> Iterator[None]:
    """A hub that answers every question with one status; None: nothing listens there."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status or 0)
            self.send_header("Content-Length", "0")
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    if status is None:
        server.shutdown()
        server.server_close()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("huggingface_hub.constants.ENDPOINT", "datasets.config.HF_ENDPOINT"):
        monkeypatch.setattr(name, address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)  # it asks again with pauses
    try:
        yield
    finally:
        if status is not None:
            server.shutdown()
            server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((None, "infrastructure"), (500, "infrastructure"), (503, "infrastructure"), (429, "infrastructure")),
        *((404, "user"), (401, "user"), (403, "user")),
    ],
)
def test_a_hub_out_of_order_is_tried_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int | None, kind: str
) -> None:
    with hub_that_answers(monkeypatch, tmp_path, status):
        assert kind_of_raised(pretrained(path="some/body", revision="0" * 40).load_config) == kind
        assert kind_of_raised(lambda: rows_of("some/body", revision="0" * 40)) == kind


def test_what_an_error_was_raised_from_or_while_decides_and_what_was_hidden_does_not() -> None:
    def raised(*, hide: bool) -> None:
        try:
            raise OSError(errno.ESTALE, "Stale file handle")
        except OSError:
            if hide:
                raise UserError("no") from None
            raise UserError("no")  # noqa: B904

    assert kind_of_raised(lambda: raised(hide=False)) == "infrastructure"
    assert kind_of_raised(lambda: raised(hide=True)) == "user"


def test_an_attempt_says_of_a_machines_fault_that_it_may_be_tried_again() -> None:
    def faulty() -> None:
        with machine_faults_first("model.path='x'"):
            raise OSError(errno.ESTALE, "Stale file handle")

    outcome = outcome_of(faulty)
    assert outcome.kind == "infrastructure"
    assert outcome.error == "model.path='x' can't be read now: OSError: [Errno 116] Stale file handle"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("HIP error: unspecified launch failure"),
        RuntimeError("HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
        RuntimeError("rocSOLVER error: ROCSOLVER_STATUS_INTERNAL_ERROR"),
        RuntimeError("miopenStatusInternalError"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR"),
        ReadTimeoutError(None, "x", "Read timed out."),  # type: ignore[arg-type]
        ConnectTimeoutError(None, "timed out"),
        NewConnectionError(None, "Failed to establish a new connection"),  # type: ignore[arg-type]
        ssl.SSLEOFError(8, "EOF occurred in violation of protocol"),
        sqlite3.OperationalError("database or disk is full"),
        Exception("(sqlite3.OperationalError) disk I/O error"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        OSError("Consistency check failed: file should be of size 5 but has size 3 (model.safetensors)"),
    ],
    ids=str,
)
def test_a_fault_of_the_machine_in_any_librarys_words_is_one(error: Exception) -> None:
    assert machine_fault(error) is error


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        RuntimeError("HIPBLAS_STATUS_INVALID_VALUE when calling hipblasGemmEx"),
        sqlite3.OperationalError("no such table: runs"),
        ValueError("could not convert string to float: 'Connection refused'"),
        KeyError("Input/output error"),
        AssertionError("expected 'too many open files'"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling cublasGemmEx"),
    ],
)
def test_what_quotes_a_fault_is_none(error: Exception) -> None:
    assert machine_fault(error) is None


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_disk_that_fails_below_record_root_is_no_mistake_in_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    settings: dict[str, Any] = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 0, "keep_weights": False}
    monkeypatch.setattr("tempfile.mkdtemp", fails)
    RecordSettings(root=str(tmp_path), **settings)  # a run meets it, and tries again
    monkeypatch.setattr(Path, "exists", fails)
    with pytest.raises(MachineFault, match=r"record\.root=.* can't be read now"):
        RecordSettings(root=str(tmp_path), **settings)
