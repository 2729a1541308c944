"""The line to a Qdrant server: one client, questions asked again while the server is away, errors in our words."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from qdrant_client import QdrantClient
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from engine.errors import EarshotError, MemoryStoreError
from engine.memory.server_errors import explained, passes, server_says, wait_asked_for_s
from engine.memory.server_options import ServerAddress, ServerOptions

T = TypeVar("T")

#: The first server that can look for a part of a text, which filters by path need.
OLDEST_SERVER = (1, 20)
#: How long who only asks waits for a server that is away; a run, and who has written, ``ServerOptions.patience_s``.
ASKING_PATIENCE_S = 10.0
#: A request may take this long, a connection that.
REQUEST_S, CONNECT_S = 60, 5.0
#: By itself gRPC looks every two minutes whether a server is back.
_RECONNECT_MS = 10_000
_POLL_S = 0.1
_pause = wait_random_exponential(multiplier=0.5, max=15)
_log = logging.getLogger(__name__)


class ServerLink:
    """Asks one server; may be used from several threads. Everything it is asked to do may be done twice.

    ``say`` gets one line whenever the user should know something; by default Python's logging prints it.
    """

    def __init__(self, address: ServerAddress, options: ServerOptions, client: QdrantClient | None = None) -> None:
        self.address = address
        self.say: Callable[[str], None] = _log.warning
        #: Whether it is a run that asks, which is more patient, and which leaves something behind where it ends.
        self.lasts = False
        self._options = options
        self._given_up: Callable[[], bool] = lambda: False
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._is_away = False
        self._is_checked = False
        self._is_mine = client is None
        self._client = client or connected(address, options)

    @property
    def where(self) -> str:
        """The server, for messages."""
        return f"the Qdrant server at {self.address}"

    @property
    def patience_s(self) -> float:
        """How long a server that is away is waited for."""
        return self._options.patience_s if self.lasts else min(ASKING_PATIENCE_S, self._options.patience_s)

    def check(self) -> None:
        """Raise ``MemoryStoreError`` unless a Qdrant server of a version that can do all we need answers; asks once.

        Says that a key travels in the clear, or that the server is much newer than what we speak.
        """
        if self._is_checked:
            return
        if self._options.api_key and self.address.scheme == "http" and not self.address.is_local:
            self.say(f"the API key travels in the clear to {self.address}; https keeps it to itself")
        info = self.ask("asking for its version", lambda client: client.info())
        found, ours = _version(info.version), _version(importlib.metadata.version("qdrant-client"))
        if "qdrant" not in (info.title or "").lower() or found is None or ours is None:
            raise MemoryStoreError(
                f"something else than Qdrant at {self.address} ({info.title} {info.version})"[:300],
                "a Qdrant server",
                "check host, port and prefix",
            )
        if found < OLDEST_SERVER or found[0] > ours[0]:
            least = ".".join(map(str, OLDEST_SERVER))
            action = "update the server" if found < OLDEST_SERVER else "update earshot and qdrant-client"
            raise MemoryStoreError(
                f"Qdrant {info.version} at {self.address}", f"{least} or newer, and before {ours[0] + 1}.0", action
            )
        if found[1] > ours[1] + 1:
            self.say(f"Qdrant {info.version} at {self.address} is newer than qdrant-client {ours[0]}.{ours[1]} knows")
        self._is_checked = True

    def ask(self, asked: str, call: Callable[[QdrantClient], T], patience_s: float | None = None) -> T:
        """What ``call`` returns; asked again, with pauses, while the server is away or busy and patience lasts.

        ``patience_s`` is for this call only; 0 asks once. Raises ``MemoryStoreError`` saying what was ``asked`` of
        whom, and ``KeyboardInterrupt`` if, between two tries, ``until`` says that nobody waits any more.
        """

        def left_s(state: RetryCallState) -> float:
            return (self.patience_s if patience_s is None else patience_s) - (state.seconds_since_start or 0.0)

        retrying = Retrying(
            retry=retry_if_exception(passes),
            stop=lambda state: left_s(state) <= 0,
            wait=lambda state: min(left_s(state), max(_pause(state), wait_asked_for_s(_error(state)))),
            sleep=self._sleep,
            before_sleep=self._say_away,
            reraise=True,
        )
        try:
            answer = retrying(call, self._client)
        except EarshotError:
            raise
        except Exception as error:
            raise explained(error, self.address.url, asked, self._options.api_key is not None, self.lasts) from error
        self._say_back()
        return answer

    @contextmanager
    def until(self, given_up: Callable[[], bool]) -> Iterator[None]:
        """Inside, wait for the server as long as a run does, but only while ``given_up`` is False."""
        before = self.lasts, self._given_up
        self.lasts, self._given_up = True, given_up
        try:
            yield
        finally:
            self.lasts, self._given_up = before

    def end_waits(self) -> None:
        """From here on nobody waits any more; before ``close``, so that no thread holds it up."""
        self._ending.set()

    def is_given_up(self) -> bool:
        """Whether nobody waits any more."""
        return self._ending.is_set() or self._given_up()

    def close(self) -> None:
        """Let the connections go."""
        if self._is_mine:
            self._client.close()

    def _sleep(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left := until - time.monotonic()) > 0:
            if self.is_given_up():
                raise KeyboardInterrupt
            time.sleep(min(left, _POLL_S))

    def _say_away(self, state: RetryCallState) -> None:
        """Once, however many threads wait, and however often they try."""
        with self._lock:
            was_away, self._is_away = self._is_away, True
        if was_away:
            return
        error = _error(state)
        self.say(
            f"{self.where} does not answer ({server_says(error) if error else ''}); trying again "
            f"for {self.patience_s:.0f} s at most; Ctrl-C stops, nothing is lost"
        )

    def _say_back(self) -> None:
        with self._lock:
            was_away, self._is_away = self._is_away, False
        if was_away:
            self.say(f"{self.where} answers again")


def connected(address: ServerAddress, options: ServerOptions) -> QdrantClient:
    """A client; it connects when it is first used."""
    kind: dict[str, Any] = {"event_hooks": {"request": [_connect_soon]}}
    if options.api_key:
        # Not as api_key, which warns about http even on this machine: whether to warn is decided in `check`.
        kind["headers"] = {"api-key": options.api_key}
    return QdrantClient(
        url=address.url,
        prefer_grpc=options.grpc_port is not None,
        grpc_port=options.grpc_port or 0,
        grpc_options={"grpc.max_reconnect_backoff_ms": _RECONNECT_MS},
        timeout=REQUEST_S,
        check_compatibility=False,
        **kind,
    )


def _connect_soon(request: httpx.Request) -> None:
    """A host that swallows packets is known as away long before a request may time out."""
    request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "connect": CONNECT_S}


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _version(text: str) -> tuple[int, int] | None:
    match = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None
