"""Which device is used: what `auto` takes where there is no GPU, or one that does not work."""

from __future__ import annotations

import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling.devices import device_here

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@without_gpu
def test_without_a_gpu_it_is_the_cpu_unless_a_gpu_is_asked_for() -> None:
    assert device_here("auto", precision="auto") == device_here("cpu", precision="fp32") == torch.device("cpu")
    with pytest.raises(UserError, match="there is no CUDA device here: use --device cpu"):
        device_here("cuda", precision="auto")


@without_gpu
def test_a_gpu_that_does_not_work_is_found_by_using_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a machine whose driver or torch does not serve its GPU: torch sees one, and nothing runs on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_here("auto", precision="auto") == torch.device("cpu")
    said = capsys.readouterr().err
    assert said.startswith("the GPU cannot be used (")
    assert said.endswith("): the network runs on the CPU\n")
    with pytest.raises(UserError, match=r"the GPU cannot be used \(.*\): use a torch and a driver that serve it, or"):
        device_here("cuda", precision="auto")


@pytest.mark.parametrize(
    ("instructions", "faster"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "aarch64", "bf16": True}, False),
    ],
)
def test_bf16_is_for_cpus_that_compute_in_it(
    instructions: dict[str, object], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    if faster:
        assert device_here("cpu", precision="bf16") == torch.device("cpu")
        return
    with pytest.raises(UserError, match=r"this CPU has neither AVX512-BF16 nor AMX.*: leave --precision out"):
        device_here("cpu", precision="bf16")


def test_tf32_is_for_gpus() -> None:
    with pytest.raises(UserError, match="TF32 is for GPUs, and the network runs on the CPU: leave --precision out"):
        device_here("cpu", precision="tf32")


@pytest.mark.gpu
def test_a_gpu_is_used() -> None:
    assert device_here("auto", precision="auto") == device_here("cuda", precision="fp32") == torch.device("cuda")
