"""A sweep as a study: read back by Optuna itself, drawn by its figures, in memory and in a file that grows."""

from __future__ import annotations

import dataclasses
import logging
import random
import warnings
from pathlib import Path

import optuna
import pytest
from optuna import visualization
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as State

from tecogan_dist.tuning.ranking import rank, rank_sums, summarise
from tecogan_dist.tuning.records import Segment, SweepResults, TrialRecord, TrialState
from tecogan_dist.tuning.space import Asha, Distribution, Pbt, Score, Space
from tecogan_dist.tuning.study import StudyFile, distribution, study_of

SPACE = Space(
    settings={
        "loss.pingpong": Distribution("uniform", (0.0, 1.0)),
        "loss.adversarial": Distribution("loguniform", (1e-4, 1e-1)),
        "loss.warp": Distribution("quniform", (0.3, 0.9, 0.1)),
        "optimizer.decay_steps": Distribution("randint", (10, 20)),
        "discriminator.temporal_only": Distribution("choice", (True, False)),
    },
    score=Score(metrics={"tof": "min"}),
    scheduler=Asha(kind="asha"),
    trials=12,
    steps=40,
    measure_every=10,
)
LIMITED = dataclasses.replace(SPACE, score=Score(metrics={"tof": "min"}, limits={"psnr": 29.0}))
PARETO = dataclasses.replace(SPACE, score=Score(metrics={"tof": "min", "psnr": "max"}, combine="pareto"))
RANKS = dataclasses.replace(SPACE, score=dataclasses.replace(PARETO.score, combine="ranks"))
BEGAN = 1_700_000_000.0


def trial(number: int, state: TrialState = "complete", *, steps: int = 40) -> TrialRecord:
    """A trial with values and scores of its own, measured up to ``steps``."""
    draw = random.Random(number)
    values = {
        "loss.pingpong": draw.uniform(0, 1),
        "loss.adversarial": 10 ** draw.uniform(-4, -1),
        "loss.warp": draw.randrange(3, 10) * 0.1,  # as Ray rounds: 0.6000000000000001
        "optimizer.decay_steps": draw.randrange(10, 20),
        "discriminator.temporal_only": draw.random() < 0.5,
    }
    measured = range(10, steps + 1, 10)
    return TrialRecord(
        number=number,
        seed=1,
        segments=(Segment(values=values, first_step=0),),
        state=state,
        reason={"stopped": "ASHA at step 10", "failed": "out of memory"}.get(state, ""),
        scores={
            step: {"tof": values["loss.pingpong"] + 1 / step, "psnr": 27 + draw.uniform(0, 4)} for step in measured
        },
        times={step: BEGAN + 60 * number + step for step in measured},
        began=None if state == "waiting" else BEGAN + 60 * number,
    )


def results_of(space: Space, trials: list[TrialRecord]) -> SweepResults:
    return summarise(space, preset_values={}, trials=trials, preset=None, repeats=[], bicubic={})


def mixed() -> list[TrialRecord]:
    return [
        *(trial(number) for number in range(8)),
        trial(8, "stopped", steps=10),
        trial(9, "failed", steps=20),
        trial(10, "running", steps=30),
        trial(11, "waiting", steps=0),
    ]


def read(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Distribution("uniform", (0.0, 2.0)), FloatDistribution(0.0, 2.0)),
        (Distribution("loguniform", (1e-3, 1.0)), FloatDistribution(1e-3, 1.0, log=True)),
        (Distribution("quniform", (0.2, 1.0, 0.2)), FloatDistribution(0.2, 1.0, step=0.2)),
        (Distribution("randint", (2, 7)), IntDistribution(2, 6)),
        (Distribution("choice", (True, None, "a")), CategoricalDistribution([True, None, "a"])),
        (Distribution("grid", (0.1, 0.5)), CategoricalDistribution([0.1, 0.5])),
    ],
)
def test_every_distribution_has_optunas_name(ours: Distribution, theirs: BaseDistribution) -> None:
    assert distribution(ours) == theirs


