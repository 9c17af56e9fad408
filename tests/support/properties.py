"""Settings of property tests: few examples, the same ones each time, and no clock, since these machines are busy."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""For ``@EXAMPLES`` above ``@given(...)``."""


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """``content`` with bytes replaced, put in and taken out at a few places."""
    found = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(found)))
        replaced = data.draw(st.integers(0, 8))
        found[position : position + replaced] = data.draw(st.binary(max_size=8))
    return bytes(found)
