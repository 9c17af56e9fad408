"""From TensorFlow's names and layouts to ours and back, and the command that converts files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tecogan_dist.base.errors import UserError
from tecogan_dist.commands.convert import main
from tecogan_dist.config.schema import DiscriminatorConfig, ModelConfig
from tecogan_dist.models.build import build_discriminator
from tecogan_dist.models.vgg import Vgg19
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.weights.tensorflow.convert import convert
from tecogan_dist.weights.tensorflow.names import (
    SCORE_BIAS,
    from_tensorflow,
    from_tensorflow_layout,
    tensorflow_name,
    to_tensorflow_layout,
    vgg_from_tensorflow,
)
from tecogan_dist.weights.tensorflow.table import crc32c
from tecogan_dist.weights.vgg import build_vgg, read_vgg
from tests.support.paths import TENSORFLOW_CHECKPOINTS
from tests.support.tensorflow_files import by_rule, discriminator_shapes, upscaler_shapes, vgg_shapes, write_v2

torch.set_num_threads(1)
SMALL = ModelConfig(blocks=3, channels=8, flow_width=4)
UPSCALER = by_rule(upscaler_shapes(blocks=3, channels=8, flow_width=4))
STEP = "get_learning_rate_and_global_step/global_step"
OTHERS = {
    STEP: np.array(1234, np.int64),
    "generator_train/generator/generator_unit/resblock_1/conv_1/Conv/weights/Adam": np.ones((3, 3, 8, 8), np.float32),
    "generator_train/beta1_power": np.array(0.9, np.float32),
    "generator_loss/add_3/ExponentialMovingAverage": np.array(0.5, np.float32),
    "vgg_19/conv1/conv1_1/weights": np.ones((3, 3, 3, 64), np.float32),
}


@pytest.fixture(scope="module")
def discriminator() -> dict[str, np.ndarray]:
    return by_rule(discriminator_shapes())


def test_names_written_down_from_the_original() -> None:
    # One of each kind of layer; the full sets are compared below.
    for ours, theirs in {
        "generator.blocks.9.conv2.bias": "generator/generator_unit/resblock_10/conv_2/Conv/biases",
        "generator.up2.weight": "generator/generator_unit/conv_tran2highres/conv_tran2/Conv2d_transpose/weights",
        "flow.decoder.0.conv1.weight": "fnet/autoencode_unit/decoder_1/conv_1/Conv/weights",
        "flow.output.conv2.bias": "fnet/autoencode_unit/output_stage/conv2/Conv/biases",
        "discriminator.blocks.3.conv.weight": "tdiscriminator/discriminator_unit/disblock_7/conv1/Conv/weights",
        "discriminator.blocks.1.norm.moving_variance": (
            "tdiscriminator/discriminator_unit/disblock_3/BatchNorm/moving_variance"
        ),
        "discriminator.score.weight": "tdiscriminator/discriminator_unit/dense_layer_2/dense/kernel",
        "discriminator.score.bias": SCORE_BIAS,
        "vgg.conv3_4.bias": "vgg_19/conv3/conv3_4/biases",
    }.items():
        assert tensorflow_name(ours) == theirs
    with pytest.raises(KeyError):
        tensorflow_name("generator.head.weight")


def test_names_are_those_of_the_original_and_unique() -> None:
    state, _, _ = from_tensorflow(UPSCALER)
    assert sorted(map(tensorflow_name, state)) == sorted(UPSCALER)
    names = [f"discriminator.{name}" for name in build_discriminator(DiscriminatorConfig()).state_dict()]
    assert sorted(map(tensorflow_name, names)) == sorted(discriminator_shapes())
    with torch.device("meta"):
        names = [f"vgg.{name}" for name in Vgg19("tf_slim").state_dict()]
    assert {tensorflow_name(name) for name in names} == {name for name in vgg_shapes() if "fc8" not in name}


def test_layouts_by_the_element() -> None:
    """Which element goes where, from the layouts' definitions (README of the reference vectors)."""
    conv = torch.randn(5, 4, 3, 2)  # (out, in, kh, kw)
    there = to_tensorflow_layout("generator.input.weight", conv)
    assert there.shape == (3, 2, 4, 5)
    assert there[2, 1, 3, 0] == conv[0, 3, 2, 1]
    transposed = torch.randn(4, 5, 3, 2)  # (in, out, kh, kw)
    there = to_tensorflow_layout("generator.up1.weight", transposed)
    assert there.shape == (3, 2, 5, 4)  # (kh, kw, out, in)
    assert there[2, 1, 0, 3] == transposed[3, 0, 2, 1]
    dense = torch.randn(1, 6)
    assert to_tensorflow_layout("discriminator.score.weight", dense).tolist() == dense.T.tolist()
    for name, tensor in (("generator.input.weight", conv), ("discriminator.score.weight", dense)):
        back = from_tensorflow_layout(name, to_tensorflow_layout(name, tensor))
        assert torch.equal(back, tensor)
        assert back.is_contiguous()


