"""An exported step against the network, as others would run it: one file for all sizes, zeros for the first frame."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._inductor.exc import InvalidCxxCompiler

from tecogan_dist.base.errors import UserError
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.models.recurrent import RecurrentUpscaler
from tecogan_dist.ops import resampling
from tecogan_dist.ops.images import pad_reflect, pad_symmetric, to_unit
from tecogan_dist.runs.find import load_upscaler
from tecogan_dist.upscaling.export import onnx_file, pt2_file, run
from tecogan_dist.upscaling.export.checking import LIMIT, largest_difference, moving_pattern
from tecogan_dist.upscaling.export.checking import run as run_step
from tecogan_dist.upscaling.export.onnx_file import OnnxStep
from tecogan_dist.upscaling.export.pt2_file import Pt2Step
from tecogan_dist.upscaling.export.run import export
from tecogan_dist.upscaling.export.step import Step
from tecogan_dist.upscaling.sequence import upscale_float
from tecogan_dist.weights.format import save_weights
from tests.parity.reference import fill_by_rule, load
from tests.support.weights_files import SMALL, make_upscaler, save_small

torch.set_num_threads(1)
CPU = torch.device("cpu")
FRAMES = 12
SIZES = [(8, 8), (16, 16), (9, 100), (37, 61), (40, 72)]
"""Rows and columns."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.safetensors and what was exported of it, small.onnx."""
    folder = tmp_path_factory.mktemp("export")
    save_small(folder / "small.safetensors", step=7)
    # As in a fresh process: no kernel has been made before torch traces.
    resampling._kernels.clear()
    done = export(folder / "small.safetensors", folder / "small.onnx", kind="onnx", device=CPU, licence="CC-BY of us")
    assert done.startswith(f"{folder / 'small.onnx'}: one step of a 4x upscaler; ")
    return folder


@pytest.fixture(scope="module")
def model(made: Path) -> RecurrentUpscaler:
    return load_upscaler(made / "small.safetensors", CPU)


