"""What a Qdrant server's failures mean: which pass by themselves, and what to do about the others."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http import HTTPStatus

import grpc
import httpx
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from engine.errors import MemoryStoreError

_KEY = "EARSHOT_QDRANT_API_KEY"
_MOST_WORDS = 300

_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
#: A gRPC code as the HTTP status with the same meaning.
_STATUS_OF = {
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
_NO_ROOM = ("no space left", "os error 28", "disk is full", "out of disk", "insufficient storage", "disk quota")
_TOO_LARGE = ("larger than max", "payload too large")


def passes(error: BaseException) -> bool:
    """Whether the same may well succeed in a while: the server is away, starting, or has too much to do."""
    words = server_says(error).lower()
    if _is_tls(error) or any(sign in words for sign in (*_NO_ROOM, *_TOO_LARGE)):
        return False
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _PASSING_STATUS
    if isinstance(error, grpc.RpcError):
        return _code(error) in _PASSING_CODES
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, httpx.TransportError) and not isinstance(
            error.source, httpx.UnsupportedProtocol
        )
    return isinstance(error, ResourceExhaustedResponse)


def wait_asked_for_s(error: BaseException | None) -> float:
    """The pause that the server asked for, or 0."""
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else 0.0


def server_says(error: BaseException) -> str:
    """The server's own words, or the system's, in one line and without headers."""
    if isinstance(error, UnexpectedResponse):
        return _short(f"{error.status_code} {error.reason_phrase}: {_said(error)}")
    if isinstance(error, grpc.RpcError):
        code = _code(error)
        details = getattr(error, "details", lambda: "")() or ""
        return _short(f"{code.name if code else 'gRPC'}: {details}")
    if isinstance(error, ResponseHandlingException):
        return _short(f"{error.source}" or type(error.source).__name__)
    return _short(str(error) or type(error).__name__)


def explained(error: BaseException, url: str, asked: str, has_key: bool, is_run: bool) -> MemoryStoreError:
    """The error for the user: ``asked`` is what was being done at the server; a run, unlike a search, may go on."""
    words = server_says(error)
    failed = f"the Qdrant server at {url}: {asked} failed ({words})"
    status = _status(error)
    if _is_tls(error):
        return MemoryStoreError(
            failed,
            "TLS with a certificate trusted here",
            "use http:// if it has none; SSL_CERT_FILE may name an authority",
        )
    if any(sign in words.lower() for sign in _NO_ROOM):
        return MemoryStoreError(
            failed, "room on the server's disk", "free some, then do the same again: nothing is lost"
        )
    if any(sign in words.lower() for sign in _TOO_LARGE) or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return MemoryStoreError(
            failed, "a server that takes a few MB at once", "raise the limit of the proxy before it"
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        expected = f"a key with the right to do that in {_KEY}" if has_key else f"the server's key in {_KEY}"
        return MemoryStoreError(failed, expected, "ask whoever runs the server")
    if isinstance(error, UnexpectedResponse) and error.headers.get("location"):
        return MemoryStoreError(failed, "an answer, not a way elsewhere", f"use {error.headers['location']}")
    if passes(error):
        action = "start it, or check host and port"
        if is_run:
            action += "; what was saved by now is kept, and the same command goes on from there"
        return MemoryStoreError(
            f"no answer from the Qdrant server at {url} ({words})", "a Qdrant server that runs", action
        )
    if _is_foreign(error):
        return MemoryStoreError(
            f"something else than Qdrant at {url} ({words})", "a Qdrant server", "check host, port and prefix"
        )
    return MemoryStoreError(failed, action="the server's log says more")


def _status(error: BaseException) -> int | None:
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    code = _code(error)
    return _STATUS_OF.get(code) if code else None


def _code(error: BaseException) -> grpc.StatusCode | None:
    return error.code() if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) else None


def _said(error: UnexpectedResponse) -> str:
    """The reason in Qdrant's form of an error, or the beginning of whatever came instead."""
    try:
        return str(error.structured()["status"]["error"])
    except (ValueError, KeyError, TypeError):
        return error.content[:_MOST_WORDS].decode("utf-8", "replace")


def _is_foreign(error: BaseException) -> bool:
    """Whether what answered doesn't speak as Qdrant does."""
    if isinstance(error, UnexpectedResponse):
        try:
            return "status" not in error.structured()
        except (ValueError, TypeError):
            return True
    if isinstance(error, ResponseHandlingException):
        return isinstance(error.source, ValueError | httpx.UnsupportedProtocol)
    return isinstance(error, ValueError)


def _is_tls(error: BaseException) -> bool:
    """Whether the certificate, or the lack of TLS, is at fault."""
    signs = ("certificate_verify_failed", "ssl handshake failed", "wrong_version_number", "certificate verify failed")
    return any(isinstance(cause, ssl.SSLError) for cause in _causes(error)) or any(
        sign in server_says(error).lower() for sign in signs
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it."""
    seen: list[BaseException | None] = [None]
    cause: BaseException | None = error.source if isinstance(error, ResponseHandlingException) else error
    while cause not in seen:
        assert cause is not None
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _short(text: str) -> str:
    return " ".join(text.split())[:_MOST_WORDS]
