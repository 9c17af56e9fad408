"""Which arguments of a command name places, and what becomes of them where the command runs on another machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tecogan_dist.base.errors import UserError
from tecogan_dist.cluster.packing import MOST_BYTES
from tecogan_dist.commands.parser import hyphenated
from tecogan_dist.config.leaves import leaves
from tecogan_dist.config.load import load, preset_names
from tecogan_dist.data.prepare import sources
from tecogan_dist.published.catalogue import names
from tecogan_dist.upscaling.inputs import is_list, listed_in

READ = (
    *("--config", "--space", "--data", "--initial-weights", "--perceptual.weights", "--resume"),
    *("--weights", "--results", "--targets", "--lpips-weights", "--clip", "--evaluation"),
)
"""Options that name what is read: a small file travels with the job."""
WRITTEN = ("--output", "--side-by-side", "--page", "--downloads", "--data.cache-dir", "--storage")
"""Options that name what is written."""
POSITIONAL: dict[str, dict[str, bool]] = {
    "prepare": {"sources": True},
    "upscale": {"inputs": True, "output": False},
    "report": {"runs": False},
    "export": {"output": False},
    "convert": {"source": False, "output": False},  # a checkpoint to convert is several files
}
"""Arguments without an option, by their names in what the command's parser returns, and whether a file may travel."""
SETTINGS = ("initial_weights", "perceptual.weights", "data.cache_dir")
"""Settings that name places, which a file of settings may have too."""
NO_PLACE = {
    "--config": tuple(preset_names()),
    "--resume": ("auto", "never"),
    "--initial-weights": ("none", "required", *names("weights")),
    "--perceptual.weights": ("none", "random", *names("vgg")),
    "--weights": tuple(names("weights")),
    "--lpips-weights": tuple(names("lpips")),
    "--data.cache-dir": ("none",),
    "SOURCE": tuple(sources.list_names()),
}
"""Words that stand where a place may stand, and are none."""
INSTEAD = "give an absolute path on storage that all nodes share, or s3:// or gs://"


@dataclass(frozen=True)
class Place:
    """A place that an argument names."""

    option: str
    value: str
    is_read: bool

    @property
    def is_here(self) -> bool:
        """Whether it is one of this machine's working directory, not one of the cluster."""
        named = "://" in self.value or Path(self.value).is_absolute() or self.value in NO_PLACE.get(self.option, ())
        return not named


def travelling(command: str, words: Sequence[str], options: argparse.Namespace) -> list[Path]:
    """The files that must go with a command to another machine, by paths relative to the working directory.

    ``words`` are the command's arguments and ``options`` what its parser made of them. Raises :class:`UserError` for a
    place of this machine that cannot go.
    """
    places = [place for place in (*_of_options(words), *_positional(command, options)) if place.is_here]
    files = [_file(place) for place in places]
    _check_contents(command, words, options)
    return list(dict.fromkeys(files))


def _of_options(words: Sequence[str]) -> Iterator[Place]:
    for number, word in enumerate(words):
        option, equals, value = hyphenated(word).partition("=")
        if option in (*READ, *WRITTEN):
            value = value if equals else "".join(words[number + 1 : number + 2])
            for part in value.split(","):
                yield Place(option, part, option in READ)


def _positional(command: str, options: argparse.Namespace) -> Iterator[Place]:
    for name, is_read in POSITIONAL.get(command, {}).items():
        value = getattr(options, name)
        for one in value if isinstance(value, list) else [value]:
            yield Place(name.upper().removesuffix("S"), str(one), is_read)


def _file(place: Place) -> Path:
    """The file to send. Raises :class:`UserError` if it is none that may go."""
    path = Path(place.value)
    if not place.is_read or not path.is_file():
        raise UserError(
            f"{place.option} {place.value} is a place on this machine, and the job runs on another: {INSTEAD}."
        )
    if ".." in path.parts:
        raise UserError(
            f"{place.option} {place.value} is outside of the working directory, and files that travel with a job are "
            "below it: go to a folder above it, or copy the file."
        )
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(
            f"{place.option} {place.value} has {size / 1e6:.0f} MB, and files of more than {MOST_BYTES / 2**20:.0f} MB "
            f"do not travel with a job: {INSTEAD}."
        )
    return path


def _check_contents(command: str, words: Sequence[str], options: argparse.Namespace) -> None:
    """Raise :class:`UserError` if a file that travels names places of this machine."""
    if command in ("train", "tune"):
        given = [hyphenated(word).partition("=")[0] for word in words]
        for name, value in leaves(load(options.config)):
            option = f"--{name.replace('_', '-')}"
            if name in SETTINGS and option not in given and value and Place(option, value, True).is_here:
                raise UserError(
                    f"{options.config} says {name}: {value}, a place on this machine, and the job runs on another: "
                    f"{INSTEAD}, there or with {option}."
                )
    if command == "upscale":
        for path in filter(is_list, options.inputs):
            for listed in listed_in(path):
                if Place("", str(listed), True).is_here:
                    raise UserError(
                        f"{path} names {listed}, a place on this machine, and the job runs on another: {INSTEAD}."
                    )
    if command == "prepare":
        for name in options.sources:
            for source in sources.load(name) if sources.is_list(name) else []:
                for address in filter(None, (source.source, source.hr, source.lr)):
                    if Place("", address, True).is_here:
                        raise UserError(
                            f"{name} names {address}, a place on this machine, and the job runs on another: {INSTEAD}."
                        )
