"""What is used of Ray Data that has no public name, read in Ray 2.60.0. Decoding processes import it: no torch here."""

from __future__ import annotations

from ray.data._internal.execution.execution_callback import ExecutionCallback as ExecutionCallback