def test_state_of_all_networks_and_nothing_else(discriminator: dict[str, np.ndarray]) -> None:
    tensors = UPSCALER | discriminator | OTHERS
    upscaler_state, discriminator_state, model = from_tensorflow(tensors)
    assert model == SMALL
    assert discriminator_state is not None
    for prefix, state in (("", upscaler_state), ("discriminator.", discriminator_state)):
        for name, tensor in state.items():
            there = to_tensorflow_layout(name, tensor)
            np.testing.assert_array_equal(there, tensors[tensorflow_name(prefix + name)], strict=True)
    build_discriminator(DiscriminatorConfig()).load_state_dict(discriminator_state)


def test_a_discriminator_of_warped_triplets_alone(discriminator: dict[str, np.ndarray]) -> None:
    first = "tdiscriminator/discriminator_unit/input_stage/conv/Conv/weights"
    _, state, _ = from_tensorflow(UPSCALER | discriminator | {first: discriminator[first][:, :, :9]})
    assert state is not None
    build_discriminator(DiscriminatorConfig(temporal_only=True)).load_state_dict(state)
    with pytest.raises(UserError, match=r"has shape \(3, 3, 12, 64\), which does not fit a TecoGAN"):
        from_tensorflow(UPSCALER | discriminator | {first: discriminator[first][:, :, :12]})


def test_transposed_convolution_computes_as_tensorflows(tmp_path: Path) -> None:
    """conv_tran1 against its definition: each input pixel adds its kernel at twice its place, cut to twice the size."""
    kernel = UPSCALER["generator/generator_unit/conv_tran2highres/conv_tran1/Conv2d_transpose/weights"]
    bias = UPSCALER["generator/generator_unit/conv_tran2highres/conv_tran1/Conv2d_transpose/biases"]
    x = np.random.RandomState(0).standard_normal((4, 5, 8)).astype(np.float32)
    expected = np.zeros((9, 11, 8), np.float32) + bias
    for row in range(4):
        for column in range(5):
            expected[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += kernel @ x[row, column]
    write_v2(tmp_path / "model", UPSCALER, crc32c)
    convert(tmp_path / "model", tmp_path / "w.safetensors")
    upscaler = load_upscaler(tmp_path / "w.safetensors", "cpu")
    with torch.no_grad():
        found = upscaler.generator.up1(torch.from_numpy(x).permute(2, 0, 1)[None])
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected[:8, :10], atol=2e-6)


def test_incomplete_and_foreign_variables(discriminator: dict[str, np.ndarray]) -> None:
    kernel = "generator/generator_unit/resblock_2/conv_2/Conv/weights"
    flow = "fnet/autoencode_unit/encoder_1/conv_1/Conv/weights"
    first = "tdiscriminator/discriminator_unit/input_stage/conv/Conv/weights"
    for name in (kernel, flow, first):
        tensors = UPSCALER | discriminator
        with pytest.raises(UserError, match=f"no variable {name}"):
            from_tensorflow({other: array for other, array in tensors.items() if other != name})
        for shape in ((3, 3, 7, 9), (3,), (0, 3, 8, 2**40)):
            with pytest.raises(UserError, match=r"has shape .* which does not fit a TecoGAN"):
                from_tensorflow(tensors | {name: np.zeros(shape, np.float32)})
    no_blocks = {name: array for name, array in UPSCALER.items() if "resblock" not in name}
    with pytest.raises(UserError, match="no variable generator/generator_unit/resblock_1/conv_1"):
        from_tensorflow(no_blocks)
    with pytest.raises(UserError, match="no variable vgg_19/conv1/conv1_1/weights"):
        vgg_from_tensorflow(UPSCALER)


