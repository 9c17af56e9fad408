"""Generators of TecoGAN-PyTorch (skycrapers/TecoGAN-PyTorch), state dicts in ``.pth`` files, to our weights file.

They go into the port's own arithmetic (:mod:`tecogan_dist.models.port`) and never into the original's. Everything about
the model is read off names and shapes, the degradation too: for BD the port stores the fixed kernels of its enlargement
beside the weights, for BI there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import read_state_dict, select
from tecogan_dist.config.degradations import Degradation
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.build import WIDEST, build_upscaler
from tecogan_dist.models.probe import gives_pictures
from tecogan_dist.ops.resampling import resize_bicubic
from tecogan_dist.weights.format import save_weights, shapes
from tecogan_dist.weights.outputs import new_weights_file
from tecogan_dist.weights.tensors import short

SUFFIXES = (".pth", ".pt")
KERNELS = ("upsample_func.kernels", "srnet.upsample_func.kernels")
"""The same fixed numbers twice, (scale, 4): weights of 4 pixels for each phase."""
KERNEL_TOLERANCE = 1e-6
TEST_WARM_UP = 5
"""``num_pad_front`` of its settings for tests (``test.yml`` of its experiments), which its published numbers are of."""
_WRAPPED = "module."
"""What DistributedDataParallel puts before every name."""
_HOW_TO_GET = "give a generator of TecoGAN-PyTorch, such as TecoGAN_4x_BD_Vimeo_iter500K.pth"
_SCALES = {3 + 3 * scale * scale: scale for scale in (4, 2)}
"""By the channels that the generator takes: a frame, and the folded one before it."""
_LAYERS = {
    "generator.input": "srnet.conv_in.0",
    "generator.up1": "srnet.conv_up.0",
    "generator.up2": "srnet.conv_up.2",
    "generator.output": "srnet.conv_out",
    "flow.output.conv1": "fnet.flow.0",
    "flow.output.conv2": "fnet.flow.2",
}
_PAIRS = {
    "flow.encoder": ("fnet.encoder", ".", 1),
    "flow.decoder": ("fnet.decoder", ".", 1),
    "generator.blocks": ("srnet.resblocks.", ".conv.", 0),
}
"""Pairs of convolutions by number: the port's name before the number and after it, and where it begins to count."""
_PLACES = {"conv1": 0, "conv2": 2}
"""Within a pair: a leaky ReLU or ReLU lies between them."""


def port_name(name: str) -> str:
    """The port's name of a tensor of :class:`tecogan_dist.models.port.PortUpscaler`'s state dict."""
    layer, _, kind = name.rpartition(".")
    if layer in _LAYERS:
        return f"{_LAYERS[layer]}.{kind}"
    stem, number, conv = layer.rsplit(".", 2)
    before, after, first = _PAIRS[stem]
    return f"{before}{int(number) + first}{after}{_PLACES[conv]}.{kind}"


def is_torch_file(source: Path) -> bool:
    """Whether a file that is there looks like one of torch's: by its name, or its first bytes."""
    if not source.is_file():
        return False
    if source.suffix in SUFFIXES:
        return True
    try:
        with open(source, "rb") as file:
            return file.read(4) == b"PK\3\4"
    except OSError:
        return False  # whoever reads it in earnest will say why


def convert_port(source: Path, output: Path, *, overwrite: bool = False, warm_up: int | None = None) -> str:
    """Write the weights file ``output`` from the port's generator in ``source``; a sentence on what was written.

    ``warm_up``: :attr:`tecogan_dist.weights.format.Weights.warm_up`; None for that of the port's ``infer_sequence``, 0.
    Nothing in ``source`` is executed. Raises :class:`UserError`; then ``output`` is as it was.
    """
    with new_weights_file(source, output, overwrite=overwrite):
        state, model, degradation = read_port(source)
        if not gives_pictures(state, model):
            raise UserError(
                f"the weights in {source} cannot be used: some are so large that the upscaler gives no picture, take "
                "another copy."
            )
        save_weights(
            output, upscaler_state=state, model=model, run_config=None, degradation=degradation, warm_up=warm_up
        )
    numbers = sum(tensor.numel() for tensor in state.values())
    return (
        f"wrote {output}: upscaler of TecoGAN-PyTorch for {model.scale}x {degradation} with {model.blocks} residual "
        f"blocks of {model.channels} channels, {len(state)} tensors, {numbers:,} numbers, in the arithmetic of "
        f"TecoGAN-PyTorch, {_warming(warm_up or 0)}."
    )


def _warming(warm_up: int) -> str:
    if warm_up:
        return f"with {warm_up} mirrored frames before a scene"
    return f"without a warm-up (its published numbers were measured with one: --warm-up {TEST_WARM_UP})"


