"""A look at torch's ``.pth`` files before torch reads them: are they state dicts, and can they not explode?

``torch.load(weights_only=True)`` executes nothing, but it follows a file a long way: compressed values of any size,
arrays by their length alone, tuples of tuples that take for ever. Only what state dicts are made of passes here.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from pathlib import Path

LARGEST_FILE = 4 << 30
LARGEST_PICKLE = 4 << 20
"""Bytes of what describes the tensors; VGG19's takes 5 KB."""
_MOST_OPCODES = 200_000
_MOST_RECORDS = 20_000
_LARGEST_DIRECTORY = 4 << 20
_LARGEST_TUPLE = 10_000
"""Elements, those of tuples inside counted each time they are met: a hash looks at them all."""
_DEEPEST_TUPLE = 16

_GLOBALS = {
    *(f"torch._utils _rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter")),
    *(f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char")),
    *("torch ByteStorage", "torch BoolStorage", "collections OrderedDict"),
}
_PUSH = {
    *("EMPTY_DICT", "EMPTY_LIST", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PICKLES_OF_A_LEGACY_FILE = 5
"""Its magic number, version, machine, content, and the names of the storages whose values follow."""

_Item = tuple[int, int]
"""Of a value on the stack: how many elements it has all in all, and how deep they lie. (1, 0) but for tuples."""


class Refused(Exception):
    """Not a state dict, or one that only an attacker would write. The text is the reason, half a sentence."""


def check_state_dict(path: Path) -> None:
    """Raise :class:`Refused` for a file that torch should not be asked to read. Takes a bounded time and memory."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise Refused(f"it has {size >> 20} MB, more than {LARGEST_FILE >> 20}")
    with open(path, "rb") as file:
        start = file.read(LARGEST_PICKLE)
        if start.startswith(b"PK"):
            _check_zip(file, size)
        else:
            _check_legacy(start)


def _check_zip(file: io.BufferedReader, size: int) -> None:
    if _directory_bytes(file, size) > _LARGEST_DIRECTORY:
        raise Refused("its list of records is too long")
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if len(records) > _MOST_RECORDS or len({record.filename for record in records}) < len(records):
                raise Refused("it has too many records, or some twice")
            if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
                raise Refused("it is compressed or encrypted, which torch's own files never are")
            if sum(record.file_size for record in records) > size:
                raise Refused("its records are larger than the file")
            pickles = [record for record in records if record.filename.endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > LARGEST_PICKLE:
                raise Refused("it has no description of tensors, or too long a one")
            content = archive.read(pickles[0])
    # An archive of arbitrary bytes: zipfile has more ways to fail than it says.
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, OSError) as error:
        raise Refused(f"its archive is damaged: {error}") from error
    _check_pickle(io.BytesIO(content))


def _directory_bytes(file: io.BufferedReader, size: int) -> int:
    """The length of an archive's list of records, which its end says, before anyone reads that list."""
    file.seek(max(0, size - 42))
    end = file.read()
    if end[-22:-18] != b"PK\5\6":
        raise Refused("its end is missing")
    found = int.from_bytes(end[-10:-6], "little")
    if end.startswith(b"PK\6\7"):  # the form for large archives has an end of its own before that
        file.seek(min(size, int.from_bytes(end[8:16], "little")))
        found = max(found % 0xFFFFFFFF, int.from_bytes(file.read(56)[40:48], "little"))
    return found


def _check_legacy(start: bytes) -> None:
    if not start.startswith(b"\x80"):
        raise Refused("it does not begin as one" if start else "it is empty")
    stream = io.BytesIO(start)
    for _ in range(_PICKLES_OF_A_LEGACY_FILE):
        _check_pickle(stream)


def _check_pickle(stream: io.BytesIO) -> None:
    """Follow the pickle that begins here as if it were executed, keeping only sizes."""
    stack: list[_Item | None] = []  # None: a mark
    memo: dict[int, _Item] = {}
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
            if count > _MOST_OPCODES:
                raise Refused("it describes far more than tensors")
            _follow(opcode.name, argument, position or 0, stack, memo)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise Refused("its description of tensors is damaged") from error


def _follow(name: str, argument: object, position: int, stack: list[_Item | None], memo: dict[int, _Item]) -> None:
    if name in _PUSH:
        stack.append((1, 0))
    elif name == "EMPTY_TUPLE":
        stack.append((1, 1))
    elif name == "MARK":
        stack.append(None)
    elif name == "TUPLE":
        items = _after_mark(stack)
        stack.append(_tuple_of(items))
    elif name in _TUPLES:
        items = [_pop(stack) for _ in range(_TUPLES[name])]
        stack.append(_tuple_of(items))
    elif name == "GLOBAL":
        if argument not in _GLOBALS:
            raise Refused(f"it asks for {str(argument).replace(' ', '.')[:80]}, which is never executed")
        stack.append((1, 0))
    elif name in ("REDUCE", "BUILD", "APPEND"):  # of two values the first stays, or becomes the result
        _pop(stack)
        _pop(stack)
        stack.append((1, 0))
    elif name == "SETITEM":
        _pop(stack)
        _pop(stack)
        _top(stack)  # a dictionary has to be there
    elif name in ("SETITEMS", "APPENDS"):
        _after_mark(stack)
        _top(stack)
    elif name == "BINPERSID":
        _pop(stack)
        stack.append((1, 0))
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[int(str(argument))] = _top(stack)
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[int(str(argument))])
    elif name == "PROTO":
        if int(str(argument)) > pickle.HIGHEST_PROTOCOL:
            raise Refused("its description of tensors is of a version that does not exist")
    elif name != "STOP":
        raise Refused(f"it is not made of plain tensors ({name} at {position})")


def _top(stack: list[_Item | None]) -> _Item:
    item = stack[-1]
    if item is None:
        raise ValueError("a mark where a value is expected")
    return item


def _pop(stack: list[_Item | None]) -> _Item:
    item = _top(stack)
    stack.pop()
    return item


def _after_mark(stack: list[_Item | None]) -> list[_Item]:
    items = []
    while (item := stack.pop()) is not None:
        items.append(item)
    return items


def _tuple_of(items: list[_Item]) -> _Item:
    elements = 1 + sum(count for count, _ in items)
    depth = 1 + max((depth for _, depth in items), default=0)
    if elements > _LARGEST_TUPLE or depth > _DEEPEST_TUPLE:
        raise Refused("it has tuples of tuples without an end")
    return elements, depth
