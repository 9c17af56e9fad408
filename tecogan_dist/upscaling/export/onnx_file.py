"""A step as an ONNX file, for onnxruntime, TensorRT and others; nothing here runs the network but onnxruntime.

Opset 18, torch's own: in opset 20 GridSample's ``bilinear`` is called ``linear``, which TensorRT takes for ``nearest``
(NVIDIA/TensorRT #4646). The original's arithmetic has no GridSample in it, its warp is four GatherElements with int64
indices; TecoGAN-PyTorch's has one. Weights are inside the file, which therefore has less than 2 GB.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from tecogan_dist.base.atomic import reported_local
from tecogan_dist.base.errors import UserError
from tecogan_dist.base.memory import in_words
from tecogan_dist.upscaling.export.step import INPUTS, OUTPUT, open_sizes

OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2_000_000_000
"""Bytes of weights: a protobuf message has at most 2**31 - 1, with the graph."""


def check_onnx() -> None:
    """Raise :class:`UserError` if a package is missing that ONNX files need."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, and an ONNX file needs "
            f"{', '.join(PACKAGES)}: pip install {' '.join(PACKAGES)}."
        )


def write_onnx(program: ExportedProgram, metadata: Mapping[str, str], path: Path) -> None:
    """Write ``path`` of a step's graph, which was captured on the CPU.

    Raises :class:`UserError` if it cannot be written, or if the weights are more than such a file holds.
    """
    import onnx  # only now: it is an extra, and takes a while

    size = sum(one.numel() * one.element_size() for one in program.state_dict.values())
    if size > LARGEST:
        raise UserError(
            f"these weights have {in_words(size)}, and an ONNX file holds less than 2 GB: export a smaller network."
        )
    with warnings.catch_warnings():
        # The inputs have the sizes h and w in common, which torch warns of; that onnxscript's own names will change.
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=open_sizes(int(metadata["scale"])),  # for their names,
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = exported.model_proto
    _forget_origins(model)
    model.producer_name, model.producer_version = metadata["package"].split()
    onnx.helper.set_model_props(model, {**metadata, "opset": str(OPSET)})
    with reported_local(path):
        path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


class OnnxStep:
    """An ONNX file's step, run by onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says about itself."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, lr_frame: Tensor, previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        """:meth:`tecogan_dist.upscaling.export.step.Step.forward`."""
        given = (lr_frame, previous_lr, previous_sr)
        feed: dict[str, np.ndarray[Any, Any]] = dict(zip(INPUTS, (one.numpy() for one in given), strict=True))
        (sr_frame,) = self._session.run([OUTPUT], feed)
        return torch.from_numpy(sr_frame)


def _forget_origins(model: Any) -> None:
    """Of what line of which file each part came, which torch notes."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
