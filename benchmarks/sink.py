"""A server that takes points and throws them away, in a process of its own: ``python -m benchmarks.sink``.

Prints its URL and its gRPC port, and ends with its standard input. What is left of an upload's cost is the client's.
"""

from __future__ import annotations

import sys

from tests.engine.memory import stub_qdrant


def main() -> None:
    """Serve until the reader of our output closes our input."""
    stub_qdrant._Points.Upsert = lambda service, request, context: stub_qdrant._done()  # type: ignore[method-assign]
    with stub_qdrant.stub() as server:
        server.store.local.upsert = lambda *_, **__: None  # type: ignore[method-assign, assignment, return-value]
        print(server.url, server.grpc_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