def worst(step: Any, model: RecurrentUpscaler, film: list[Tensor]) -> float:
    """The largest difference over a film, without a warm-up."""
    results = run_step(step, film, scale=model.scale, device=CPU)
    expected = [upscaled.sr_frame for upscaled in upscale_float(model, film, device=CPU, warm_up=0)]
    return max(float((a - b).abs().max()) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_one_file_is_for_all_sizes(made: Path, model: RecurrentUpscaler, height: int, width: int) -> None:
    film = moving_pattern(height, width, FRAMES)
    assert worst(OnnxStep(made / "small.onnx"), model, film) < 1e-5
    # The film moves, and the past matters: frames on their own would be something else.
    with torch.no_grad():
        alone = torch.cat([to_unit(model.first_frame(frame.permute(2, 0, 1)[None])) for frame in film])
    together = torch.stack([upscaled.sr_frame for upscaled in upscale_float(model, film, device=CPU, warm_up=0)])
    assert float((alone[1:] - together[1:]).abs().max()) > 100 * LIMIT


@torch.no_grad()
def test_zeros_are_the_first_frames_past_exactly() -> None:
    torch.manual_seed(3)
    model = make_upscaler(SMALL, seed=1).eval()
    with torch.no_grad():
        model.flow.output.conv2.weight.mul_(50)  # flows of many pixels
    step = Step(model)
    frame, any_frame = torch.rand(1, 3, 21, 37), torch.rand(1, 3, 21, 37)
    expected = to_unit(model.first_frame(frame))
    zeros = torch.zeros(1, 3, 84, 148)
    assert torch.equal(step(frame, torch.zeros_like(frame), zeros), expected)
    assert torch.equal(step(frame, any_frame, zeros), expected)  # whatever the flow
    assert not torch.allclose(step(frame, any_frame, zeros + 0.5), expected, atol=1e-3)


def test_what_the_file_says_of_itself(made: Path) -> None:
    said = OnnxStep(made / "small.onnx").metadata
    assert said["format"] == "tecogan_dist recurrent step"
    assert (said["scale"], said["warm_up"], said["rounding"], said["opset"]) == ("4", "5", "down", "18")
    assert (said["degradation"], said["step"], said["licence"]) == ("BD", "7", "CC-BY of us")
    assert said["package"].startswith("tecogan_dist ")
    assert json.loads(said["model"])["blocks"] == SMALL.blocks
    for name in ("lr_frame", "previous_lr", "previous_sr"):
        assert name in said["inputs"]
    assert "zeros for a sequence's first frame" in said["state"]


def test_the_file_is_plain_onnx_of_opset_18_and_whole(made: Path) -> None:
    content = (made / "small.onnx").read_bytes()
    assert str(Path(run.__file__).parents[2]).encode() not in content
    graph = onnx.load_from_string(content)
    onnx.checker.check_model(graph, full_check=True)
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", 18)]
    assert not graph.functions
    assert sorted(path.name for path in made.iterdir()) == ["small.onnx", "small.safetensors"]  # no external data
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert kinds["GatherElements"] == 4  # the warp
    # One graph, without branches, and without what TensorRT samples otherwise.
    assert not {"If", "Loop", "Scan", "GridSample"} & set(kinds)
    sizes = [
        [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*graph.graph.input, *graph.graph.output)
    ]
    small, large = [1, 3, "h", "w"], [1, 3, "4*h", "4*w"]
    assert sizes == [small, small, large, large]
    assert not any(one.metadata_props or one.doc_string for one in (*graph.graph.node, *graph.graph.value_info))


@pytest.mark.parametrize("pad", [pad_symmetric, pad_reflect])
def test_padding_and_kernels_are_traced_once_for_all_sizes(pad: Any) -> None:
    """What was mended for it: a branch on sizes, and a cache that kept what stood for a tensor."""

    class Function(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            part = resampling.resize_bilinear(F.max_pool2d(x, 8), 8)
            padded = pad(part, x.shape[-2] - part.shape[-2], x.shape[-1] - part.shape[-1])
            return resampling.resize_bicubic(padded, 2)

    resampling._kernels.clear()
    sizes = {2: torch.export.Dim("h", min=16), 3: torch.export.Dim("w", min=16)}
    program = torch.export.export(Function(), (torch.rand(1, 3, 21, 37),), dynamic_shapes={"x": sizes}).module()
    assert all(type(kernel) is Tensor for kernel in resampling._kernels.values())
    for height, width in ((16, 24), (23, 31), (24, 25)):
        x = torch.rand(1, 3, height, width)
        assert torch.equal(program(x), Function()(x))
    assert resampling._kernels


def test_a_kernel_of_inference_serves_training() -> None:
    resampling._kernels.clear()
    x = torch.rand(1, 3, 9, 11)
    with torch.inference_mode():
        expected = resampling.resize_bicubic(x)
    x.requires_grad_()
    enlarged = resampling.resize_bicubic(x)
    enlarged.sum().backward()
    assert torch.equal(enlarged, expected)
    assert x.grad is not None
    inner = x.grad[..., 3:-3, 3:-3]  # where no edge is held
    torch.testing.assert_close(inner, torch.full_like(inner, 16.0))  # 16 outputs, whose weights sum to 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("bottom", "right"), [(0, 0), (3, 0), (0, 5), (7, 7)])
def test_padding_is_the_mirrors(bottom: int, right: int, channels_last: bool) -> None:
    x = torch.rand(2, 2, 16, 24)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    for pad, mode in ((pad_symmetric, "symmetric"), (pad_reflect, "reflect")):
        padded = pad(x, bottom, right)
        expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, bottom), (0, right)), mode=mode)  # type: ignore[call-overload]
        np.testing.assert_array_equal(padded.numpy(), expected)
        assert padded.is_contiguous(memory_format=layout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "degradation"),
    [({"scale": 2}, "BD"), ({}, "BI"), ({"arithmetic": "pytorch_port"}, "BD"), ({"arithmetic": "pytorch_port"}, "BI")],
)
def test_other_networks(tmp_path: Path, settings: dict[str, Any], degradation: Any) -> None:
    kind = ModelConfig(blocks=1, channels=8, flow_width=4, **settings)
    save_small(tmp_path / "w.safetensors", model=kind, degradation=degradation)
    export(tmp_path / "w.safetensors", tmp_path / "w.onnx", kind="onnx", device=CPU)
    step = OnnxStep(tmp_path / "w.onnx")
    network = load_upscaler(tmp_path / "w.safetensors", CPU)
    for height, width in ((16, 16), (37, 61)):
        assert worst(step, network, moving_pattern(height, width, FRAMES)) < 1e-5
    assert step.metadata["scale"] == str(kind.scale)
    assert step.metadata["degradation"] == degradation
    is_port = kind.arithmetic == "pytorch_port"
    assert (step.metadata["warm_up"], step.metadata["rounding"]) == (("0", "nearest") if is_port else ("5", "down"))


