"""A gRPC call over a bare socket: another user has no library of ours, and needs none."""

import encodings.idna  # noqa: F401  # a connection needs it, and the second user may be unable to read it
import socket

UNIMPLEMENTED, UNAUTHENTICATED = "12", "16"
NO_GRPC = "no gRPC"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4


def grpc_status(port: int, method: str, *, token: str = "", timeout_s: float = 10) -> str:
    """Return the status with which a server of this machine refuses an empty request, `answered`, or NO_GRPC.

    Args:
        port: on the loopback.
        method: /PACKAGE.SERVICE/METHOD.
        token: shown as Ray's clients show it; empty for none.
        timeout_s: of the whole call.
    """
    headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost"}
    headers |= {"te": "trailers", "content-type": "application/grpc"}
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    packed = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"")
            + _frame(_HEADERS, _END_HEADERS, 1, packed)
            + _frame(_DATA, _END_STREAM, 1, bytes(5))
        )
        with connection.makefile("rb") as answer:
            while True:
                head = answer.read(9)
                if len(head) < 9 or head.startswith(b"HTTP/"):
                    return NO_GRPC
                kind, flags = head[3], head[4]
                body = answer.read(int.from_bytes(head[:3], "big"))
                if kind == _DATA:
                    return "answered"
                if kind == _HEADERS and flags & _END_STREAM:
                    value = body.partition(b"grpc-status")[2]
                    return value[1 : 1 + value[0]].decode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _text(value: str) -> bytes:
    """Of at most 126 letters, as HPACK (RFC 7541, 5.2) writes it plainly."""
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()
