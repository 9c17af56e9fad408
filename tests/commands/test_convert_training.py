"""``tecogan convert --to checkpoint``: runs of the original become checkpoints that ``tecogan train`` goes on from.

That the steps after it are the original's is shown in ``tests/parity/test_continuing.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.storage import Location
from tecogan_dist.commands import train
from tecogan_dist.commands.convert import main
from tecogan_dist.config import load as settings
from tecogan_dist.config.schema import ModelConfig
from tecogan_dist.runs.checkpoints import (
    MOMENTS_FILE,
    OWN_FILES,
    find_checkpoint,
    newest_checkpoint,
    opened,
    read_state,
)
from tecogan_dist.runs.find import load_upscaler, read_weights
from tecogan_dist.runs.records import read_metrics
from tecogan_dist.training.begin import check_origin
from tecogan_dist.weights.tensorflow.names import tensorflow_name, to_tensorflow_layout
from tecogan_dist.weights.tensorflow.table import crc32c
from tecogan_dist.weights.tensors import read_tensors
from tests.support import plain_runs
from tests.support.local_ray import small_ray
from tests.support.small_disk import small_disk
from tests.support.tensorflow_files import (
    adam_power,
    by_rule,
    discriminator_shapes,
    training_variables,
    upscaler_shapes,
    vgg_shapes,
    write_v2,
)
from tests.support.training_runs import write_store

torch.set_num_threads(1)
FRVSR = upscaler_shapes(blocks=1, channels=8, flow_width=4)
GAN = FRVSR | discriminator_shapes()
POWER2 = "generator_train/beta2_power_1"
"""Of the flow network, without a discriminator."""
SLOT = "generator_train/generator/generator_unit/resblock_1/conv_2/Conv/weights/Adam"
TINY = """
steps: 10
batch_size: 2
model: {blocks: 1, channels: 8, flow_width: 4}
loss: {perceptual: 0}
optimizer: {kind: adam_tf1}
data: {sequence_length: 3, crop_size: 16}
tracking: {display_every: 1}
"""


def converted(folder: Path, variables: Mapping[str, np.ndarray]) -> Path:
    """The checkpoint that the command makes of a training checkpoint of the original."""
    write_v2(folder / "model", variables, crc32c)
    main([str(folder / "model"), str(folder / "out"), "--to", "checkpoint"])
    return folder / "out"


def test_a_run_of_frvsr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = converted(tmp_path, training_variables(FRVSR, step=7))
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {output}: a checkpoint after step 7, with Adam's moments: upscaler with 1 residual blocks of 8 "
        "channels, 7 updates.",
        "The counts of updates are those of Adam's powers of beta2, which the counters confirm.",
        "To go on exactly, with the original's form of Adam (the moments mean the same in torch's, the default), and "
        "with a setting for each flag in which the run differed from runGan.py:",
        f"  tecogan train --config frvsr --data STORE --output runs/new --resume {output} --optimizer.kind adam_tf1 "
        "--model.blocks 1 --model.channels 8 --model.flow-width 4",
    ]
    content = read_state(Location.of(output))
    assert (content.state.step, content.updates, content.average_updates) == (7, {"upscaler": 7}, 0)
    assert content.state.discriminator_updates == content.state.discriminator_skips == content.state.bad_steps == 0
    weights = read_weights(output)
    assert (weights.step, weights.discriminator) == (7, None)
    assert weights.model == ModelConfig(blocks=1, channels=8, flow_width=4)
    assert not load_upscaler(output, "cpu").training
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.data-00000-of-00001", "model.index", "out"]


def test_a_run_of_tecogan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything is in its place: each number by its name and layout, the counts, and the balance."""
    variables = training_variables(GAN, step=9, updates=6)
    output = converted(tmp_path, variables)
    assert "; discriminator, 6 updates, 3 steps without one, balance 0.25." in capsys.readouterr().out
    content = read_state(Location.of(output))
    assert content.updates == {"upscaler": 9, "discriminator": 6}
    state = content.state
    assert (state.step, state.discriminator_updates, state.discriminator_skips, state.balance_average) == (
        9,
        6,
        3,
        0.25,
    )
    moments, _ = read_tensors(output / MOMENTS_FILE)
    trained = [name for name in GAN if not name.endswith(("moving_mean", "moving_variance"))]
    assert len(moments) == 2 * len(trained)
    for name, tensor in moments.items():
        network, kind, weight = name.split(".", 2)
        weight = f"discriminator.{weight}" if network == "discriminator" else weight
        slot = {"exp_avg": "Adam", "exp_avg_sq": "Adam_1"}[kind]
        theirs = variables[f"generator_train/{tensorflow_name(weight)}/{slot}"]
        np.testing.assert_array_equal(to_tensorflow_layout(weight, tensor), theirs, err_msg=name, strict=True)
    # A kernel by the element: (kh, kw, in, out) -> (out, in, kh, kw).
    kernel = moments["upscaler.exp_avg.generator.blocks.0.conv2.weight"]
    assert kernel[5, 3, 2, 1] == variables[SLOT][2, 1, 3, 5]


