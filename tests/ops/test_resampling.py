"""Filters of images: in full precision whatever is in force, and their kernels on the device once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tecogan_dist.ops.cudnn import cudnn_flags
from tecogan_dist.ops.degrade import blur_down, blur_down_crops
from tecogan_dist.ops.resampling import filter_planes, kernel_on, resize_bicubic

PLANES = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("outside", [True, False])
def test_images_are_filtered_without_tf32(outside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    convolve = F.conv2d

    def observed(planes: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        if kernel.shape[-1] > planes.shape[-1]:
            raise RuntimeError("too large")
        return convolve(planes, kernel, stride=stride)

    monkeypatch.setattr(F, "conv2d", observed)
    with cudnn_flags(allow_tf32=outside):
        for filtered in (resize_bicubic, blur_down, blur_down_crops):
            filtered(PLANES)
            assert torch.backends.cudnn.allow_tf32 == outside
        with pytest.raises(RuntimeError, match="too large"):
            filter_planes(PLANES, torch.ones(1, 1, 41, 41))
        assert torch.backends.cudnn.allow_tf32 == outside
    assert seen == [False] * 5


def test_flags_are_set_for_a_block() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    with cudnn_flags(allow_tf32=False, deterministic=True, benchmark=True):
        assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (True, False, True, True)
        with cudnn_flags(allow_tf32=True):
            assert (cudnn.allow_tf32, cudnn.deterministic) == (True, True)
        assert not cudnn.allow_tf32
    assert (cudnn.enabled, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before


def test_a_kernel_is_made_once_and_serves_backward_passes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tecogan_dist.ops.resampling._kernels", {})
    made = torch.tensor
    count = 0

    def counted(*arguments: Any, **options: Any) -> Tensor:
        nonlocal count
        count += 1
        return made(*arguments, **options)

    monkeypatch.setattr(torch, "tensor", counted)
    for filtered in (resize_bicubic, blur_down, blur_down_crops):
        with torch.inference_mode():
            expected = filtered(PLANES)
        planes = PLANES.clone().requires_grad_()
        result = filtered(planes)
        result.sum().backward()
        assert torch.equal(result, expected)
        assert planes.grad is not None
    assert count == 3
    double = blur_down(PLANES.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), blur_down(PLANES))


def test_kernels_of_other_arguments_are_others() -> None:
    def ramp(length: int) -> np.ndarray:
        return np.arange(length)

    kernels = [
        kernel_on(torch.device("cpu"), dtype, ramp, length)
        for dtype in (torch.float32, torch.float64)
        for length in (2, 3)
    ]
    assert [(kernel.dtype, len(kernel)) for kernel in kernels] == [
        (torch.float32, 2),
        (torch.float32, 3),
        (torch.float64, 2),
        (torch.float64, 3),
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [True, False])
def test_filters_on_cuda_equal_those_on_the_cpu_and_do_not_wait(tf32: bool) -> None:
    planes = PLANES.cuda()
    with cudnn_flags(allow_tf32=tf32):
        for filtered in (resize_bicubic, blur_down, blur_down_crops):
            torch.testing.assert_close(filtered(planes).cpu(), filtered(PLANES), atol=1e-6, rtol=0)
            torch.cuda.set_sync_debug_mode("error")
            try:
                filtered(planes)
            finally:
                torch.cuda.set_sync_debug_mode("default")
