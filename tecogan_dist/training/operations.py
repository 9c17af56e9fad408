"""How much a step computes, counted; and how much a GPU could."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PEAKS: dict[str, dict[str, float]] = {
    "H200": {"fp32": 67, "bf16": 989},
    "H100 PCIe": {"fp32": 51, "bf16": 756},
    "H100 NVL": {"fp32": 60, "bf16": 835},
    "H100": {"fp32": 67, "bf16": 989},
    "A100": {"fp32": 19.5, "bf16": 312},
    "A800": {"fp32": 19.5, "bf16": 312},
    "A40": {"fp32": 37.4, "bf16": 149.7},
    "A30": {"fp32": 10.3, "bf16": 165},
    "A10G": {"fp32": 31.5, "bf16": 70},
    "L40S": {"fp32": 91.6, "bf16": 362},
    "L40": {"fp32": 90.5, "bf16": 181},
    "L4": {"fp32": 30.3, "bf16": 121},
    "RTX 3090": {"fp32": 35.6, "bf16": 71},
    "RTX 4090": {"fp32": 82.6, "bf16": 165.2},
    "V100-SXM2": {"fp32": 15.7},
    "T4": {"fp32": 8.1},
}
"""TFLOP/s of dense arithmetic by words in torch's name of the GPU, the more special ones first, from NVIDIA's data
sheets: bf16 with sums in fp32, and fp32 outside tensor cores, as this package leaves TF32 off."""


class Operations:
    """Counts floating-point operations of what runs inside, as torch's own counter does: two for each multiplication
    and addition of convolutions and matrix products, backward passes included.

    ``compiled``: some of what runs has gone through torch.compile.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self._counting = _CountingOfCompiled if compiled else _Counting
        self.forward = 0
        self.backward: dict[bool, int] = {}
        """Of a step that updates the discriminator, and of one that does not."""

    def counting_forward(self) -> TorchDispatchMode | None:
        """To be entered around a step's forward passes until they have been counted once."""
        return None if self.forward else self._counting(self._count_forward)

    def counting_backward(self, *, update_discriminator: bool) -> TorchDispatchMode | None:
        """To be entered around a step's backward passes until their kind has been counted once."""
        if update_discriminator in self.backward:
            return None
        self.backward[update_discriminator] = 0

        def count(operations: int) -> None:
            self.backward[update_discriminator] += operations

        return self._counting(count)

    def of_step(self, *, update_discriminator: bool) -> int:
        """Operations of a step, on one worker."""
        return self.forward + self.backward.get(update_discriminator, 0)

    def _count_forward(self, operations: int) -> None:
        self.forward += operations


class _Counting(TorchDispatchMode):
    def __init__(self, count: Callable[[int], None]) -> None:
        super().__init__()
        self._count = count

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self._count(formula(*arguments, **(keywords or {}), out_val=result))
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch asks. To have this skipped by its compiler, it would import the compiler: a second of a start."""
        return False


class _CountingOfCompiled(_Counting):
    def __torch_dispatch__(self, *arguments: Any) -> Any:
        return super().__torch_dispatch__(*arguments)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True


def peak_tflops(device: torch.device, *, precision: str) -> float | None:
    """What a worker's device could do in ``fp32`` or ``bf16``; None where its data sheet is not known here."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if re.search(r"Laptop|MIG|4090 D", name):
        return None  # the same words, less power
    found = (peaks.get(precision) for model, peaks in PEAKS.items() if re.search(rf"\b{model}\b", name))
    return next(found, None)
