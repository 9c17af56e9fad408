"""What the tests of weights need of TensorFlow: the reference's weight rule, and a writer of V2 checkpoints."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Crc = Callable[[bytes], int]


def rule(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weight rule of the reference vectors (without its damping of two kernels)."""
    x = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(shape).astype(np.float32)
    if name.startswith("vgg_19/") and name.endswith("weights"):
        return x * np.float32(math.sqrt(2 / math.prod(shape[:-1])))
    if name.endswith(("weights", "kernel")):
        return x * np.float32(math.sqrt(2 / (math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1])))
    return x * np.float32(0.01)


def upscaler_shapes(*, blocks: int, channels: int, flow_width: int) -> dict[str, tuple[int, ...]]:
    """Kernels of the original's generator and fnet, written down from its source (lib/frvsr.py), sizes adapted."""
    generator, fnet = "generator/generator_unit", "fnet/autoencode_unit"
    c, w = channels, flow_width
    kernels = {f"{generator}/input_stage/conv/Conv": (51, c)}
    for i in range(1, blocks + 1):
        kernels |= {f"{generator}/resblock_{i}/conv_{j}/Conv": (c, c) for j in (1, 2)}
    kernels |= {f"{generator}/conv_tran2highres/conv_tran{j}/Conv2d_transpose": (c, c) for j in (1, 2)}
    kernels[f"{generator}/output_stage/conv/Conv"] = (c, 3)
    units = {"encoder_1": (6, w), "encoder_2": (w, 2 * w), "encoder_3": (2 * w, 4 * w)}
    units |= {"decoder_1": (4 * w, 8 * w), "decoder_2": (8 * w, 4 * w), "decoder_3": (4 * w, 2 * w)}
    for unit, (inputs, outputs) in units.items():
        kernels[f"{fnet}/{unit}/conv_1/Conv"] = (inputs, outputs)
        kernels[f"{fnet}/{unit}/conv_2/Conv"] = (outputs, outputs)
    kernels |= {f"{fnet}/output_stage/conv1/Conv": (2 * w, w), f"{fnet}/output_stage/conv2/Conv": (w, 2)}
    shapes: dict[str, tuple[int, ...]] = {}
    for scope, (inputs, outputs) in kernels.items():
        shapes |= {f"{scope}/weights": (3, 3, inputs, outputs), f"{scope}/biases": (outputs,)}
    return shapes


def discriminator_shapes() -> dict[str, tuple[int, ...]]:
    """Variables of the original's discriminator with 27 input channels, its last bias included."""
    unit = "tdiscriminator/discriminator_unit"
    shapes: dict[str, tuple[int, ...]] = {
        f"{unit}/input_stage/conv/Conv/weights": (3, 3, 27, 64),
        f"{unit}/input_stage/conv/Conv/biases": (64,),
        f"{unit}/dense_layer_2/dense/kernel": (256, 1),
        f"{unit}/dense_layer_2/dense/bias": (1,),
    }
    for number, inputs, outputs in ((1, 64, 64), (3, 64, 64), (5, 64, 128), (7, 128, 256)):
        shapes[f"{unit}/disblock_{number}/conv1/Conv/weights"] = (4, 4, inputs, outputs)
        for variable in ("beta", "moving_mean", "moving_variance"):
            shapes[f"{unit}/disblock_{number}/BatchNorm/{variable}"] = (outputs,)
    return shapes


def vgg_shapes() -> dict[str, tuple[int, ...]]:
    """Variables of TF-slim's vgg_19 up to conv5_4, and its last layer, which is not wanted."""
    shapes: dict[str, tuple[int, ...]] = {"vgg_19/fc8/weights": (1, 1, 8, 10), "vgg_19/fc8/biases": (10,)}
    inputs = 3
    for level, outputs, count in ((1, 64, 2), (2, 128, 2), (3, 256, 4), (4, 512, 4), (5, 512, 4)):
        for i in range(1, count + 1):
            scope = f"vgg_19/conv{level}/conv{level}_{i}"
            shapes |= {f"{scope}/weights": (3, 3, inputs, outputs), f"{scope}/biases": (outputs,)}
            inputs = outputs
    return shapes


