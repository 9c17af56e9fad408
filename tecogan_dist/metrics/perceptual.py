"""LPIPS (Zhang et al., CVPR 2018), version 0.1 with its linear heads, from features that are computed once an image.

The networks and heads are the ``lpips`` package's; only the trunk's ImageNet weights have to be brought along.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.state_dicts import read_state_dict, select
from tecogan_dist.metrics.protocol import Images
from tecogan_dist.ops.cudnn import cudnn_flags

Net = Literal["alex", "squeeze", "vgg"]
Features = list[Tensor]
"""One image's activations after each level of the trunk, (1, C, H, W), each pixel of unit length."""

WEIGHTS_VARIABLE = "TECOGAN_LPIPS_WEIGHTS"
TRUNK_FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
    "vgg": "vgg16-397923af.pth",
}
"""torchvision's files, under https://download.pytorch.org/models/ and in torch's cache."""


@dataclass(frozen=True)
class Trunk:
    """A trunk's weights by torchvision's names (``features.0.weight``). A plain value, to be sent where it is used.

    ``path`` is the file they are from.
    """

    net: Net
    state: dict[str, Tensor]
    path: Path


def find_trunk(net: Net = "alex", path: str | Path | None = None, *, instead: Path | None = None) -> Trunk:
    """Read a trunk: the torchvision state dict at ``path``, else at $TECOGAN_LPIPS_WEIGHTS, else in torch's cache.

    ``instead``: where AlexNet's is, too, if it is at none of them. Raises :class:`UserError` if there is none, or the
    file holds something else.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILES[net]
    chosen = Path(path or os.environ.get(WEIGHTS_VARIABLE) or cached)
    if chosen == cached and not cached.is_file() and net == "alex" and instead is not None:
        chosen = instead
    how_to_get = f"download https://download.pytorch.org/models/{TRUNK_FILES[net]}"
    if not chosen.is_file():
        if chosen != cached:
            raise UserError(f"no weights of the LPIPS network are at {chosen}: {how_to_get} and give its path.")
        raise UserError(
            f"LPIPS and tLP need the weights of torchvision's network: {how_to_get} to {cached}, or give it with "
            f"--lpips-weights or ${WEIGHTS_VARIABLE} ('tecogan fetch lpips-alex' does it for alex); or leave both out "
            "with --metrics psnr,ssim,tof."
        )
    state = read_state_dict(chosen, how_to_get=how_to_get)
    wanted = {_torchvision_name(name): tensor.shape for name, tensor in _empty(net).net.state_dict().items()}
    kind = f"{chosen} is not a file of {TRUNK_FILES[net].split('-')[0]}'s weights"
    return Trunk(net, select(state, wanted, kind=kind, advice=how_to_get), chosen)


class Lpips:
    """LPIPS with one trunk on one device. A result does not depend on what else is measured."""

    def __init__(self, trunk: Trunk, *, device: str | torch.device = "cpu") -> None:
        import lpips

        self._normalized = lpips.normalize_tensor
        model = _empty(trunk.net)
        model.net.load_state_dict({name: trunk.state[_torchvision_name(name)] for name in model.net.state_dict()})
        self._device = torch.device(device)
        # channels_last makes the pools cheap on a CPU: 1.25x for the whole trunk at equal values.
        self._model = model.eval().requires_grad_(False).to(self._device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(self, image: Images) -> Features:
        """Features of an (H, W, 3) uint8 RGB image with sides of 32 pixels or more."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        # A view of (H, W, 3) is channels_last already.
        scaled = self._model.scaling_layer(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
        with cudnn_flags(allow_tf32=False, deterministic=True, benchmark=False):
            return [self._normalized(level) for level in self._model.net(scaled)]

    @torch.inference_mode()
    def distance(self, first: Features, second: Features) -> float:
        """LPIPS of two images of one size by their :meth:`features`: 0 for equal images, lower is better."""
        total = 0.0
        for head, a, b in zip(self._model.lins, first, second, strict=True):
            # A head is one weight a channel, so the mean over pixels may come before it.
            weights = head.model[-1].weight.flatten()
            difference = a - b
            total += float((difference * difference).mean(dim=(0, 2, 3)).dot(weights))
        return total


def t_lp(result_step: float, target_step: float) -> float:
    """tLP times 100 of one step, as it is published: how far two LPIPS distances between consecutive frames are apart.

    TecoGAN, section 4.2; 0 for equal change, lower is better.
    """
    return abs(result_step - target_step) * 100


def _empty(net: Net) -> Any:
    """The package's model with its heads and a trunk that is still to be loaded."""
    import lpips  # it brings torchvision: more than a second, for every process of a training run

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():  # initial values are soon replaced
        warnings.simplefilter("ignore", UserWarning)  # the package calls torchvision by an old name of a parameter
        return lpips.LPIPS(net=net, pnet_rand=True, verbose=False)


def _torchvision_name(name: str) -> str:
    """``slice2.4.weight`` in the package is ``features.4.weight`` in torchvision."""
    _, number, *rest = name.split(".")
    return ".".join(["features", number, *rest])