def test_a_study_says_what_the_records_say() -> None:
    trials = mixed()
    study = study_of(results_of(SPACE, trials))
    assert (study.metric_names, study.direction.name) == (["tOF"], "MINIMIZE")
    assert [found.number for found in study.trials] == [record.number for record in trials]
    states = [State.COMPLETE] * 8 + [State.PRUNED, State.FAIL, State.RUNNING, State.WAITING]
    assert [found.state for found in study.trials] == states
    for record, found in zip(trials, study.trials, strict=True):
        assert found.params == record.values
        if record.state not in ("failed", "waiting"):
            assert found.intermediate_values == {step: scores["tof"] for step, scores in record.scores.items()}
            assert found.user_attrs["PSNR"] == record.last["psnr"]
    assert study.best_trial.number == rank(SPACE.score, trials)[0]
    assert study.trials[8].value == trials[8].last["tof"]
    assert study.trials[8].user_attrs["reason"] == "ASHA at step 10"
    assert study.trials[9].user_attrs["reason"] == "out of memory"
    duration = study.trials[3].duration
    assert duration is not None
    assert duration.total_seconds() == 40
    began = study.trials[3].datetime_start
    assert began is not None
    assert began.timestamp() == BEGAN + 180


def test_limits_are_constraints() -> None:
    trials = mixed()
    study = study_of(results_of(LIMITED, trials))
    kept = [record.number for record in trials if record.state == "complete" and record.last["psnr"] >= 29.0]
    assert 0 < len(kept) < 8
    found = [
        frozen.number
        for frozen in study.get_trials(states=[State.COMPLETE])
        if all(over <= 0 for over in frozen.constraints.values())
    ]
    assert found == kept
    assert study.best_trial.number == rank(LIMITED.score, trials)[0]


def test_several_objectives_have_optunas_front() -> None:
    trials = mixed()
    results = results_of(PARETO, trials)
    study = study_of(results)
    assert (study.metric_names, [way.name for way in study.directions]) == (["tOF", "PSNR"], ["MINIMIZE", "MAXIMIZE"])
    assert study.trials[2].values == [trials[2].last["tof"], trials[2].last["psnr"]]
    assert sorted(found.number for found in study.best_trials) == sorted(results.front)


def test_ranks_are_one_objective_among_those_measured_at_a_step() -> None:
    trials = mixed()
    study = study_of(results_of(RANKS, trials))
    assert (study.metric_names, study.direction.name) == (["rank sum"], "MINIMIZE")
    sums = rank_sums(RANKS.score, {record.number: record.last for record in trials[:8]})
    assert {found.number: found.value for found in study.get_trials(states=[State.COMPLETE])} == sums
    first = rank_sums(RANKS.score, {n: trials[n].scores[10] for n in (*range(9), 10)})  # the failed one is left out
    assert {found.number: found.intermediate_values[10] for found in study.trials if found.intermediate_values} == first
    assert study.best_trial.number == rank(RANKS.score, trials)[0]


def perturbed() -> TrialRecord:
    """Of a PBT trial: a value that left the steps of quniform, and one that a rounding brought out of its range."""
    record = trial(3)
    values = {**record.values, "loss.warp": 0.5 * 1.2 * 1.2, "loss.pingpong": 1.0 + 2**-52}
    later = Segment(values=values, first_step=20, donor=1)
    return dataclasses.replace(record, segments=(*record.segments, later))


def test_values_that_pbt_perturbed_are_taken() -> None:
    space = dataclasses.replace(SPACE, scheduler=Pbt(kind="pbt"))
    record = perturbed()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = study_of(results_of(space, [trial(0), trial(1), trial(2), record]))
    shown = study.trials[3]
    assert shown.params["loss.warp"] == record.values["loss.warp"] == pytest.approx(0.72)
    assert shown.params["loss.pingpong"] == 1.0
    assert shown.user_attrs["values"] == record.values
    # Optuna compares only trials whose distributions are equal.
    assert {found.distributions["loss.warp"] for found in study.trials} == {FloatDistribution(0.3, 0.9)}


