"""A step compiled by torch (AOTInductor) into a .pt2 package: machine code, for the kind of device it was built on.

It is loaded by ``torch._inductor.aoti_load_package`` in Python, or by ``AOTIModelPackageLoader`` in C++ without Python,
of the same version of torch. A package is a program: load only those that you have built.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch._inductor import aoti_compile_and_package, aoti_load_package, cpp_builder
from torch._inductor.exc import CppCompileError, InvalidCxxCompiler
from torch.export import ExportedProgram

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError

NO_COMPILER = (
    "a .pt2 is compiled on the machine that it is for, which needs a C++ compiler, and none works here: install g++, "
    "or let CXX name one, or use --to onnx"
)


def check_pt2() -> None:
    """Raise :class:`UserError` if there is no compiler here."""
    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError(f"{NO_COMPILER}.") from error


def write_pt2(program: ExportedProgram, metadata: Mapping[str, str], path: Path, device: torch.device) -> None:
    """Compile a step's graph, which was captured on ``device``, into ``path``; this takes minutes.

    Raises :class:`UserError` if that cannot be written, or if the compiler fails.
    """
    notes = {**metadata, "device": _name(device), "torch": torch.__version__}
    with tempfile.TemporaryDirectory(prefix="tecogan_export_") as folder, _quiet():
        made = str(Path(folder) / "step.pt2")  # Inductor insists on the ending
        try:
            aoti_compile_and_package(program, package_path=made, inductor_configs={"aot_inductor.metadata": notes})
        except (CppCompileError, InvalidCxxCompiler) as error:
            raise UserError(f"{NO_COMPILER} ({str(error).strip().splitlines()[0][:200]}).") from error
        with reported_local(path):
            shutil.copyfile(made, path)


class Pt2Step:
    """A package's step, on the kind of device that it was built for."""

    def __init__(self, path: Path) -> None:
        with _quiet(), open(path, "rb") as file:  # by its path torch complains of any ending but .pt2
            self._package = aoti_load_package(file)

    @property
    def metadata(self) -> dict[str, str]:
        """What the package says about itself, also Inductor's own entries (``AOTI_*``)."""
        return dict(self._package.get_metadata())

    def __call__(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """:meth:`tecogan_dist.upscaling.export.step.Step.forward`; all three contiguous, on the package's device."""
        result = self._package(lr_frame, previous_lr, previous_sr)
        return result[0] if isinstance(result, (list, tuple)) else result


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's line about a CUDA that is installed and has no device."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
