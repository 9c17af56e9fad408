"""What is used of Ray's job client that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

import os
from typing import Any

from ray.job_submission import JobSubmissionClient

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
ANSWER_SECONDS = 60.0


class JobClient(JobSubmissionClient):
    """Ray's, which goes to the address that it is given, and does not wait for ever for an answer."""

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
        return super()._do_request(method, endpoint, timeout=ANSWER_SECONDS, **settings)

    @property
    def ray_version(self) -> str:
        """The cluster's."""
        return str(self._server_ray_version)
