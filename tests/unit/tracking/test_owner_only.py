"""Nobody reaches an application behind OwnerOnly without its link."""

import asyncio
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from gmt.tracking.owner_only import OwnerOnly

TOKEN, PATH = "0123456789abcdef", "fedcba98"
COOKIE = f"gmt-ui={TOKEN}"


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"].decode()
    await JSONResponse([scope["method"], scope["path"], scope["query_string"].decode(), body])(scope, receive, send)


def _ask(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """The status, headers and text of an answer; the path is as the server hands it on, decoded."""
    sent: list[Message] = []
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "raw_path": b"?", "query_string": b"a=%2F"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"body", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(OwnerOnly(_echo, token=TOKEN, path=PATH, storage={"kind": '"training"'})(scope, receive, send))
    start, *rest = sent
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], answered, b"".join(message["body"] for message in rest).decode()


def test_the_link_logs_in_as_often_as_it_is_opened() -> None:
    for _ in range(2):
        status, headers, text = _ask(f"/login/{TOKEN}")
        assert status == 200
        assert f"location.replace('/{PATH}/' + location.hash)" in text
        assert 'Object.entries({"kind": "\\"training\\""})' in text
        assert headers["set-cookie"] == f"{COOKIE}; HttpOnly; Path=/{PATH}/; SameSite=strict"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/api/2.0/x", "/ä b", "//x", f"/login/{TOKEN}", f"/{PATH}/x", "/../x"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_the_application_sees_its_own_paths(path: str, method: str) -> None:
    status, _, text = _ask(f"/{PATH}{path}", method, cookie=f"other=x; {COOKIE}")
    assert (status, text) == (200, JSONResponse([method, path, "a=%2F", "body"]).body.decode())


@pytest.mark.parametrize("cookie", ["", "gmt-ui", "gmt-ui=", f"{COOKIE}0", f"gmt-ui={PATH}", f"x={TOKEN}", "gmt-ui=ä"])
def test_all_else_is_refused(cookie: str) -> None:
    for path in (
        *(
            "/",
            "//",
            "",
            "*",
            "/health",
            "/version",
            "/favicon.ico",
            "/static-files/x",
            "/api/2.0/x",
            "/login",
            "/login/",
        ),
        *(
            f"/login/{TOKEN[:-1]}",
            f"/login/{TOKEN}0",
            f"/login/{TOKEN}/",
            f"/login//{TOKEN}",
            "/login/ä",
            "/login/\udcff",
        ),
        *(f"//login/{TOKEN}", f"/LOGIN/{TOKEN}", f"/{TOKEN}", f"/x/../login/{TOKEN}", "login"),
        *(f"/{PATH}", f"/{PATH}/", f"/{PATH}/health", f"//{PATH}/", f"/{PATH}/../{PATH}/", f"/{PATH}/login/x"),
    ):
        for method in ("GET", "POST", "OPTIONS"):
            status, headers, text = _ask(path, method, cookie=cookie, authorization=f"Bearer {TOKEN}")
            assert (status, "set-cookie" in headers) == (403, False), path
            assert "`gmt ui` printed" in text


@pytest.mark.parametrize("path", ["/", f"/{PATH}", "/login/", f"//{PATH}/", "/api/2.0/x", "/fedcba99/", "/ä/"])
def test_the_cookie_opens_its_own_path_only(path: str) -> None:
    assert _ask(path, cookie=COOKIE)[0] == 403