def test_it_is_made_as_training_makes_it(tmp_path: Path) -> None:
    """The same files, tensors, types and keys as in a checkpoint of our own training."""
    config = plain_runs.make_config(["--steps", "1"])
    plain_runs.run(config, tmp_path / "run")
    own = newest_checkpoint(Location.of(tmp_path / "run"))
    assert own is not None
    output = Location.of(converted(tmp_path, training_variables(GAN, step=9)))
    assert output.names() == own.names()
    assert read_state(output).files.keys() == read_state(own).files.keys()
    assert read_state(output).updates.keys() == read_state(own).updates.keys()
    with opened(output) as theirs, opened(own) as ours:
        for name in read_state(own).files:
            tensors, expected = (read_tensors(folder / name)[0] for folder in (theirs, ours))
            assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in expected.items()}
    check_origin(output, config)


def test_a_discriminator_that_was_never_updated_has_no_moments(tmp_path: Path) -> None:
    output = converted(tmp_path, training_variables(GAN, step=3, updates=0))
    assert read_state(Location.of(output)).updates == {"upscaler": 3, "discriminator": 0}
    moments, _ = read_tensors(output / MOMENTS_FILE)
    assert {name.split(".")[0] for name in moments} == {"upscaler"}


@pytest.mark.parametrize(
    ("step", "power"),
    [
        (0, None),
        (800, None),
        (2_000, None),  # the power of beta1 is 0
        (60_000, None),
        (85_000, None),
        (500_000, 0.0),
        (500_000, 7e-43),  # where float32 keeps numbers below its normal ones, and rounding keeps this one
    ],
)
def test_updates_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: int, power: float | None
) -> None:
    variables = training_variables(FRVSR, step=step)
    if power is not None:
        variables |= {name: np.array(power, np.float32) for name in (POWER2, POWER2.removesuffix("_1"))}
    state = read_state(Location.of(converted(tmp_path, variables)))
    assert state.updates == {"upscaler": step}
    shown = capsys.readouterr().out
    how = (
        "of Adam's powers of beta2, which" if step < 85_100 else "of global_step: after so many, Adam's powers of beta2"
    )
    assert f"The counts of updates are those {how}" in shown
    # All steps of the preset are done: the command asks for more.
    assert ("--steps 600000" in shown) == (step == 500_000)


