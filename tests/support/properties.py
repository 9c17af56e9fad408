"""Settings of property tests: few examples, the same ones each time, and no clock, since these machines are busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""For ``@EXAMPLES`` above ``@given(...)``."""