def test_converting_an_upscaler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_v2(tmp_path / "model", UPSCALER, crc32c)
    output = tmp_path / "w.safetensors"
    main([str(tmp_path / "model.index"), str(output)])
    numbers = sum(array.size for array in UPSCALER.values())
    assert capsys.readouterr().out == (
        f"wrote {output}: upscaler with 3 residual blocks of 8 channels, {len(UPSCALER)} tensors, {numbers:,} numbers; "
        "step 0.\n"
    )
    assert read_weights(output).model == SMALL
    upscaler = load_upscaler(output, "cpu")
    assert len(upscaler.state_dict()) == len(UPSCALER)
    before = output.read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        main([str(tmp_path / "model"), str(output)])
    assert output.read_bytes() == before
    main([str(tmp_path / "model"), str(output), "--overwrite"])


def test_converting_a_training_checkpoint(tmp_path: Path, discriminator: dict[str, np.ndarray]) -> None:
    write_v2(tmp_path / "model-1234", UPSCALER | discriminator | OTHERS, crc32c)
    sentence, more = convert(tmp_path / "model-1234", tmp_path / "w.safetensors")
    assert f"; discriminator, {len(discriminator)} tensors, " in sentence
    assert sentence.endswith("step 1234.")
    assert "--to checkpoint" in more
    weights = read_weights(tmp_path / "w.safetensors")
    assert (weights.model, weights.step) == (SMALL, 1234)
    assert weights.discriminator is not None
    assert weights.discriminator["score.bias"].item() == discriminator[SCORE_BIAS].item() != 0


def test_a_checkpoint_without_the_last_bias(tmp_path: Path, discriminator: dict[str, np.ndarray]) -> None:
    model_variables = {name: array for name, array in discriminator.items() if name != SCORE_BIAS}
    write_v2(tmp_path / "model", UPSCALER | model_variables, crc32c)
    assert "last bias is not in the checkpoint" in convert(tmp_path / "model", tmp_path / "w.safetensors")[0]
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.discriminator is not None
    assert weights.discriminator["score.bias"].tolist() == [0]
    expected: Tensor = torch.from_numpy(model_variables[SCORE_BIAS.replace("bias", "kernel")].T)
    assert torch.equal(weights.discriminator["score.weight"], expected)


