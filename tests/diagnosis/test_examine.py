"""The whole examination, where a part of it cannot be done."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tecogan_dist.base.storage import Location
from tecogan_dist.diagnosis.examine import Request, examine
from tecogan_dist.diagnosis.machines import ThisMachine


def test_a_cluster_whose_workers_are_not_up(tmp_path: Path) -> None:
    """An autoscaled cluster at rest: its head takes no work."""
    head = ThisMachine(patience=120)
    head.all = tuple(dataclasses.replace(machine, cpus=0, gpus=0, object_store=2**30) for machine in head.all)
    head.answering = list(head.all)
    findings, told = examine(head, Request(train=True, storage=Location(str(tmp_path))), say=print)
    assert (findings[0].status, findings[0].subject) == ("fail", "training")
    assert findings[0].text.startswith("no machine that takes work is up")
    assert len(told) == 1
    assert not list(tmp_path.iterdir())
