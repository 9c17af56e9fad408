"""A real S3 server on loopback: moto's, in this process, for tests and the processes that they start."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import urllib.request
from collections.abc import Iterator

import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "clips-of-tests"


@dataclasses.dataclass
class S3Server:
    """The environment names it while it runs. What it stores outlives :meth:`stop` and :meth:`start`."""

    port: int = 0

    def start(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()

    def require_credentials(self, required: bool) -> None:
        """Let the server look at the keys of requests, which it takes as they come otherwise."""
        free_requests = "0" if required else "inf"
        request = urllib.request.Request(
            f"http://{self.endpoint}/moto-api/reset-auth",
            data=free_requests.encode(),
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=30).close()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def uri(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"

    def files(self) -> pyarrow.fs.S3FileSystem:
        """The server's own view, for tests that look behind our code."""
        return pyarrow.fs.S3FileSystem(
            endpoint_override=self.endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
        )


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with one empty bucket; AWS_* of the environment are set for it, also for processes started inside."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = S3Server()
        server.start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{server.endpoint}")
        try:
            server.files().create_dir(BUCKET)
            yield server
        finally:
            server.stop()
