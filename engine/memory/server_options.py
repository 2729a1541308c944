"""Where a Qdrant server is and how it is to be used: a URL, and settings from the environment."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast
from urllib.parse import urlsplit

from engine.errors import LibraryError

Quantization: TypeAlias = Literal["scalar", "turbo"]

_PREFIX = "EARSHOT_QDRANT_"
_REST_PORT = 6333


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server's URL, checked and in one spelling: ``http(s)://host:port/prefix``."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """The address in a URL; without a port it is Qdrant's own, 6333. Raises ``LibraryError``."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.username is not None or parts.password is not None:  # never shown: it may be a secret
            raise LibraryError(
                "a name or a password in the server's URL", "http(s)://HOST:PORT", f"put the key into {_PREFIX}API_KEY"
            )
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise LibraryError(f"the server {url!r}", "http(s)://HOST:PORT, or https://HOST:PORT/PREFIX")
        return cls(parts.scheme, host, port or _REST_PORT, parts.path.rstrip("/"))

    @property
    def url(self) -> str:
        """The one spelling of it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def is_local(self) -> bool:
        """Whether it is this very machine, so that nothing travels over a wire."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    def __str__(self) -> str:
        return self.url


def is_url(library: object) -> bool:
    """Whether the user means a server by this, not a folder."""
    return isinstance(library, str) and library.strip().lower().startswith(("http://", "https://"))


@dataclass(frozen=True)
class ServerOptions:
    """How a server is used; each has its home and its default here, and its name in ``from_environment``.

    ``api_key`` is never shown. With ``grpc_port`` points travel by gRPC instead of REST. ``quantization``, ``shards``
    and ``replicas`` hold for a collection from when it is made. ``patience_s`` is how long a run waits for a server
    that went away.
    """

    api_key: str | None = field(default=None, repr=False)
    grpc_port: int | None = None
    quantization: Quantization | None = None
    shards: int | None = None
    replicas: int | None = None
    patience_s: float = 600.0

    @classmethod
    def from_environment(cls, values: Mapping[str, str] = os.environ) -> ServerOptions:
        """The options in ``EARSHOT_QDRANT_API_KEY``, ``_GRPC_PORT``, ``_QUANTIZATION``, ``_SHARDS`` and so on.

        Unset and empty are the same. Raises ``LibraryError`` for a value without meaning.
        """
        patience_s = _whole(values, "PATIENCE_S", 0)
        return cls(
            api_key=_key(values),
            grpc_port=_whole(values, "GRPC_PORT", 1, 65535),
            quantization=_quantization(values),
            shards=_whole(values, "SHARDS", 1),
            replicas=_whole(values, "REPLICAS", 1),
            patience_s=cls.patience_s if patience_s is None else patience_s,
        )


def _key(values: Mapping[str, str]) -> str | None:
    key = values.get(f"{_PREFIX}API_KEY", "").strip()
    if not key.isascii() or not key.isprintable():
        raise LibraryError(f"letters in {_PREFIX}API_KEY that no header can carry", "plain ASCII", "copy the key again")
    return key or None


def _quantization(values: Mapping[str, str]) -> Quantization | None:
    text = values.get(f"{_PREFIX}QUANTIZATION", "").strip()
    if text not in ("", "scalar", "turbo"):
        raise LibraryError(f"{_PREFIX}QUANTIZATION={text!r}", "scalar, turbo, or nothing")
    return cast(Quantization, text) if text else None


def _whole(values: Mapping[str, str], name: str, least: int, most: int | None = None) -> int | None:
    text = values.get(f"{_PREFIX}{name}", "").strip()
    if not text:
        return None
    number = int(text) if text.isascii() and text.isdigit() else -1
    if number < least or (most is not None and number > most):
        upto = f" to {most}" if most is not None else ""
        raise LibraryError(f"{_PREFIX}{name}={text!r}", f"a whole number from {least}{upto}")
    return number
