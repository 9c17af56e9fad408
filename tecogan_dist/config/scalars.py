"""Types of settings: numbers, words and switches that are taken as they are written, and never turned into each other.

Pydantic would else read 5.0, ``"5"`` and ``true`` as the whole number 5. Whole numbers fit into 64 bits, fractional
ones into single precision, which is what networks compute with, also when two of them are multiplied with small ones.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, Strict
from pydantic_core import PydanticCustomError

MOST = 2**63 - 1
LARGEST, SMALLEST = 1e30, 1e-30
LONGEST_TEXT = 4096


def _printable(text: str) -> str:
    if any(character < " " or character == "\x7f" for character in text):
        raise PydanticCustomError("control_characters", "input should have no control characters")
    return text


def _countable(amount: float) -> float:
    if 0 < amount < 1e-4:
        raise PydanticCustomError("too_small", "input should be 0 or at least 0.0001")
    return amount


NonNegativeInt = Annotated[int, Strict(), Field(ge=0, le=MOST)]
PositiveInt = Annotated[int, Strict(), Field(gt=0, le=MOST)]
Count = Annotated[int, Strict(), Field(gt=0, le=100_000)]
"""Of what a machine has or does at a time."""
Steps = Annotated[int, Strict(), Field(gt=0, le=10**12)]
Number = Annotated[float, Strict(), Field(ge=-LARGEST, le=LARGEST)]
NonNegativeFloat = Annotated[float, Strict(), Field(ge=0, le=LARGEST)]
PositiveFloat = Annotated[float, Strict(), Field(gt=0, le=LARGEST)]
Divisor = Annotated[float, Strict(), Field(ge=SMALLEST, le=LARGEST)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Strict(), Field(gt=0, le=1)]
Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]
Seconds = Annotated[float, Strict(), Field(gt=0, le=1e8)]
Amount = Annotated[float, Strict(), Field(ge=0, le=1e9), AfterValidator(_countable)]
"""Of a resource of Ray's, which it keeps in 64 bits as ten thousandths."""
Switch = Annotated[bool, Strict()]
Name = Annotated[str, Strict(), Field(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, Strict(), Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_printable)]
Resources = Annotated[dict[Name, Amount], Field(max_length=100)]