def test_converting_vgg19(tmp_path: Path) -> None:
    tensors = by_rule(vgg_shapes())
    write_v2(tmp_path / "vgg_19", tensors, crc32c)
    (sentence,) = convert(tmp_path / "vgg_19", tmp_path / "vgg.safetensors")
    assert sentence.endswith("VGG19, 32 tensors, 20,024,384 numbers.")  # without the classifier
    vgg = build_vgg(read_vgg(str(tmp_path / "vgg.safetensors"), seed=0))
    np.testing.assert_array_equal(
        to_tensorflow_layout("vgg.conv5_4.weight", vgg.state_dict()["conv5_4.weight"]),
        tensors["vgg_19/conv5/conv5_4/weights"],
    )
    # The normalisation follows from the file: 0..255 minus TF-slim's mean colour.
    assert torch.equal(vgg.mean.flatten(), torch.tensor([123.68, 116.78, 103.94]))
    assert torch.equal(vgg.deviation.flatten(), torch.ones(3))
    tensors["vgg_19/conv5/conv5_4/biases"][3] = np.inf
    with pytest.raises(UserError, match="1 of the 512 numbers in vgg_19/conv5/conv5_4/biases are infinite"):
        vgg_from_tensorflow(tensors)


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    data = TENSORFLOW_CHECKPOINTS
    with pytest.raises(UserError, match="must have a name that ends in"):
        convert(data / "tf_v2", tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not exist"):
        convert(data / "tf_v2", tmp_path / "missing" / "w.safetensors")
    with pytest.raises(UserError, match=r"neither an upscaler .* but first/weights, second/weights"):
        convert(data / "tf_v2_sharded", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"vgg_19/conv1/conv1_1/weights has shape \(3, 3, 3, 4\)"):
        convert(data / "tf_v1.ckpt", tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


KERNEL = "generator/generator_unit/input_stage/conv/Conv/weights"


def spoiled(name: str, value: float) -> dict[str, np.ndarray]:
    array = UPSCALER[name].copy()
    array.flat[0] = value
    return {name: array}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (spoiled(KERNEL, np.nan), f"1 of the 3,672 numbers in {KERNEL} are infinite or not a number"),
        (spoiled(KERNEL, -np.inf), f"1 of the 3,672 numbers in {KERNEL} are infinite or not a number"),
        (
            {name: array * np.float32(1e30) for name, array in UPSCALER.items()},
            "so large that the upscaler gives no pict",
        ),
        ({KERNEL: UPSCALER[KERNEL].astype(np.int64)}, f"{KERNEL} is of type int64"),
        ({KERNEL: np.zeros((1, 1, 1, 100_000), np.float32)}, "does not fit a TecoGAN"),
        ({STEP: np.array(-1, np.int64)}, "is not a number of training steps"),
        ({STEP: np.zeros(2, np.int64)}, "is not a number of training steps"),
        ({STEP: np.array(np.nan, np.float32)}, "is not a number of training steps"),
    ],
)
def test_values_that_no_weights_can_be_made_of(tmp_path: Path, changes: dict[str, np.ndarray], reason: str) -> None:
    write_v2(tmp_path / "model", UPSCALER | changes, crc32c)
    with pytest.raises(UserError, match=reason):
        main([str(tmp_path / "model"), str(tmp_path / "w.safetensors")])
    assert {path.name for path in tmp_path.iterdir()} == {"model.index", "model.data-00000-of-00001"}


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "model.safetensors"  # a V1 file may be called so
    shutil.copy(TENSORFLOW_CHECKPOINTS / "tf_v1.ckpt", source)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to("nothing")
    before = sorted(path.name for path in tmp_path.iterdir())
    for output, reason in {
        "": "empty",
        ".": "must",
        "/": "must",
        "x" * 300 + ".safetensors": "too long",
        "folder.safetensors": "is a folder",
        "link.safetensors": "exists: name another",
        "model.safetensors": "exists: name another",
        "model.safetensors/w.safetensors": "is not a folder",
        "none/w.safetensors": "does not exist: make it first",
    }.items():
        place = output if output in ("", ".", "/") else str(tmp_path / output)
        with pytest.raises(UserError, match=reason):
            main([str(source), place])
    with pytest.raises(UserError, match="is the checkpoint itself"):
        main([str(source), str(source), "--overwrite"])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert source.read_bytes() == (TENSORFLOW_CHECKPOINTS / "tf_v1.ckpt").read_bytes()


def test_what_is_not_understood_is_one_sentence() -> None:
    with pytest.raises(UserError, match="required: OUTPUT: 'tecogan convert --help'"):
        main(["model/TecoGAN"])
    with pytest.raises(UserError, match="--warm-up is for generators of TecoGAN-PyTorch: leave it out"):
        main(["model", "w.safetensors", "--warm-up", "5"])
    with pytest.raises(UserError, match="no option --override: did you mean --overwrite"):
        main(["model/TecoGAN", "w.safetensors", "--override"])


def test_the_command_as_a_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tecogan_dist.convert", str(tmp_path / "none"), str(tmp_path / "w.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no TensorFlow checkpoint is at ")
    assert "Traceback" not in done.stderr
