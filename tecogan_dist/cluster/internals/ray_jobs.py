"""What is used of Ray's job client that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobSubmissionClient

from tecogan_dist.base.waiting import TooSlowError, within

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
SILENT_SECONDS = 60.0
"""Between two bytes of an answer."""
FIRST_SECONDS, ANSWER_SECONDS, UPLOAD_SECONDS = 20.0, 90.0, 600.0
"""For the first answer, by which a dashboard is known; for others; and for what is sent with PUT."""
MOST_BYTES = 32 * 2**20
"""Of an answer: a list of thousands of jobs."""


class JobClient(JobSubmissionClient):
    """Ray's, which goes to the address that it is given and nowhere else, and takes answers with an end only.

    Every method raises ``OSError`` where no whole answer comes, besides what Ray's raises.
    """

    def __init__(self, address: str) -> None:
        # Ray would rather go where the environment says.
        before = os.environ.get(ADDRESS_VARIABLE)
        os.environ[ADDRESS_VARIABLE] = address
        try:
            super().__init__(address)
        finally:
            if before is None:
                del os.environ[ADDRESS_VARIABLE]
            else:
                os.environ[ADDRESS_VARIABLE] = before

    def _do_request(self, method: str, endpoint: str, **settings: Any) -> Any:
        seconds = UPLOAD_SECONDS if method == "PUT" else ANSWER_SECONDS
        if endpoint == "/api/version":
            seconds = FIRST_SECONDS
        limits: dict[str, Any] = {
            "timeout": min(SILENT_SECONDS, seconds),
            # Our token and the job's secrets would go along.
            "allow_redirects": False,
            "hooks": {"response": _read},
        }
        url = urlsplit(self.get_address())
        server = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
        ask = super()._do_request
        try:
            return within(
                seconds,
                lambda: ask(method, endpoint, stream=True, **settings, **limits),
                what=f"the dashboard at {url.hostname} to answer",
                server=server,
            )
        except TooSlowError as error:
            raise TimeoutError(f"no whole answer in {seconds:.0f} s") from error

    @property
    def ray_version(self) -> str:
        """The cluster's."""
        return str(self._server_ray_version)


def _read(response: requests.Response, **_: Any) -> None:
    """Take the answer's body, which ``requests`` would take whatever its size. Raises ``OSError`` for what is none."""
    if response.is_redirect:
        raise requests.exceptions.InvalidURL("it sends its visitors to another address")
    content = bytearray()
    for piece in response.iter_content(2**16):
        content += piece
        if len(content) > MOST_BYTES:
            raise requests.exceptions.ContentDecodingError(f"an answer of more than {MOST_BYTES / 2**20:.0f} MB")
    response._content = bytes(content)
