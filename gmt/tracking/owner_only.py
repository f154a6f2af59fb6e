"""Opens a web application to the owner of a secret link, and to nobody else. Knows nothing of MLflow.

The link sets a cookie for a secret path below which the application is served. Browsers send the cookies of 127.0.0.1
to each of its ports, so without that path another user's server would get our cookie.
"""

import json
from collections.abc import Mapping
from secrets import compare_digest

from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_COOKIE = "gmt-ui"
_REFUSAL = "Only the link that `gmt ui` printed when it started opens this page. Another start prints another link.\n"
# A script leads to the page, since browsers do not send a strict cookie after a redirect that another site started.
_LOGIN_PAGE = (
    "<!doctype html><title>gmt ui</title><script>for (const [key, value] of Object.entries({storage})) "
    "if (localStorage.getItem(key) === null) localStorage.setItem(key, value);\n"
    "location.replace('/{path}/' + location.hash)</script>"
)
_LOGIN_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class OwnerOnly:
    """An ASGI application that answers 403 to whoever has not opened `/login/TOKEN`.

    Args:
        app: the application, served below `/PATH/`; it sees its paths without that prefix.
        token: the secret that grants access, of ASCII letters and digits.
        path: the secret part of the path, of ASCII letters and digits.
        storage: values that the browser stores for the application unless it has others; no text from outside.
    """

    def __init__(self, app: ASGIApp, *, token: str, path: str, storage: Mapping[str, str] | None = None):
        self._app, self._token, self._path, self._storage = app, token, path, dict(storage or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", scope["type"]  # the server is configured for HTTP alone
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        if first == "login" and _equals_secret(rest, self._token):
            await self._login()(scope, receive, send)
        elif (
            slash
            and _equals_secret(first, self._path)
            and _equals_secret(HTTPConnection(scope).cookies.get(_COOKIE, ""), self._token)
        ):
            await self._app({**scope, "path": f"/{rest}", "raw_path": None}, receive, send)
        else:
            await PlainTextResponse(_REFUSAL, status_code=403)(scope, receive, send)

    def _login(self) -> HTMLResponse:
        page = HTMLResponse(
            _LOGIN_PAGE.format(path=self._path, storage=json.dumps(self._storage)), headers=_LOGIN_HEADERS
        )
        page.set_cookie(_COOKIE, self._token, path=f"/{self._path}/", httponly=True, samesite="strict")
        return page


def _equals_secret(text: str, secret: str) -> bool:
    """Return whether a text equals a secret, in a time that does not reveal how much of it is right."""
    return compare_digest(text.encode(errors="replace"), secret.encode())
