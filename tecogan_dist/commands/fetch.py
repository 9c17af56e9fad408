"""``tecogan fetch``: published weights and test scenes by name, into the cache, before they are wanted."""

from __future__ import annotations

import argparse

from tecogan_dist.base.console import printable
from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.parser import CommandParser
from tecogan_dist.published.cache import VARIABLE, Cache, Damaged
from tecogan_dist.published.catalogue import Entry, catalogue, find, names
from tecogan_dist.published.fetching import NotFetched, obtain, say_to_stderr
from tecogan_dist.published.names import packaged

DESCRIPTION = f"""
Get published weights and test scenes by name: what upscale, train and evaluate would fetch themselves when they are
given a name. Files go to a cache, ${VARIABLE} or tecogan in the user's cache folder, and what is there is not fetched
again. A download that broke off is continued; a file is taken only with the size and checksum that are known of it.
"""
EXAMPLES = (
    "tecogan fetch --list",
    "tecogan fetch tecogan vgg19 lpips-alex vid4",
)
KEPT = "what was fetched whole is kept, and the same command goes on with what broke off"
"""What an interruption leaves."""


def main(argv: list[str] | None = None) -> None:
    """Run the command. Raises :class:`UserError`."""
    options = parse(argv)
    cache = Cache.of_environment()
    if options.list:
        print_list(cache)
        return
    failed = []
    for name in options.names:
        try:
            place = _fetched(find(name), cache, again=options.again)
        except NotFetched as error:
            if len(options.names) == 1:
                raise
            say_to_stderr(str(error))  # the others may be had
            failed.append(name)
        else:
            print(f"{name}: {printable(place, limit=2000)}", flush=True)
    if failed:
        raise UserError(f"{', '.join(failed)} cannot be fetched: above is why, and what to do about it.")


def _fetched(entry: Entry, cache: Cache, *, again: bool) -> str:
    """Where it is."""
    return str(packaged(entry) if entry.packaged else obtain(entry, cache, again=again).path)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options. Raises :class:`UserError` for mistakes."""
    parser = CommandParser("fetch", description=DESCRIPTION, examples=EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(names())}")
    parser.add_argument("--list", action="store_true", help="show what has a name, its size, its licence, what is here")
    parser.add_argument(
        "--again",
        action="store_true",
        help="fetch also what is in the cache; another file than the first one is refused",
    )
    options = parser.parse_args(argv)
    if bool(options.names) == options.list or (options.list and options.again):
        raise UserError("give names to fetch, or --list alone: 'tecogan fetch --help' says what it takes.")
    for name in options.names:
        find(name)  # before any is fetched
    options.names = list(dict.fromkeys(options.names))
    return options


def print_list(cache: Cache) -> None:
    """Two lines an entry, and where the cache is."""
    entries = catalogue().values()
    rows = [(entry.name, *_state(entry, cache), entry.about) for entry in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for entry, row in zip(entries, rows, strict=True):
        columns = (text.ljust(width) for text, width in zip(row, widths, strict=False))
        more = f"licence: {entry.licence}" + (f"; trained on: {entry.trained_on}" if entry.trained_on else "")
        print(printable("  ".join((*columns, entry.about)), limit=1000))
        print(printable(f"{' ' * widths[0]}  {more}", limit=1000))
    print(f"the cache is {printable(cache.folder, limit=1000)}")


def _state(entry: Entry, cache: Cache) -> tuple[str, str]:
    """Whether it is here, and its size: what it takes here, or what is fetched."""
    try:
        if entry.packaged:
            return "in the package", f"{packaged(entry).stat().st_size / 1e6:.1f} MB"
        there = cache.look(entry)
    except Damaged:
        return "damaged", ""
    except UserError:
        if entry.packaged:
            return "missing", ""
        raise
    if there is not None:
        return f"here since {there.record.fetched[:10]}", f"{there.bytes / 1e6:.1f} MB"
    size = f"{entry.bytes / 1e6:.1f} MB" if entry.bytes else "size not known"
    return ("not here" if entry.addresses else "no address known"), size
