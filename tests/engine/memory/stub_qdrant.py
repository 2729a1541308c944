"""A Qdrant server for tests, REST and gRPC on real ports: the client's own local mode answers behind both.

What it shows of a real server: every byte that travels, and every way in which one may fail (``fault``). What it can't
show: how a real server builds graphs, flushes, and orders concurrent writes.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import grpc as rpc
from qdrant_client import QdrantClient, grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload

#: What to do instead of answering: a status, headers and a body, or None for a connection that breaks off.
Fault = tuple[int, dict[str, str], bytes] | None
Ask = Callable[[str, str], "Fault | bool"]


@dataclass
class Store:
    """The state of the server: collections in local mode, and what that leaves out of a server's settings."""

    version: str = "1.20.0"
    title: str = "qdrant - vector search engine"
    local: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    lock: threading.RLock = field(default_factory=threading.RLock)
    created: dict[str, models.CreateCollection] = field(default_factory=dict)
    indexes: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Every value that a collection's ``indexing_threshold`` has had, in order.
    thresholds: list[int] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    def info(self, name: str) -> models.CollectionInfo:
        """As a server tells it: with settings, indexes, and the next of ``statuses`` while there are any."""
        info = self.local.get_collection(name)
        name = self.real(name)
        created = self.created.get(name)
        if self.thresholds:
            info.config.optimizer_config.indexing_threshold = self.thresholds[-1]
        if self.statuses:
            info.status = models.CollectionStatus(self.statuses.pop(0))
        info.config.quantization_config = created.quantization_config if created else None
        info.payload_schema = {
            key: models.PayloadIndexInfo(data_type=schema.type.value, params=schema, points=0)
            for key, schema in self.indexes.get(name, {}).items()
        }
        return info

    def real(self, name: str) -> str:
        """The collection behind a name or an alias."""
        return next((a.collection_name for a in self.local.get_aliases().aliases if a.alias_name == name), name)

    def create(self, name: str, asked: models.CreateCollection) -> bool:
        self.created[name] = asked
        if asked.optimizers_config and asked.optimizers_config.indexing_threshold is not None:
            self.thresholds.append(asked.optimizers_config.indexing_threshold)
        return self.local.create_collection(
            name,
            vectors_config=asked.vectors,
            sparse_vectors_config=asked.sparse_vectors,
            metadata=asked.metadata,
        )

    def update(self, name: str, optimizers: models.OptimizersConfigDiff | None) -> bool:
        self.local.get_collection(name)
        if optimizers and optimizers.indexing_threshold is not None:
            self.thresholds.append(optimizers.indexing_threshold)
        return True

    def index(self, name: str, key: str, schema: Any) -> None:
        self.local.get_collection(name)
        self.indexes.setdefault(name, {})[key] = schema

    def set_payload(self, name: str, payload: dict[str, Any], where: models.Filter) -> None:
        """As a server does: a null removes its key (local mode keeps it as a value)."""
        ids = [point.id for point in self.scroll(name, models.ScrollRequest(filter=where, limit=10**6))[0]]
        if ids:
            self.local.set_payload(name, {k: v for k, v in payload.items() if v is not None}, ids)
            self.local.delete_payload(name, [k for k, v in payload.items() if v is None], ids)

    def scroll(self, name: str, asked: models.ScrollRequest) -> tuple[list[models.Record], Any]:
        return self.local.scroll(
            name,
            scroll_filter=asked.filter,
            limit=asked.limit or 10,
            offset=asked.offset,
            with_payload=asked.with_payload is not False,
            with_vectors=bool(asked.with_vector),
        )