@pytest.mark.parametrize("space", [SPACE, LIMITED, RANKS], ids=["one", "limits", "ranks"])
def test_figures_of_one_objective_can_be_drawn(space: Space) -> None:
    study = study_of(results_of(space, mixed()))
    figures = [
        visualization.plot_param_importances(study),
        visualization.plot_parallel_coordinate(study),
        visualization.plot_contour(study, params=["loss.pingpong", "loss.adversarial"]),
        visualization.plot_slice(study),
        visualization.plot_optimization_history(study),
        visualization.plot_intermediate_values(study),
        visualization.plot_timeline(study),
    ]
    assert all(figure.data for figure in figures)
    importances = optuna.importance.get_param_importances(study_of(results_of(SPACE, [trial(n) for n in range(40)])))
    assert next(iter(importances)) == "loss.pingpong"  # which tOF is made of


@pytest.mark.filterwarnings("ignore:PedAnovaImportanceEvaluator computes:UserWarning")  # of low targets, as tOF is
def test_figures_of_several_objectives_can_be_drawn() -> None:
    study = study_of(results_of(PARETO, mixed()))
    front = visualization.plot_pareto_front(study)
    assert "tOF" in front.layout.xaxis.title.text
    assert sum(len(trace.x) for trace in front.data) == 8
    assert visualization.plot_param_importances(study, target=lambda found: found.values[0], target_name="tOF").data


@pytest.mark.filterwarnings("error")
def test_a_file_can_be_read_while_it_grows(tmp_path: Path) -> None:
    path, said = tmp_path / "sweep" / "optuna.log", list[str]()
    file = StudyFile(path, LIMITED, say=said.append)
    assert read(path).trials == []
    ends = [trial(0), trial(1, "stopped", steps=20), trial(2, "failed", steps=10)]
    for record in ends:
        file.started(dataclasses.replace(record, state="running", scores={}, reason=""))
    study = read(path)
    assert [found.state for found in study.trials] == [State.RUNNING] * 3
    assert [found.params for found in study.trials] == [record.values for record in ends]
    for record in ends:
        for step in record.scores:
            file.measured(record, step)
            file.measured(record, step)  # after a crash a trial repeats steps
    assert study.trials[1].intermediate_values == {step: ends[1].scores[step]["tof"] for step in (10, 20)}
    assert study.trials[1].user_attrs["PSNR"] == ends[1].scores[20]["psnr"]
    for record in reversed(ends):
        file.ended(record)
    whole = study_of(results_of(LIMITED, ends))
    for found, expected in zip(study.trials, whole.trials, strict=True):
        for name in ("number", "state", "values", "params", "distributions", "constraints"):
            assert getattr(found, name) == getattr(expected, name), name
    assert study.trials[2].user_attrs["reason"] == "out of memory"
    assert (study.metric_names, said) == (["tOF"], [])


def test_numbers_are_ours_in_whatever_order_trials_come(tmp_path: Path) -> None:
    """Processes that start beside each other are ready in any order; one may die before it is."""
    path = tmp_path / "optuna.log"
    file = StudyFile(path, SPACE, say=pytest.fail)
    trials = [trial(0), trial(1, "stopped", steps=20), trial(2, "failed", steps=0), trial(3, "running", steps=10)]
    begun = [dataclasses.replace(record, state="running", scores={}, reason="") for record in trials]
    file.started(begun[3])
    file.measured(trials[3], 10)
    file.ended(trials[2])  # which never started
    file.started(begun[1])
    for step in (10, 20):
        file.measured(trials[1], step)
    file.ended(trials[1])
    assert read(path).trials == []
    file.started(begun[0])
    told = read(path).trials
    assert [found.state for found in told] == [State.RUNNING, State.PRUNED, State.FAIL, State.RUNNING]
    for step in trials[0].scores:
        file.measured(trials[0], step)
    file.ended(trials[0])
    told = read(path).trials
    assert [found.number for found in told] == [0, 1, 2, 3]
    for found, record in zip(told, trials, strict=True):
        assert found.params == record.values
        assert found.intermediate_values == {step: scores["tof"] for step, scores in record.scores.items()}
    assert [found.state for found in told] == [State.COMPLETE, State.PRUNED, State.FAIL, State.RUNNING]


