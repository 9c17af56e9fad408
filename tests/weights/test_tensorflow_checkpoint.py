"""The reader of TensorFlow checkpoints.

The files tests/data/tf_* were written by tensorflow-cpu 2.21.0: tf.compat.v1.train.Saver with write_version V1 and V2
(``tf_v1.ckpt``, ``tf_v2``: the same 12 variables), ``sharded=True`` with variables on two CPU devices
(``tf_v2_sharded``), and one (6, 2) variable under fixed_size_partitioner(2) (``tf_*_partitioned``). Float32 variables
hold ``RandomState(crc32("7:" + name)).standard_normal(shape)``.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tecogan_dist.base.errors import UserError
from tecogan_dist.weights.tensorflow.checkpoint import read_checkpoint
from tecogan_dist.weights.tensorflow.table import Damaged, crc32c, read_varints, table_entries
from tests.support.paths import TENSORFLOW_CHECKPOINTS as DATA
from tests.support.properties import EXAMPLES
from tests.support.tensorflow_files import masked, varint, write_table, write_v2

FLOAT_SHAPES = {
    "vgg_19/conv1/conv1_1/weights": (3, 3, 3, 4),
    "vgg_19/conv1/conv1_1/biases": (4,),
    "vgg_19/conv1/conv1_2/weights": (3, 3, 4, 4),
    "vgg_19/conv1/conv1_2/biases": (4,),
    "vgg_19/fc8/weights": (1, 1, 600, 5),
    "empty": (0, 3),
    "scalar": (),
}
OTHERS = {
    "global_step": np.array(2**40 + 3, np.int64),
    "counters/negative": np.array([-1, 0, 300], np.int32),
    "mean_rgb/double": np.array([123.68, -0.5], np.float64),
    "flags/bool": np.array([True, False, True]),
    "halves": np.array([1.5, -2.0], np.float16),
}


FOUR_BYTES = b"\x08\x01\x28\x04\x35" + masked(crc32c(bytes(4)))
"""An entry: a float32 without dimensions at the beginning of the first shard."""


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(f"7:{name}".encode())).standard_normal(shape).astype(np.float32)


def copy_fixture(name: str, folder: Path) -> Path:
    """A writable copy; returns the file that holds the table."""
    for file in DATA.glob(f"{name}*"):
        shutil.copy(file, folder)
    return folder / name if (folder / name).exists() else folder / f"{name}.index"


def test_crc32c_of_published_vectors() -> None:
    # RFC 3720 appendix B.4, and the catalogue's check value.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize("size", [1, 3, 4, 5, 63, 256, 257, 1023, 4099, 40_001])
def test_crc32c_of_any_length(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data)


def test_crc32c_over_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(1).bytes(10_001)
    monkeypatch.setattr("tecogan_dist.weights.tensorflow.table._CRC_PIECE", 1024)
    assert crc32c(data) == slow_crc32c(data)


@pytest.mark.parametrize("source", ["tf_v1.ckpt", "tf_v2", "tf_v2.index"])
def test_values_as_tensorflow_wrote_them(source: str) -> None:
    tensors = read_checkpoint(DATA / source)
    assert tensors.keys() == FLOAT_SHAPES.keys() | OTHERS.keys()
    for name, shape in FLOAT_SHAPES.items():
        np.testing.assert_array_equal(tensors[name], normal(name, shape), strict=True)
    for name, expected in OTHERS.items():
        np.testing.assert_array_equal(tensors[name], expected, strict=True)


def test_two_shards() -> None:
    tensors = read_checkpoint(DATA / "tf_v2_sharded")
    np.testing.assert_array_equal(tensors["first/weights"], normal("first/weights", (3, 5)), strict=True)
    np.testing.assert_array_equal(tensors["second/weights"], normal("second/weights", (7,)), strict=True)


def test_the_tests_own_writer(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray] = {"b": np.arange(300, dtype=np.float32).reshape(3, 100), "a": np.array(7, np.int64)}
    write_v2(tmp_path / "model", tensors, slow_crc32c)
    read = read_checkpoint(tmp_path / "model")
    assert list(read) == ["a", "b"]
    for name, expected in tensors.items():
        np.testing.assert_array_equal(read[name], expected, strict=True)


@pytest.mark.parametrize("name", ["tf_v1_partitioned.ckpt", "tf_v2_partitioned"])
def test_partitioned_variables_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="partitioned"):
        read_checkpoint(DATA / name)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    for missing in (tmp_path / "model", tmp_path, Path("/")):
        with pytest.raises(UserError, match="no TensorFlow checkpoint is at"):
            read_checkpoint(missing)
    for content in (b"", b"short", bytes(100_000)):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError, match="is not a TensorFlow checkpoint"):
            read_checkpoint(tmp_path / "file")
    copy_fixture("tf_v2", tmp_path)
    (tmp_path / "tf_v2.data-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"cannot be read.*tf_v2\.data-00000-of-00001"):
        read_checkpoint(tmp_path / "tf_v2")


@pytest.mark.parametrize("name", ["tf_v1.ckpt", "tf_v2"])
def test_every_changed_byte_of_a_table_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    table = copy_fixture(name, tmp_path)
    whole = table.read_bytes()
    expected = read_checkpoint(table)
    # Spread over the data, and each byte of the end: index block, trailers and footer.
    noticed = 0
    positions = [*range(0, len(whole), 197), *range(len(whole) - 110, len(whole))]
    for position in positions:
        table.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        try:
            tensors = read_checkpoint(table)
        except UserError:
            noticed += 1
            continue
        for tensor_name, array in tensors.items():
            np.testing.assert_array_equal(array, expected[tensor_name])
    # Only the unused meta index, its handle and the footer's padding may change unseen.
    assert len(positions) - noticed < 60


@pytest.mark.parametrize("name", ["tf_v1.ckpt", "tf_v2"])
def test_truncated_tables(tmp_path: Path, name: str) -> None:
    table = copy_fixture(name, tmp_path)
    whole = table.read_bytes()
    for size in (0, 1, 47, 48, len(whole) // 2, len(whole) - 1):
        table.write_bytes(whole[:size])
        with pytest.raises(UserError):
            read_checkpoint(table)
    for size in (0, 1, len(whole) // 2, len(whole) - 60):
        table.write_bytes(whole[:size] + whole[-48:])
        with pytest.raises(UserError):
            read_checkpoint(table)


def test_a_v1_file_without_all_its_variables(tmp_path: Path) -> None:
    entries = dict(_entries(DATA / "tf_v1.ckpt"))
    (key,) = [key for key in entries if b"halves" in key]
    del entries[key]
    write_table(tmp_path / "cut.ckpt", entries, crc32c)
    with pytest.raises(UserError, match="it lacks halves"):
        read_checkpoint(tmp_path / "cut.ckpt")
    del entries[b""]
    write_table(tmp_path / "cut.ckpt", entries, crc32c)
    with pytest.raises(UserError, match="not in its list of variables"):
        read_checkpoint(tmp_path / "cut.ckpt")


def test_damaged_and_truncated_data(tmp_path: Path) -> None:
    copy_fixture("tf_v2", tmp_path)
    data = tmp_path / "tf_v2.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    with pytest.raises(UserError, match="checksum of vgg_19/fc8/weights is wrong"):
        read_checkpoint(tmp_path / "tf_v2")
    data.write_bytes(whole[:5000])
    with pytest.raises(UserError, match="values of vgg_19/fc8/weights are cut off"):
        read_checkpoint(tmp_path / "tf_v2")


def test_compressed_blocks_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "model.index"
    write_v2(tmp_path / "model", {"a": np.zeros(2, np.float32)}, slow_crc32c)
    whole = table.read_bytes()
    end = whole.index(b"\1\0\0\0") + 4  # the first block ends with its count of restarts
    content = whole[:end] + b"\1"
    table.write_bytes(content + masked(slow_crc32c(content)) + whole[end + 5 :])
    with pytest.raises(UserError, match="compressed"):
        read_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x08\x01\x12\x04\x12\x02\x08\x05\x28\x04\x35" + masked(slow_crc32c(bytes(4))), "do not fill"),
        (b"\x08\x01\x20" + varint(2**63) + b"\x28\x04", "cut off"),
        (b"\x08\x01\x28" + varint(2**64 - 1), "cut off"),
        (b"\x08\x01\x18" + varint(2**40), "cannot be read"),
        # Shape (0, 2**63): no values, but more than numpy can address.
        (b"\x08\x01\x12\x0f\x12\x00\x12\x0b\x08" + varint(2**63) + b"\x35" + masked(0), "do not fill"),
        (b"\x08\x01\x12\xff\x01", "cut off"),
        (b"\x0a\x01a", "where a number is expected"),
        (b"\x10\x01", "where a part is expected"),
        (b"\x0f", "unknown kind"),
        # Shapes of 60 and of 200 dimensions of 1.
        (b"\x08\x01\x12\xf0\x01" + b"\x12\x02\x08\x01" * 60 + b"\x28\x04", "do not fill"),
        (b"\x08\x01\x12\xa0\x06" + b"\x12\x02\x08\x01" * 200 + b"\x28\x04", "more than 100 fields"),
        (b"\x08\x01\x12\x06\x12\x04\x08\xff\xff\x7f\x28\xfc\xff\xff\x03", "cut off"),
        (b"\x80" * 20, "too long"),
    ],
)
def test_impossible_entries(tmp_path: Path, message: bytes, reason: str) -> None:
    write_table(tmp_path / "model.index", {b"": b"\x08\x01", b"a": message}, slow_crc32c)
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(4))
    with pytest.raises(UserError, match=reason):
        read_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({b"": b"\x08\x01\x10\x01"}, "big-endian"),
        ({b"a": b"\x08\x01"}, "no header"),
        ({b"": b"\x08\x01", b"\xff": b"\x08\x01\x35" + masked(0)}, "utf-8"),
        ({b"": b"", b"a" * 5000: b""}, "impossible size"),
        ({b"": b"\x08\x01"} | {b"%06d" % i: b"\x08\x07" for i in range(20_001)}, "more than 20,000 entries"),
        # Two variables that have the same four bytes.
        ({b"": b"\x08\x01", b"a": FOUR_BYTES, b"b": FOUR_BYTES}, "the values of b overlap others"),
    ],
)
def test_impossible_tables(tmp_path: Path, entries: dict[bytes, bytes], reason: str) -> None:
    write_table(tmp_path / "model.index", entries, slow_crc32c)
    (tmp_path / "model.data-00000-of-00001").write_bytes(bytes(4))
    with pytest.raises(UserError, match=reason):
        read_checkpoint(tmp_path / "model")


def test_a_block_that_is_listed_again_and_again(tmp_path: Path) -> None:
    """Each time its checksum would be computed: a small file could take hours."""

    def block(content: bytes) -> bytes:
        content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
        return content + b"\0" + masked(crc32c(content + b"\0"))

    empty = block(b"")
    handle = varint(0) + varint(len(empty) - 5)
    entries = b"".join(
        varint(0) + varint(4) + varint(len(handle)) + b"%04d" % number + handle for number in range(1000)
    )
    index = block(entries)
    footer = handle + varint(len(empty)) + varint(len(index) - 5)
    footer = footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
    (tmp_path / "model.index").write_bytes(empty + index + footer)
    with pytest.raises(UserError, match="its blocks overlap"):
        read_checkpoint(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [("model.index", 1 << 40, "far more than one of use"), ("v1.ckpt", 1 << 42, "far more than one of use")],
)
def test_files_larger_than_memory_are_not_read(tmp_path: Path, name: str, size: int, reason: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(size)
        file.seek(size - 8)
        file.write(0xDB4775248B80FB57.to_bytes(8, "little"))
    with pytest.raises(UserError, match=reason):
        read_checkpoint(tmp_path / name)


def test_values_larger_than_memory_are_not_read(tmp_path: Path) -> None:
    dimension = b"\x08" + varint(1 << 40)
    shape = b"\x12" + varint(len(dimension)) + dimension
    entry = b"\x08\x01\x12" + varint(len(shape)) + shape + b"\x28" + varint(1 << 42)
    write_table(tmp_path / "model.index", {b"": b"\x08\x01", b"a": entry}, crc32c)
    with (tmp_path / "model.data-00000-of-00001").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(UserError, match="far more than a checkpoint of use here"):
        read_checkpoint(tmp_path / "model")


def test_what_is_not_a_file_is_not_waited_for(tmp_path: Path) -> None:
    write_v2(tmp_path / "model", {"a": np.zeros(2, np.float32)}, crc32c)
    (tmp_path / "model.data-00000-of-00001").unlink()
    for name in ("model.data-00000-of-00001", "other.index", "v1.ckpt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    sources = (tmp_path / "model", tmp_path / "other", tmp_path / "v1.ckpt", Path("/dev/zero"), tmp_path / "loop")
    for source, word in zip(sources, ("FIFO", "FIFO", "FIFO", "device", "circle"), strict=True):
        with pytest.raises(UserError, match=word):
            read_checkpoint(source)


def test_numbers_of_varying_length_at_once() -> None:
    numbers = [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1]
    packed = memoryview(b"".join(map(varint, numbers)))
    assert read_varints(packed).tolist() == numbers
    assert read_varints(memoryview(b"")).tolist() == []
    for bad in (b"\x80", b"\x01\xff", b"\x80" * 10 + b"\x01"):
        with pytest.raises(Damaged):
            read_varints(memoryview(bad))


def test_random_tables_never_crash(tmp_path: Path) -> None:
    """Messages changed behind a correct checksum: anything but a UserError or a result is a defect."""
    table = tmp_path / "tf_v1.ckpt"
    entries = dict(_entries(DATA / "tf_v1.ckpt"))
    generator = np.random.default_rng(5)
    del entries[max(entries, key=lambda key: len(entries[key]))]  # the long one only makes this slow
    for _ in range(200):
        changed = dict(entries)
        key = list(entries)[generator.integers(len(entries))]
        message = bytearray(entries[key])
        for position in generator.integers(0, max(1, len(message)), 3):
            message[position : position + 1] = generator.bytes(1)
        changed[key] = bytes(message)
        write_table(table, changed, crc32c)
        _only_user_errors(lambda: read_checkpoint(table))


def _entries(path: Path) -> list[tuple[bytes, bytes]]:
    return [(key, bytes(value)) for key, value in table_entries(memoryview(path.read_bytes()))]


def _only_user_errors(action: Callable[[], object]) -> None:
    try:
        action()
    except UserError:
        return


@EXAMPLES
@given(data=st.data())
def test_any_changes_of_a_table_end_in_variables_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Entries changed behind correct checksums: everything after the checksum meets arbitrary bytes."""
    table = tmp_path_factory.getbasetemp() / "changed.index"
    entries = {b"": b"\x08\x01", b"a": FOUR_BYTES, b"b": b"\x08\x09\x12\x04\x12\x02\x08\x02\x20\x04\x28\x10"}
    for key in data.draw(st.lists(st.sampled_from(sorted(entries)), min_size=1)):
        message = bytearray(entries[key])
        position = data.draw(st.integers(0, len(message)))
        message[position : position + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
        entries[key] = bytes(message)
    write_table(table, entries, crc32c)
    table.with_name("changed.data-00000-of-00001").write_bytes(bytes(20))
    _only_user_errors(lambda: read_checkpoint(table))
