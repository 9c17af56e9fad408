"""``tecogan export``: its mistakes, what it leaves alone, and the example that runs its file on a video."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.export import _licence, main
from tecogan_dist.published.catalogue import find
from tecogan_dist.upscaling.export.checking import moving_pattern
from tecogan_dist.upscaling.sequence import upscale_frames
from tests.support.paths import REPOSITORY
from tests.support.weights_files import save_small

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with weights."""
    monkeypatch.chdir(tmp_path)
    save_small(tmp_path / "w.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["step"], r"the output step must have a name that ends in \.onnx or \.pt2"),
        (["step.pth"], r"must have a name that ends in \.onnx or \.pt2"),
        (["step.ONNX"], r"must have a name that ends in \.onnx or \.pt2"),
        (["step.onnx", "--to", "pt2"], r"--to pt2 writes a file that ends in \.pt2, and step\.onnx does not"),
        (["step.onnx", "--to", "torchscript"], r"--to: invalid choice: 'torchscript'"),
        (["step.onnx", "--device", "cuda"], "an ONNX file runs on any device: leave out --device"),
        (["none/step.onnx"], "the folder none does not exist: make it first"),
        (["step.onnx", "--weights", "none.safetensors"], "no weights are at none.safetensors"),
        (["step.onnx", "--weights", "broken.safetensors"], "is not a safetensors file, or is damaged"),
        (["step.onnx", "--weights", "vgg19"], "vgg19 is published as weights of VGG19, and weights of an upscaler"),
        (["old.onnx"], r"old\.onnx exists: name another output, or replace it with --overwrite"),
        (["folder.onnx", "--overwrite"], "is a folder: name a file"),
        ([], "required: OUTPUT"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(folder: Path, words: list[str], reason: str) -> None:
    (folder / "broken.safetensors").write_bytes(b"\0" * 100)
    (folder / "old.onnx").write_text("an older one")
    (folder / "folder.onnx").mkdir()
    before = sorted(folder.iterdir())
    given = words if "--weights" in words or not words else [*words, "--weights", "w.safetensors"]
    with pytest.raises(UserError, match=reason):
        main(given)
    assert sorted(folder.iterdir()) == before
    assert (folder / "old.onnx").read_text() == "an older one"


def test_two_commands_do_not_write_one_output(folder: Path) -> None:
    holder = "from tecogan_dist.base.lock import output_lock\nfrom pathlib import Path\n"
    holder += f"with output_lock(Path({str(folder / 'step.onnx')!r})):\n    print(flush=True)\n    input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=r"another process \(.*\) is writing .*step\.onnx: wait for its end"):
            main(["step.onnx", "--weights", "w.safetensors"])
        process.communicate("\n")
    assert [path.name for path in folder.iterdir()] == ["w.safetensors"]


def test_the_licence_of_published_weights_is_written_down() -> None:
    assert _licence("tecogan", "/cache/x/tecogan.safetensors") == find("tecogan").licence
    assert _licence("runs/tecogan", "runs/tecogan") is None
    assert _licence(None, "/package/published/small.safetensors") == find("small").licence
    assert _licence(None, "/cache/x/tecogan.safetensors") == find("tecogan").licence


@pytest.mark.slow
def test_the_command_and_the_example_without_torch(folder: Path) -> None:
    """The video that onnx_video.py makes is what upscale_frames gives."""
    exported = subprocess.run(
        [sys.executable, "-m", "tecogan_dist.export", "step.onnx", "--weights", "w.safetensors"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.startswith("step.onnx: one step of a 4x upscaler; over 4 frames of 40x24 and 37x21 ")
    assert exported.stderr.splitlines() == [
        "capturing one step of the network ...",
        "translating it to ONNX ...",
        "comparing the file with the network ...",
    ]
    encode(folder / "in.mp4", [(255 * frame).to(torch.uint8).numpy() for frame in moving_pattern(30, 44, 8)])
    lossy, lossless = '{"crf": "16"}', '{"crf": "0"}'  # whose decisions would make noise of a level in a pixel
    text = (REPOSITORY / "scripts" / "onnx_video.py").read_text()
    assert lossy in text
    script = folder / "onnx_video.py"
    script.write_text(text.replace(lossy, lossless))
    alone = "import runpy, sys; sys.modules |= dict.fromkeys(['torch', 'tecogan_dist']); "
    alone += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    ran = subprocess.run(
        [sys.executable, "-c", alone, str(script), "step.onnx", "in.mp4", "out.mp4"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    network = save_small(folder / "again.safetensors").eval()
    frames = map(torch.from_numpy, pixels(folder / "in.mp4"))
    images = [image.numpy() for image in upscale_frames(network, frames, device=torch.device("cpu"))]
    encode(folder / "ours.mp4", images)
    result, expected = pixels(folder / "out.mp4"), pixels(folder / "ours.mp4")
    assert len(result) == len(expected) == 8
    for image, ours in zip(result, expected, strict=True):
        assert image.shape == (120, 176, 3)
        assert np.abs(image.astype(int) - ours).mean() < 0.01  # a level in a few pixels


def pixels(path: Path) -> list[np.ndarray]:
    with av.open(path) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def encode(path: Path, images: list[np.ndarray]) -> None:
    """As the example does it, but without loss."""
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
