"""What the names of images say: their order, what is missing between them, and which of two folders belong together."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from tecogan_dist.base.errors import UserError

DIGITS = re.compile(r"(\d+)")
STEP_SEEN = 3
"""Images that show that only every 2nd, 5th ... frame is there on purpose; two of them could as well have lost some."""


class GapError(UserError):
    """Images whose names are not those of one whole sequence."""


def digits_of(path: PurePath) -> tuple[bool, int, str, str]:
    """A key that sorts by all digits of a name read as one number, however long, then by the name."""
    digits = "".join(filter(str.isdecimal, path.stem))
    number = digits.lstrip("0")
    return bool(digits), len(number), number, path.name


def check_sequence(images: Sequence[PurePath], *, folder: object, allow_gaps: bool = False) -> None:
    """Raise :class:`UserError` unless the names of ``images``, which are in order, are those of one whole sequence.

    Names without any number are taken in their own order. Numbers are those of one sequence if the names differ in one
    number only, which grows by the same step from each image to the next; if not, it is a :class:`GapError`.
    ``allow_gaps`` takes any numbers that differ. Of two images with one name but for its suffix, or with one number,
    nobody knows which is meant. ``folder`` is named in the sentence.
    """
    for one, other in itertools.pairwise(sorted(images, key=lambda image: image.stem)):
        if one.stem == other.stem:
            raise UserError(f"{folder} holds {one.name} and {other.name}, two images of one name: take one away.")
    numbers = frame_numbers([image.stem for image in images])
    if numbers is None:
        numbered = [image for image in images if DIGITS.search(image.stem)]
        if numbered and not allow_gaps:
            raise GapError(f"{folder} holds {_odd_pair(images)}, which are not of one sequence: {_advice()}")
        return
    pairs = list(itertools.pairwise(zip(numbers, images, strict=True)))
    steps = Counter(after - before for (before, _), (after, _) in pairs)
    usual = steps.most_common(1)[0][0] if len(images) >= STEP_SEEN else 1
    for (before, first), (after, second) in pairs:
        if before == after:
            raise UserError(f"{folder} holds {first.name} and {second.name}, two images of one number: take one away.")
        if after - before != usual and not allow_gaps:
            between = f"the images between {first.name} and {second.name} are missing"
            if after - before < usual:
                between = f"{first.name} and {second.name} are closer to each other than all others"
            raise GapError(f"{folder} has a gap in its numbers, {between}: {_advice()}")


def frame_numbers(stems: Sequence[str]) -> list[int] | None:
    """The number of each frame, by names without suffix that differ in one number only; None for other names."""
    parts = [DIGITS.split(stem) for stem in stems]
    words = {tuple(part[::2]) for part in parts}
    if len(words) != 1 or len(parts[0]) == 1:
        return None
    columns = list(zip(*(part[1::2] for part in parts), strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) > 1:
        return None
    return [int(number) for number in (varying or columns[-1:])[0]]


def check_pairing(ours: Sequence[str], theirs: Sequence[str], *, our_path: object, their_path: object) -> str:
    """Check that the frames of two folders, by their names without suffix, belong together in the order they are in.

    As many of both. Their numbers may differ by the same distance throughout, as where one side counts from 1: then the
    text that is returned says so, and is "" otherwise. Names without numbers must be the same, or one a part of the
    other. Raises :class:`UserError`, which names the first two frames that do not fit.
    """
    our_numbers, their_numbers = frame_numbers(ours), frame_numbers(theirs)
    if our_numbers is None or their_numbers is None:
        for our, their in zip(ours, theirs, strict=True):
            if our not in their and their not in our:
                raise _no_pair(our_path, our, their_path, their)
        return ""
    distance = our_numbers[0] - their_numbers[0]
    for our, our_number, their, their_number in zip(ours, our_numbers, theirs, their_numbers, strict=True):
        if our_number - their_number != distance:
            raise _no_pair(our_path, our, their_path, their)
    if not distance:
        return ""
    return f"the numbers of {our_path} and {their_path} differ by {abs(distance)}: {ours[0]} is taken for {theirs[0]}"


def _no_pair(our_path: object, our: str, their_path: object, their: str) -> UserError:
    return UserError(
        f"the frames of {our_path} and {their_path} do not belong together, {our} would meet {their}: give frames of "
        "the same numbers."
    )


def _odd_pair(images: Sequence[PurePath]) -> str:
    """Two neighbours that differ in more than a number."""
    for before, after in itertools.pairwise(images):
        if frame_numbers([before.stem, after.stem]) is None:
            return f"{before.name} and {after.name}"
    return f"{images[0].name} and {images[-1].name}"


def _advice() -> str:
    return "add what is missing, or put what belongs together into a folder of its own."