def test_several_objectives_and_ranks_are_kept_as_metrics(tmp_path: Path) -> None:
    for space in (PARETO, RANKS):
        path, record = tmp_path / f"{space.score.combine}.log", trial(0)
        file = StudyFile(path, space, say=pytest.fail)
        file.started(dataclasses.replace(record, state="running", scores={}))
        file.measured(record, 10)
        study = read(path)
        assert study.trials[0].user_attrs["tOF"] == record.scores[10]["tof"]
        file.ended(record)
        assert study.metric_names == ["tOF", "PSNR"]
        assert study.trials[0].values == [record.last["tof"], record.last["psnr"]]


def test_a_sweep_that_goes_on_begins_the_file_anew(tmp_path: Path) -> None:
    path = tmp_path / "optuna.log"
    killed = StudyFile(path, SPACE, say=pytest.fail)
    for number in range(2):
        killed.started(trial(number, "running", steps=20))
    (tmp_path / "optuna.log.lock").symlink_to(path)  # killed while it wrote
    file = StudyFile(path, SPACE, say=pytest.fail)
    file.ended(trial(0))
    file.started(trial(1, "running", steps=20))
    file.measured(trial(1, "running", steps=30), 30)
    ended, running = read(path).trials
    assert (ended.state, running.state) == (State.COMPLETE, State.RUNNING)
    assert ended.datetime_start is not None
    assert ended.datetime_start.timestamp() == BEGAN  # not when it was told again
    assert sorted(running.intermediate_values) == [10, 20, 30]


def test_a_pbt_trial_keeps_the_values_it_began_with(tmp_path: Path) -> None:
    space, record = dataclasses.replace(SPACE, scheduler=Pbt(kind="pbt")), dataclasses.replace(perturbed(), number=0)
    for name in ("told", "told_again"):
        file = StudyFile(tmp_path / name, space, say=pytest.fail)
        if name == "told":
            file.started(dataclasses.replace(record, state="running", scores={}))
            for step in record.scores:
                file.measured(record, step)
        file.ended(record)
        (found,) = read(tmp_path / name).trials
        assert (found.params, found.user_attrs["values"]) == (record.segments[0].values, record.values)


def test_a_file_that_cannot_be_written_is_given_up_with_a_warning(tmp_path: Path) -> None:
    folder, said = tmp_path / "sweep", list[str]()
    file = StudyFile(folder / "optuna.log", SPACE, say=said.append)
    file.started(trial(0, "running", steps=0))
    (folder / "optuna.log").unlink()
    folder.rmdir()
    file.measured(trial(0, "running", steps=10), 10)
    file.started(trial(1, "running", steps=0))
    file.ended(trial(0))
    file.ended(trial(1))
    (tmp_path / "taken").write_text("")
    StudyFile(tmp_path / "taken" / "optuna.log", SPACE, say=said.append).ended(trial(0))
    assert len(said) == 2
    assert said[0] == (f"warning: {folder / 'optuna.log'} cannot be written (No such file or directory): it ends here")
    assert not folder.exists()


def test_optuna_is_silent_here_and_only_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings():
        warnings.simplefilter("error")
        before = optuna.logging.get_verbosity()
        study_of(results_of(LIMITED, mixed()))
        file = StudyFile(tmp_path / "optuna.log", LIMITED, say=pytest.fail)
        file.started(trial(0, "running"))
        file.ended(trial(0))
    optuna.logging.disable_propagation()
    assert caplog.records == []
    assert optuna.logging.get_verbosity() == before