def by_rule(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 1) -> dict[str, NDArray[np.float32]]:
    return {name: rule(seed, name, shape) for name, shape in shapes.items()}


def masked(crc: int) -> bytes:
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head += bytes([value & 0x7F | 0x80])
        value >>= 7
    return head + bytes([value])


def write_table(path: Path, entries: Mapping[bytes, bytes], crc: Crc) -> None:
    """A table of one block, without shared prefixes."""
    table = b""

    def add_block(content: bytes) -> bytes:
        nonlocal table
        content += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")  # one restart, at 0
        handle = varint(len(table)) + varint(len(content))
        table += content + b"\0" + masked(crc(content + b"\0"))
        return handle

    def entry(key: bytes, value: bytes) -> bytes:
        return varint(0) + varint(len(key)) + varint(len(value)) + key + value

    data = add_block(b"".join(entry(key, value) for key, value in sorted(entries.items())))
    meta_index = add_block(b"")
    index = add_block(entry(max(entries), data))
    footer = (meta_index + index).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
    path.write_bytes(table + footer)


def write_v2(prefix: Path, tensors: Mapping[str, NDArray[np.generic]], crc: Crc) -> None:
    """A V2 checkpoint in one shard: float32, int32 and int64."""
    entries = {b"": b"\x08\x01\x1a\x02\x08\x01"}
    data = b""
    for name, array in sorted(tensors.items()):
        content = array.tobytes()
        dimensions = b"".join(b"\x12" + varint(len(varint(size)) + 1) + b"\x08" + varint(size) for size in array.shape)
        entries[name.encode()] = (
            b"\x08" + varint({"float32": 1, "int32": 3, "int64": 9}[str(array.dtype)])
            + b"\x12" + varint(len(dimensions)) + dimensions
            + b"\x20" + varint(len(data))
            + b"\x28" + varint(len(content))
            + b"\x35" + masked(crc(content))
        )  # fmt: skip
        data += content
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    write_table(prefix.with_name(f"{prefix.name}.index"), entries, crc)


def training_variables(
    shapes: Mapping[str, tuple[int, ...]], *, step: int, updates: int | None = None, beta1: float = 0.9
) -> dict[str, NDArray[np.generic]]:
    """What the original's training saves after ``step`` steps: weights by rule, moments, powers, counters, averages.

    With a discriminator in ``shapes``, that was updated ``updates`` times (at every step if None).
    """
    variables: dict[str, NDArray[np.generic]] = {**by_rule(shapes)}
    for name, shape in shapes.items():
        if not name.endswith(("moving_mean", "moving_variance")):
            variables[f"generator_train/{name}/Adam"] = rule(2, name, shape) * np.float32(1e-2)
            variables[f"generator_train/{name}/Adam_1"] = rule(3, name, shape) ** 2 * np.float32(1e-3)
    variables["get_learning_rate_and_global_step/global_step"] = np.array(step, np.int64)
    scope, counts = "generator_train/", [step, step]
    if any(name.startswith("tdiscriminator/") for name in shapes):
        updates = step if updates is None else updates
        scope, counts = "generator_train/cond/", [updates, step, step]
        variables["generator_train/gen_train_with_D_counter"] = np.array(updates, np.int32)
        variables["generator_train/gen_train_wo_D_counter"] = np.array(step - updates, np.int32)
        variables["t_discriminator_loss/add_3/ExponentialMovingAverage"] = np.array(0.25, np.float32)
    for number, beta in ((1, beta1), (2, 0.999)):
        for position, count in enumerate(counts):
            name = f"{scope}beta{number}_power" + (f"_{position}" if position else "")
            variables[name] = np.array(adam_power(beta, count), np.float32)
    variables["generator_loss/content_loss/Mean/ExponentialMovingAverage"] = np.array(0.5, np.float32)
    return variables


def adam_power(beta: float, updates: int) -> float:
    """TensorFlow's power of a beta after so many updates, multiplied in float32 as it does; 0 below normal numbers."""
    power = factor = np.float32(beta)
    for _ in range(updates):
        power = power * factor
        if power < np.finfo(np.float32).tiny:
            return 0.0
    return float(power)
