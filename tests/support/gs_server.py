"""A server that speaks Google Cloud Storage on loopback: an emulator, without credentials."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator

import gcp_storage_emulator.server


@contextlib.contextmanager
def gs_server() -> Iterator[str]:
    """Yields an address below which anything may be written, to be filled in with a name by ``format``."""
    for name in ("gcp_storage_emulator.server", "gcp_storage_emulator.handlers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = gcp_storage_emulator.server.create_server("127.0.0.1", port, in_memory=True, default_bucket="tests")
    server.start()
    try:
        yield f"gs://tests/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http"
    finally:
        server.stop()