class Stub:
    """The server: ``url`` for REST, ``grpc_port`` for gRPC; ``fault(method, path)`` may answer in its place."""

    def __init__(self, key: str | None = None, certificate: Path | None = None) -> None:
        self.store = Store()
        self.key = key
        self.prefix = ""
        self.fault: Ask = lambda method, path: False
        self.requests: list[tuple[str, str]] = []
        self._rest = _Quiet(("127.0.0.1", 0), type("Handler", (_Handler,), {"stub": self}))
        self._scheme = "https" if certificate else "http"
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._rest.socket = tls.wrap_socket(self._rest.socket, server_side=True)
        self._thread = threading.Thread(target=self._rest.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.grpc_port = 0
        self.start_grpc()

    def start_grpc(self) -> None:
        """Answer by gRPC, after ``stop_grpc`` on the same port as before."""
        self._rpc = rpc.server(ThreadPoolExecutor(8))
        grpc.qdrant_pb2_grpc.add_QdrantServicer_to_server(_Root(self), self._rpc)
        grpc.collections_service_pb2_grpc.add_CollectionsServicer_to_server(_Collections(self), self._rpc)
        grpc.points_service_pb2_grpc.add_PointsServicer_to_server(_Points(self), self._rpc)
        self.grpc_port = self._rpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}")
        self._rpc.start()

    def stop_grpc(self) -> None:
        self._rpc.stop(None).wait()

    @property
    def port(self) -> int:
        return self._rest.server_port

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._rest.shutdown()
        self._rest.server_close()
        self._thread.join()
        self.stop_grpc()

    def paths(self, method: str, pattern: str) -> list[str]:
        """The paths asked for so far by this method that match."""
        return [path for m, path in self.requests if m == method and re.search(pattern, path)]


@contextmanager
def stub(key: str | None = None, certificate: Path | None = None) -> Iterator[Stub]:
    """A server for the time inside; by https with a certificate and its key, in one PEM file."""
    server = Stub(key, certificate)
    try:
        yield server
    finally:
        server.stop()


