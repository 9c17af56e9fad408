"""Lines worst first, and the JSON."""

from __future__ import annotations

import json

import pytest

from tecogan_dist.diagnosis.findings import Finding, as_tree, in_order, not_checked, summary, table, worst

FULL = Finding(status="fail", subject="disk", machines=("b",), text="is full", advice="make room")
SAME_ELSEWHERE = Finding(status="fail", subject="disk", machines=("c",), text="is full", advice="make room")
DOUBT = Finding(status="warn", subject="open files", machines=("a",), text="a process may open 1024", advice="raise it")
GOOD = Finding(status="ok", subject="clock", text="at most 0.001 s apart", figures={"seconds": 0.001})


def test_worst_first_and_equal_ones_are_one() -> None:
    ordered = in_order([GOOD, not_checked("NCCL", "there is no GPU"), FULL, DOUBT, SAME_ELSEWHERE])
    assert table(ordered, machines=3) == [
        "fail  disk        b, c: is full -> make room",
        "warn  open files  a: a process may open 1024 -> raise it",
        "note  NCCL        not checked: there is no GPU",
        "ok    clock       at most 0.001 s apart",
    ]
    assert table(ordered, machines=2)[0].startswith("fail  disk        all 2 machines: is full")
    assert summary(ordered) == "1 fault, 1 doubt, 1 not checked: mend the faults before you train here"


def test_many_machines_are_counted() -> None:
    findings = [Finding(status="warn", subject="x", machines=(str(i),), text="t", advice="a") for i in range(9)]
    assert table(in_order(findings), machines=64) == ["warn  x  0, 1, 2 and 6 more: t -> a"]


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [([GOOD, DOUBT, FULL], "fail"), ([GOOD, DOUBT], "warn"), ([GOOD, not_checked("NCCL", "x")], "ok")],
)
def test_the_verdict_is_the_worst(findings: list[Finding], verdict: str) -> None:
    tree = json.loads(json.dumps(as_tree(findings, {"a": {"cpus": 2}})))
    assert tree["verdict"] == worst(findings) == verdict
    assert tree["format"] == 1
    assert tree["machines"] == {"a": {"cpus": 2}}
    assert tree["findings"][0] == {
        "status": "ok",
        "subject": "clock",
        "text": "at most 0.001 s apart",
        "machines": [],
        "advice": "",
        "figures": {"seconds": 0.001},
    }


def test_a_fault_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="says what to do"):
        Finding(status="fail", subject="disk", text="is full")