def read_port(source: Path) -> tuple[dict[str, Tensor], ModelConfig, Degradation]:
    """The upscaler's state under our names, its model, and what it was trained on. Raises :class:`UserError`."""
    # A dictionary from a file may have anything for a name; what is not text is unknown then, like other such names.
    content = read_state_dict(source, how_to_get=_HOW_TO_GET)
    found = {str(name).removeprefix(_WRAPPED): value for name, value in content.items()}
    _check_kind(source, found)
    kind = f"{source} is not a generator of TecoGAN-PyTorch"
    model = _model(found, kind)
    with torch.device("meta"):
        expected = shapes(build_upscaler(model).state_dict())
    wanted = {port_name(name): shape for name, shape in expected.items()}
    strange = sorted(name for name in found if name not in wanted and name not in KERNELS)
    if strange:
        raise UserError(f"{kind}: {short(strange[0])} does not belong to one; {_HOW_TO_GET}.")
    _check_size(source, [found.get(name) for name in wanted], kind)
    tensors = select(found, wanted, kind=kind, advice=_HOW_TO_GET)
    degradation: Degradation = "BD" if any(name in found for name in KERNELS) else "BI"
    _check_kernels(found, model.scale, kind)
    return {name: tensors[port_name(name)] for name in expected}, model, degradation


def _check_kind(source: Path, found: Mapping[str, Any]) -> None:
    if any(name.startswith(("fnet.", "srnet.")) for name in found):
        return
    if any(name.startswith("discriminator_block.") for name in found):
        raise UserError(
            f"{source} is a discriminator of TecoGAN-PyTorch, which upscales nothing, and ours is another network: "
            f"{_HOW_TO_GET}."
        )
    if any(name.startswith("features.") for name in found):
        raise UserError(
            f"{source} looks like VGG19 of torchvision: train's --perceptual.weights takes that file as it is."
        )
    raise UserError(
        f"{source} holds no generator of TecoGAN-PyTorch (fnet..., srnet...) but "
        f"{', '.join(short(name) for name in sorted(found)[:3]) or 'nothing'}: {_HOW_TO_GET}."
    )


def _model(found: Mapping[str, Any], kind: str) -> ModelConfig:
    channels, seen = _sizes(found, "srnet.conv_in.0.weight", kind)
    flow_width, _ = _sizes(found, "fnet.encoder1.0.weight", kind)
    if seen not in _SCALES:
        raise UserError(
            f"{kind} for 4x or 2x: its first layer takes {seen} channels, where those take "
            f"{' and '.join(map(str, _SCALES))}; {_HOW_TO_GET}."
        )
    if not (1 <= channels <= WIDEST and 1 <= flow_width <= WIDEST):
        raise UserError(f"{kind}: its layers have impossible sizes; {_HOW_TO_GET}.")
    blocks = {name.split(".")[2] for name in found if name.startswith("srnet.resblocks.")}
    return ModelConfig(
        scale=4 if _SCALES[seen] == 4 else 2,
        blocks=max(1, len(blocks)),
        channels=channels,
        flow_width=flow_width,
        arithmetic="pytorch_port",
    )


def _sizes(found: Mapping[str, Any], name: str, kind: str) -> tuple[int, int]:
    """The channels that a convolution makes, and those that it takes."""
    weight = found.get(name)
    if not isinstance(weight, Tensor) or weight.ndim != 4:
        raise UserError(f"{kind}: {name} is missing or of a wrong shape; {_HOW_TO_GET}.")
    return weight.shape[0], weight.shape[1]


def _check_size(source: Path, values: list[Any], kind: str) -> None:
    """Tensors can share or repeat their numbers: what they take is bounded by the file before they are copied."""
    needed = sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
    if needed > source.stat().st_size:
        raise UserError(f"{kind}: its tensors share their numbers, as no state dict's do; {_HOW_TO_GET}.")


def _check_kernels(found: Mapping[str, Any], scale: int, kind: str) -> None:
    """Raise :class:`UserError` for fixed kernels other than our enlargement's: the model would see other numbers."""
    stored = select(
        found,
        {name: torch.Size([scale, 4]) for name in KERNELS if name in found},
        kind=kind,
        advice=_HOW_TO_GET,
    )
    for tap in range(4):
        # What our enlargement makes of a single 1 among zeros, seen from the pixel whose tap it is.
        row = torch.zeros(1, 1, 1, 8)
        row[..., 2 + tap] = 1
        expected = resize_bicubic(row, scale)[0, 0, 0, 3 * scale : 4 * scale]
        for name, kernels in stored.items():
            if not torch.allclose(kernels[:, tap], expected, rtol=0, atol=KERNEL_TOLERANCE):
                raise UserError(f"{kind} as published: {name} holds another enlargement's numbers; {_HOW_TO_GET}.")