def fails(status: int, words: str = "it is so", headers: dict[str, str] | None = None) -> Fault:
    """An answer in Qdrant's form of an error."""
    body = json.dumps({"status": {"error": words}, "time": 0.0}).encode()
    return status, {"Content-Type": "application/json", **(headers or {})}, body


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that broke off: some tests want that."""


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"null", parse_constant=_refuse)
        path = urlsplit(self.path).path
        self.stub.requests.append((self.command, path))
        fault = self.stub.fault(self.command, path)
        if fault is None:
            self.close_connection = True
            self.connection.close()
        elif fault is not False:
            self._answer(*fault)
        elif not path.startswith(self.stub.prefix):
            self._answer(404, {"Content-Type": "text/html"}, b"<html>not here</html>")
        elif path != "/" and self.stub.key and self.headers.get("api-key") != self.stub.key:
            self._answer(401, {}, b"Must provide an API key or an Authorization bearer token")
        else:
            self._answer(*self._result(path.removeprefix(self.stub.prefix) or "/", body))

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names http.server looks for

    def _result(self, path: str, body: Any) -> Fault:
        store = self.stub.store
        if path == "/":
            return _json({"title": store.title, "version": store.version})
        for method, pattern, serve in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                with store.lock:
                    try:
                        return _json({"result": serve(store, *map(unquote, match.groups()), body), "status": "ok"})
                    except ValueError as error:
                        return fails(409 if "already exists" in str(error) else 404, str(error))
        return fails(404, f"no such place: {path}")

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _json(answer: Any) -> Fault:
    text = json.dumps({"time": 0.0, **answer}, default=lambda model: model.model_dump(mode="json"))
    return 200, {"Content-Type": "application/json"}, text.encode()


def _query_batch(store: Store, name: str, asked: models.QueryRequestBatch) -> list[models.QueryResponse]:
    return [
        store.local.query_points(
            name,
            query=s.query,
            using=s.using,
            query_filter=s.filter,
            limit=s.limit or 10,
            with_payload=True,
            with_vectors=bool(s.with_vector),
        )
        for s in asked.searches
    ]


def _scroll(store: Store, name: str, body: Any) -> dict[str, Any]:
    points, offset = store.scroll(name, models.ScrollRequest(**body))
    return {"points": points, "next_page_offset": offset}


def _index(store: Store, name: str, body: Any) -> dict[str, Any]:
    asked = models.CreateFieldIndex(**body)
    store.index(name, asked.field_name, asked.field_schema)
    return _DONE


def _aliases(store: Store, body: Any) -> bool:
    return store.local.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)


def _upsert(store: Store, name: str, body: Any) -> dict[str, Any]:
    asked = models.PointsList(**body)
    store.local.upsert(name, asked.points, update_mode=asked.update_mode)
    return _DONE


def _update_vectors(store: Store, name: str, body: Any) -> dict[str, Any]:
    store.local.update_vectors(name, models.UpdateVectors(**body).points)
    return _DONE


def _delete_vectors(store: Store, name: str, body: Any) -> dict[str, Any]:
    asked = models.DeleteVectors(**body)
    store.local.delete_vectors(name, asked.vector, asked.points or [])
    return _DONE


def _delete(store: Store, name: str, body: Any) -> dict[str, Any]:
    store.local.delete(name, models.FilterSelector(**body))
    return _DONE


def _set_payload(store: Store, name: str, body: Any) -> dict[str, Any]:
    asked = models.SetPayload(**body)
    assert asked.filter is not None
    store.set_payload(name, asked.payload, asked.filter)
    return _DONE


def _count(store: Store, name: str, body: Any) -> models.CountResult:
    asked = models.CountRequest(**body)
    return store.local.count(name, asked.filter, exact=True)


_DONE = {"operation_id": 1, "status": "completed"}
_NAME = r"/collections/([^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/aliases", lambda s, b: s.local.get_aliases()),
    ("POST", "/collections/aliases", _aliases),
    ("GET", f"{_NAME}/exists", lambda s, n, b: {"exists": s.local.collection_exists(n)}),
    ("GET", _NAME, lambda s, n, b: s.info(n)),
    ("PUT", _NAME, lambda s, n, b: s.create(n, models.CreateCollection(**b))),
    ("PATCH", _NAME, lambda s, n, b: s.update(n, models.UpdateCollection(**b).optimizers_config)),
    ("DELETE", _NAME, lambda s, n, b: s.local.delete_collection(n)),
    ("PUT", f"{_NAME}/index", _index),
    ("PUT", f"{_NAME}/points", _upsert),
    ("PUT", f"{_NAME}/points/vectors", _update_vectors),
    ("POST", f"{_NAME}/points/vectors/delete", _delete_vectors),
    ("POST", f"{_NAME}/points/delete", _delete),
    ("POST", f"{_NAME}/points/payload", _set_payload),
    ("POST", f"{_NAME}/points/query/batch", lambda s, n, b: _query_batch(s, n, models.QueryRequestBatch(**b))),
    ("POST", f"{_NAME}/points/scroll", _scroll),
    ("POST", f"{_NAME}/points/count", _count),
]


class _Servicer:
    """What all gRPC services of the stub share: the key, faults, codes for local errors."""

    def __init__(self, stub: Stub) -> None:
        self.stub, self.store = stub, stub.store

    @contextmanager
    def _call(self, name: str, context: rpc.ServicerContext) -> Iterator[None]:
        self.stub.requests.append(("gRPC", name))
        fault = self.stub.fault("gRPC", name)
        if fault is None:
            context.abort(rpc.StatusCode.UNAVAILABLE, "gone")
        elif fault is not False:
            context.abort(rpc.StatusCode[fault[1]["code"]], json.loads(fault[2])["status"]["error"])
        if self.stub.key and dict(context.invocation_metadata()).get("api-key") != self.stub.key:
            context.abort(rpc.StatusCode.UNAUTHENTICATED, "Must provide an API key")
        with self.store.lock:
            try:
                yield
            except ValueError as error:
                exists = "already exists" in str(error)
                context.abort(rpc.StatusCode.ALREADY_EXISTS if exists else rpc.StatusCode.NOT_FOUND, str(error))


class _Root(_Servicer, grpc.qdrant_pb2_grpc.QdrantServicer):
    def HealthCheck(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name for it
        with self._call("HealthCheck", context):
            return grpc.HealthCheckReply(title=self.store.title, version=self.store.version)


class _Collections(_Servicer, grpc.collections_service_pb2_grpc.CollectionsServicer):
    def ListAliases(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("ListAliases", context):
            aliases = self.store.local.get_aliases().aliases
            return grpc.ListAliasesResponse(aliases=[RestToGrpc.convert_alias_description(a) for a in aliases])

    def UpdateAliases(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("UpdateAliases", context):
            self.store.local.update_collection_aliases(
                [GrpcToRest.convert_alias_operations(action) for action in request.actions]
            )
            return grpc.CollectionOperationResponse(result=True)

    def CollectionExists(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("CollectionExists", context):
            exists = self.store.local.collection_exists(request.collection_name)
            return grpc.CollectionExistsResponse(result=grpc.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Get", context):
            info = self.store.info(request.collection_name)
            return grpc.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    def Create(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Create", context):
            asked = models.CreateCollection(
                vectors=GrpcToRest.convert_vectors_config(request.vectors_config),
                sparse_vectors=GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config),
                optimizers_config=GrpcToRest.convert_optimizers_config_diff(request.optimizers_config),
                quantization_config=GrpcToRest.convert_quantization_config(request.quantization_config)
                if request.HasField("quantization_config")
                else None,
                shard_number=request.shard_number if request.HasField("shard_number") else None,
                metadata=grpc_to_payload(request.metadata),
            )
            return grpc.CollectionOperationResponse(result=self.store.create(request.collection_name, asked))

    def Update(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Update", context):
            optimizers = GrpcToRest.convert_optimizers_config_diff(request.optimizers_config)
            return grpc.CollectionOperationResponse(result=self.store.update(request.collection_name, optimizers))


class _Points(_Servicer, grpc.points_service_pb2_grpc.PointsServicer):
    def Upsert(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Upsert", context):
            points = [GrpcToRest.convert_point_struct(point) for point in request.points]
            mode = GrpcToRest.convert_update_mode(request.update_mode)
            self.store.local.upsert(request.collection_name, points, update_mode=mode)
            return _done()

    def UpdateVectors(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("UpdateVectors", context):
            points = [GrpcToRest.convert_point_vectors(point) for point in request.points]
            self.store.local.update_vectors(request.collection_name, points)
            return _done()

    def DeleteVectors(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("DeleteVectors", context):
            selector = GrpcToRest.convert_points_selector(request.points_selector)
            self.store.local.delete_vectors(request.collection_name, list(request.vectors.names), selector)
            return _done()

    def Delete(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Delete", context):
            selector = GrpcToRest.convert_points_selector(request.points)
            self.store.local.delete(request.collection_name, selector)
            return _done()

    def SetPayload(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("SetPayload", context):
            where = GrpcToRest.convert_filter(request.points_selector.filter)
            self.store.set_payload(request.collection_name, grpc_to_payload(request.payload), where)
            return _done()

    def QueryBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("QueryBatch", context):
            searches = [GrpcToRest.convert_query_points(query) for query in request.query_points]
            answers = _query_batch(
                self.store, request.collection_name, models.QueryRequestBatch.model_construct(searches=searches)
            )
            return grpc.QueryBatchResponse(
                result=[
                    grpc.BatchResult(result=[RestToGrpc.convert_scored_point(p) for p in answer.points])
                    for answer in answers
                ]
            )

    def Scroll(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Scroll", context):
            asked = models.ScrollRequest(
                filter=GrpcToRest.convert_filter(request.filter),
                limit=request.limit,
                offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
                with_vector=request.with_vectors.enable,
            )
            points, offset = self.store.scroll(request.collection_name, asked)
            return grpc.ScrollResponse(
                result=[RestToGrpc.convert_record(point) for point in points],
                next_page_offset=RestToGrpc.convert_extended_point_id(offset) if offset is not None else None,
            )

    def Count(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("Count", context):
            found = self.store.local.count(
                request.collection_name, GrpcToRest.convert_filter(request.filter), exact=True
            )
            return grpc.CountResponse(result=grpc.CountResult(count=found.count))

    def CreateFieldIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._call("CreateFieldIndex", context):
            params = request.field_index_params
            convert = GrpcToRest.convert_payload_schema_params
            self.store.index(request.collection_name, request.field_name, convert(params))
            return _done()


def _done() -> Any:
    return grpc.PointsOperationResponse(result=grpc.UpdateResult(operation_id=1, status=grpc.UpdateStatus.Completed))
