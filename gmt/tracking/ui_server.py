"""The server behind `gmt ui`: MLflow's application for its owner alone, and without MLflow's Assistant.

MLflow asks nobody for a password. Its Assistant runs shell commands for whoever connects from the same machine, and
can't be switched off.
"""

import os
import signal
import socket
import sys
import threading

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gmt.credentials import without_user
from gmt.tracking.owner_only import OwnerOnly
from gmt.tracking.views import STORAGE

_ASSISTANT = "/mlflow/assistant"
# MLflow's server reads these variables when it is imported. Values set by the user could switch its checks off.
_SERVER_PREFIXES = ("_MLFLOW_", "MLFLOW_SERVER_")
_QUIET = {"MLFLOW_LOGGING_LEVEL": "ERROR", "MLFLOW_DISABLE_TELEMETRY": "true"}
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # processes of jobs would call this server without a cookie
_UPLOADS = "./mlartifacts"  # MLflow's own default


def serve(*, store: str, listener: int, token: str, path: str) -> None:
    """Serve a store until a signal ends the process, or its standard input closes.

    Args:
        store: the URI of a database.
        listener: the file descriptor of a listening socket.
        token: see `OwnerOnly`.
        path: see `OwnerOnly`.
    """
    threading.Thread(target=_end_with_starter, name="gmt-ui-starter", daemon=True).start()
    _set_environment(store)
    import uvicorn
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    from gmt.tracking.mlflow_view import STORE_ERRORS
    from gmt.tracking.reasons import reason

    try:
        initialize_backend_stores()
    except (*STORE_ERRORS, ImportError) as error:
        sys.exit(f"tracking.uri must be a store that answers, got {without_user(store)}: {reason(error)}")

    owner_only = OwnerOnly(without_assistant(app), token=token, path=path, storage=STORAGE)
    config = uvicorn.Config(
        owner_only,
        log_level="warning",
        access_log=False,  # it would contain the token
        lifespan="off",  # MLflow uses it only to clean up after its Assistant
        ws="none",
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener)])


def without_assistant(app: ASGIApp) -> ASGIApp:
    """Return MLflow's application with its Assistant closed to everybody."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if _ASSISTANT in scope["path"]:
            await PlainTextResponse("gmt ui: MLflow's Assistant is closed.\n", status_code=403)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


def _end_with_starter() -> None:
    """End this process when `gmt ui` ends, even by SIGKILL, which closes its end of the standard input."""
    os.read(sys.stdin.fileno(), 1)  # sys.stdin.read() would make a terminating interpreter fail
    os.kill(os.getpid(), signal.SIGTERM)


def _set_environment(store: str) -> None:
    """Set the variables that `mlflow server` sets (mlflow.server.constants, which can't be imported before this)."""
    for name in [name for name in os.environ if name.startswith(_SERVER_PREFIXES)]:
        del os.environ[name]
    os.environ |= _QUIET | _NO_JOBS
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = os.environ["_MLFLOW_SERVER_REGISTRY_STORE"] = store
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION", _UPLOADS)