def test_a_beta1_of_another_flag_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted(tmp_path, training_variables(FRVSR, step=12, beta1=0.5))
    assert capsys.readouterr().out.rstrip().endswith(" --optimizer.beta1 0.5")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({POWER2: np.array(adam_power(0.999, 8), np.float32)}, r"contradicts itself: after the 7 updates of fnet/"),
        ({POWER2: np.array(0.0, np.float32)}, rf"{POWER2} is not 0 \(Adam's beta2 is 0.999"),
        ({POWER2: np.array(-1.0, np.float32)}, "contradicts itself"),
        ({POWER2: np.array(np.nan, np.float32)}, f"{POWER2} is not a finite number"),
        ({POWER2: np.zeros(2, np.float32)}, f"{POWER2} is not a finite number"),
        ({"generator_train/beta1_power_1": np.array(1.5, np.float32)}, "is no power of Adam's beta1"),
        ({"get_learning_rate_and_global_step/global_step": np.array(-3, np.int64)}, "global_step is not a count"),
        ({"get_learning_rate_and_global_step/global_step": np.array(2**40, np.int64)}, "contradicts itself"),
        ({SLOT: np.zeros((3, 3, 8, 9), np.float32)}, rf"{SLOT} has shape \(3, 3, 8, 9\), which does not fit"),
        ({SLOT: np.full((3, 3, 8, 8), np.inf, np.float32)}, f"576 of the 576 numbers in {SLOT} are infinite"),
        ({SLOT: np.zeros((3, 3, 8, 8), np.int64)}, f"{SLOT} is of type int64"),
        ({f"{SLOT}_1": np.full((3, 3, 8, 8), -1, np.float32)}, "has negative numbers"),
        (
            {name: rule * np.float32(1e30) for name, rule in by_rule(FRVSR).items()},
            "so large that the upscaler gives no picture",
        ),
    ],
)
def test_what_no_run_can_go_on_from(tmp_path: Path, changes: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        converted(tmp_path, training_variables(FRVSR, step=7) | changes)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.data-00000-of-00001", "model.index"]


MISSING = [
    *("generator_train/cond/beta2_power", "generator_train/cond/beta2_power_2", "generator_train/cond/beta1_power_2"),
    *("generator_train/gen_train_with_D_counter", "generator_train/gen_train_wo_D_counter", SLOT, f"{SLOT}_1"),
    "get_learning_rate_and_global_step/global_step",
    "t_discriminator_loss/add_3/ExponentialMovingAverage",
    "tdiscriminator/discriminator_unit/dense_layer_2/dense/bias",
    "generator_train/tdiscriminator/discriminator_unit/dense_layer_2/dense/bias/Adam_1",
    "tdiscriminator/discriminator_unit/disblock_3/BatchNorm/moving_mean",
    "fnet/autoencode_unit/output_stage/conv2/Conv/biases",
]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for name in MISSING:
        variables = training_variables(GAN, step=7)
        del variables[name]
        with pytest.raises(UserError, match=f"has no variable {name}: convert a complete one"):
            converted(tmp_path, variables)


@pytest.mark.parametrize("left", [r"/(Adam|Adam_1)$", r"^generator/.*conv_2/", r"biases$"])
def test_a_last_block_of_which_only_a_part_is_there_is_not_left_out(tmp_path: Path, left: str) -> None:
    shapes = upscaler_shapes(blocks=3, channels=8, flow_width=4)
    whole = training_variables(shapes, step=7)
    torn = {name: array for name, array in whole.items() if "resblock_3/" not in name or re.search(left, name)}
    assert len(torn) < len(whole)
    with pytest.raises(UserError, match=r"has no variable generator/generator_unit/resblock_3/.*: convert a complete"):
        converted(tmp_path, torn)
    write_v2(tmp_path / "model", {name: array for name, array in torn.items() if "Adam" not in name}, crc32c)
    if left != r"/(Adam|Adam_1)$":  # of whose weights nothing is there
        with pytest.raises(UserError, match=r"has no variable generator/generator_unit/resblock_3/"):
            main([str(tmp_path / "model"), str(tmp_path / "w.safetensors")])


def test_weights_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds weights without the optimisers' moments .*--initial-weights FILE"):
        converted(tmp_path, by_rule(GAN))
    with pytest.raises(UserError, match="no TensorFlow checkpoint is at"):
        main([str(tmp_path / "none"), str(tmp_path / "out"), "--to", "checkpoint"])
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    write_v2(tmp_path / "model", training_variables(FRVSR, step=7), crc32c)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for output, reason in {
        "file": "exists, and a checkpoint is a folder",
        "link": "exists, and a checkpoint is a folder",
        "full": "holds something, and a checkpoint replaces nothing",
        "w.safetensors": "a checkpoint is a folder: name one that does not end in .safetensors",
        "none/out": "does not exist: make it first",
        "file/out": "is not a folder",
    }.items():
        with pytest.raises(UserError, match=reason):
            main([str(tmp_path / "model"), str(tmp_path / output), "--to", "checkpoint"])
    with pytest.raises(UserError, match="leave out --overwrite"):
        main([str(tmp_path / "model"), str(tmp_path / "out"), "--to", "checkpoint", "--overwrite"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    main([str(tmp_path / "model"), str(tmp_path / "empty"), "--to", "checkpoint"])
    assert set(Location.of(tmp_path / "empty").names()) < set(OWN_FILES)
    with pytest.raises(UserError, match="holds something"):
        main([str(tmp_path / "model"), str(tmp_path / "empty"), "--to", "checkpoint"])


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    write_v2(tmp_path / "model", training_variables(FRVSR, step=7), crc32c)
    with small_disk(tmp_path / "disk", kilobytes=400) as disk:  # the weights fit, the moments do not
        with pytest.raises(UserError, match="No space left on device"):
            main([str(tmp_path / "model"), str(disk / "out"), "--to", "checkpoint"])
        assert list(disk.iterdir()) == []


def test_a_training_checkpoint_also_gives_weights_and_vgg19(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_v2(tmp_path / "model", training_variables(FRVSR, step=7) | by_rule(vgg_shapes()), crc32c)
    main([str(tmp_path / "model"), str(tmp_path / "w.safetensors")])
    assert capsys.readouterr().out.splitlines()[1].startswith("It also holds the optimisers' moments: --to checkpoint")
    main([str(tmp_path / "model"), str(tmp_path / "out"), "--to", "checkpoint"])
    assert capsys.readouterr().out.endswith(
        f"Its VGG19: tecogan convert {tmp_path / 'model'} vgg19.safetensors --to vgg19\n"
    )
    main([str(tmp_path / "model"), str(tmp_path / "vgg19.safetensors"), "--to", "vgg19"])
    assert capsys.readouterr().out.endswith("VGG19, 32 tensors, 20,024,384 numbers.\n")
    write_v2(tmp_path / "model", training_variables(FRVSR, step=7), crc32c)
    with pytest.raises(UserError, match="holds no VGG19"):
        main([str(tmp_path / "model"), str(tmp_path / "v.safetensors"), "--to", "vgg19"])


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    store, tiny = write_store(tmp_path / "store"), tmp_path / "tiny.yaml"
    tiny.write_text(TINY)
    (tmp_path / "gan").mkdir()
    words = ["--config", str(tiny), "--data", str(store), "--output", str(tmp_path / "run"), "--resume"]
    frvsr, gan = converted(tmp_path, training_variables(FRVSR, step=7)), tmp_path / "gan"
    gan = converted(gan, training_variables(GAN, step=7))
    with pytest.raises(UserError, match=r"the networks of .*out are not those of this config"):
        train.main([*words, str(gan), "--model.blocks", "2"])
    with pytest.raises(UserError, match=r"has no discriminator to go on with: begin a new run"):
        train.main([*words, str(frvsr)])
    with pytest.raises(UserError, match=r"has done 7 steps: ask for more than that"):
        train.main([*words, str(gan), "--steps", "7"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tecogan_train_goes_on_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real command, with a real worker: steps 8 to 10, as a plain process that goes on from the same does them."""
    store, tiny = write_store(tmp_path / "store"), tmp_path / "tiny.yaml"
    tiny.write_text(TINY)
    origin = converted(tmp_path, training_variables(GAN, step=7, updates=5))
    capsys.readouterr()
    with small_ray(cpus=2):
        words = ["--config", str(tiny), "--data", str(store), "--output", str(tmp_path / "run")]
        train.main([*words, "--resume", str(origin)])
    assert capsys.readouterr().out.startswith(f"going on after step 7 ({find_checkpoint(Location.of(origin))})")
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [8, 9, 10]
    assert lines[-1]["discriminator/updates"] + lines[-1]["discriminator/skips"] == 10
    last = newest_checkpoint(Location.of(tmp_path / "run"))
    assert last is not None
    assert read_state(last).updates["upscaler"] == 10
    assert settings.load(str(tiny)).optimizer.kind == "adam_tf1"
    load_upscaler(tmp_path / "run", "cpu")