@pytest.mark.slow
def test_the_originals_inference(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """12 and 13 frames with the warm-up, 16 blocks: what the original's own graph gave for the vectors."""
    vectors = load(request.config.getoption("--reference"), "inference.npz")
    kind = ModelConfig(blocks=16)
    network = make_upscaler(kind)
    fill_by_rule(network, int(vectors["seed"]))
    save_weights(tmp_path / "w.safetensors", upscaler_state=network.state_dict(), model=kind, run_config=None)
    export(tmp_path / "w.safetensors", tmp_path / "w.onnx", kind="onnx", device=CPU)
    step = OnnxStep(tmp_path / "w.onnx")
    for case in ("mult8", "odd"):
        assert int(vectors[f"{case}:num_resblock"]) == kind.blocks
        frames = [torch.from_numpy(frame).float() / 255 for frame in vectors[f"{case}:in_u8"]]
        film = frames[5:0:-1] + frames
        assert len(film) >= FRAMES
        results = torch.stack(run_step(step, film, scale=4, device=CPU)[5:]).permute(0, 2, 3, 1).numpy()
        assert np.abs(results[:, ::8, ::8] - vectors[f"{case}:hr_subsample8"]).max() < LIMIT
        assert np.abs(results[vectors[f"{case}:keep"]] - vectors[f"{case}:hr_frames"]).max() < LIMIT


def test_a_file_that_differs_is_not_kept(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step.onnx").write_text("an older one")
    save_small(tmp_path / "other.safetensors", step=8)

    def of_the_first_network(_program: object, _metadata: object, path: Path) -> None:
        shutil.copyfile(made / "small.onnx", path)

    monkeypatch.setattr(run, "capture", lambda _model, _device: None)
    monkeypatch.setattr(run, "write_onnx", of_the_first_network)
    with pytest.raises(UserError, match=r"is not written: .* the network's by \d\.\de-0\d, more than 0.0001: check "):
        export(tmp_path / "other.safetensors", tmp_path / "step.onnx", kind="onnx", device=CPU, overwrite=True)
    assert (tmp_path / "step.onnx").read_text() == "an older one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.safetensors", "step.onnx"]


def test_no_number_is_a_difference(model: RecurrentUpscaler) -> None:
    def nothing(lr_frame: Tensor, _previous_lr: Tensor, previous_sr: Tensor) -> Tensor:
        return previous_sr * lr_frame.new_tensor(float("nan"))

    assert largest_difference(nothing, model, CPU) == float("inf")


def test_what_is_missing_here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(UserError, match=r"^onnxscript is not installed, .* pip install onnx onnxscript onnxruntime\.$"):
        export(made / "small.safetensors", tmp_path / "step.onnx", kind="onnx", device=CPU)

    def no_compiler() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(pt2_file.cpp_builder, "get_cpp_compiler", no_compiler)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler, and none works here: install g\\+\\+"):
        export(made / "small.safetensors", tmp_path / "step.pt2", kind="pt2", device=CPU)
    assert not list(tmp_path.iterdir())


def test_weights_that_no_onnx_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    program = torch.export.export(torch.nn.Linear(20, 20), (torch.zeros(20),))
    with pytest.raises(UserError, match="an ONNX file holds less than 2 GB"):
        onnx_file.write_onnx(program, {}, tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


FRESH = """
import sys, torch
from torch._inductor import aoti_load_package
step = aoti_load_package(sys.argv[1])
results = []
for film in torch.load(sys.argv[2], weights_only=True):
    previous_lr, previous_sr = torch.zeros_like(film[0]), torch.zeros(1, 3, 4 * film[0].shape[2], 4 * film[0].shape[3])
    for frame in film:
        previous_lr, previous_sr = frame, step(frame, previous_lr, previous_sr)
        results.append(previous_sr)
torch.save(results, sys.argv[3])
assert "tecogan_dist" not in sys.modules
print(step.get_metadata())
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_package_in_a_process_of_its_own(made: Path, model: RecurrentUpscaler, tmp_path: Path) -> None:
    """Compiling takes a minute and a half of one quiet core."""
    done = export(made / "small.safetensors", tmp_path / "step.pt2", kind="pt2", device=CPU)
    assert done.startswith(f"{tmp_path / 'step.pt2'}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["step.pt2"]
    films = [moving_pattern(height, width, 5) for height, width in ((8, 8), (16, 40), (37, 61))]
    frames = [[frame.permute(2, 0, 1)[None].contiguous() for frame in film] for film in films]
    torch.save(frames, tmp_path / "films")
    command = [sys.executable, "-c", FRESH, *(str(tmp_path / name) for name in ("step.pt2", "films", "results"))]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    results = torch.load(tmp_path / "results", weights_only=True)
    expected = [one.sr_frame for film in films for one in upscale_float(model, film, device=CPU, warm_up=0)]
    assert max(float((a[0] - b).abs().max()) for a, b in zip(results, expected, strict=True)) < 1e-5
    said = ast.literal_eval(ran.stdout)
    assert (said["device"], said["scale"], said["warm_up"], said["step"]) == ("cpu", "4", "5", "7")
    assert said["torch"] == torch.__version__
    assert Pt2Step(tmp_path / "step.pt2").metadata == said
