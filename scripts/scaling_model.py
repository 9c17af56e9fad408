"""A step on many GPUs, as a model: from a step on one, the messages counted on two workers, and assumed networks."""

from __future__ import annotations

import math
import textwrap

from scaling_traffic import Traffic

GPU_STEPS = {"fp32, kernel by kernel, H100": 0.33, "bf16, captured, H200": 0.07}
"""Seconds of a step on one GPU (scripts/README.md)."""
GPU_WINDOWS = 4
"""Of such a step."""
GPUS_OF_NODE = 8
NVLINK, NETWORK = 300e9, 25e9
"""Bytes a second of a ring within a node (H100, 450e9 on paper), and in and out of a node (200 Gbit/s for all its
GPUs)."""
LATENCY, LATENCY_OF_DOUBLING = 20e-6, 15e-6
"""Seconds of a small collective within a node, and what each doubling of the nodes adds (a tree)."""
BACKWARD = 0.6
"""The part of a step that the upscaler's backward pass takes. It hides the reduction of the discriminator's gradients,
which are complete before. Its own are complete at its end: all frames of a window share the upscaler's weights."""
DECODED = {"360p": 79.0, "720p": 30.0}
"""Windows a second and core from encoded clips, 8 windows a decoding (bench_data.py)."""


def print_model(traffic: Traffic, gradient_bytes: tuple[int, int], workers: int) -> None:
    """Steps of N GPUs: those of one, their small collectives, and what is not hidden of their gradients' reduction."""
    share = sum(traffic.sent.values()) / (1 - 1 / workers) / sum(gradient_bytes)
    text = f"""model: of N GPUs with {GPU_WINDOWS} windows each sends {share:.2f} (N - 1) / N of
        {gradient_bytes[0] / 1e6:.1f} MB (upscaler) and {gradient_bytes[1] / 1e6:.1f} MB (discriminator), at
        {NVLINK / 1e9:.0f} GB/s within {GPUS_OF_NODE} GPUs and {NETWORK / 1e9:.0f} GB/s between nodes; {traffic.small}
        small collectives take {LATENCY * 1e6:.0f} us each and {LATENCY_OF_DOUBLING * 1e6:.0f} us for each doubling of
        nodes; {BACKWARD:.0%} of a step, the upscaler's backward pass, hide the discriminator's reduction"""
    print("\n" + textwrap.fill(" ".join(text.split()), 118))
    for kind, step in GPU_STEPS.items():
        print(f"a step of one: {kind}")
        _print_steps(step, traffic.small, [share * size for size in gradient_bytes])


def _print_steps(alone: float, small: int, sent: list[float]) -> None:
    """``alone``: seconds of a step of one GPU; ``small``: collectives; ``sent``: bytes of both networks."""
    print(" GPUs  batch  step ms  efficiency" + "".join(f"  cores for {size}" for size in DECODED))
    for gpus in (1, 8, 64, 512):
        nodes = math.ceil(gpus / GPUS_OF_NODE)
        bandwidth = NVLINK if nodes == 1 else NETWORK
        waits = small * (LATENCY + LATENCY_OF_DOUBLING * math.log2(nodes)) if gpus > 1 else 0.0
        reductions = [(1 - 1 / gpus) * size / bandwidth for size in sent]
        step = alone + waits + reductions[0] + max(0.0, reductions[1] - BACKWARD * alone)
        print(
            f"{gpus:5}{gpus * GPU_WINDOWS:7}{step * 1e3:9.1f}{alone / step:12.3f}"
            + "".join(f"{gpus * GPU_WINDOWS / step / rate:16.1f}" for rate in DECODED.values())
        )
