"""Where things are in the repository."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent
REFERENCE = TESTS / "reference"
"""Vectors that the original TensorFlow code computed."""
TENSORFLOW_CHECKPOINTS = TESTS / "weights" / "checkpoints"
"""Small checkpoints that TensorFlow wrote."""
