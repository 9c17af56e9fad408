"""What workers tell each other with every step."""

from __future__ import annotations

import math

import pytest
import torch

from tecogan_dist.training.ledger import Flags, Ledger, Sample


def test_ledger_counts_the_step_when_it_is_settled() -> None:
    ledger = Ledger()
    ledger.record(0, {"balance": torch.tensor(1.5), "content": torch.tensor(2.0)})
    assert ledger.settle() == {"balance": 1.5, "content": 2.0}
    assert ledger.settle() == {}
    ledger.record(1, {"balance": torch.tensor(0.5), "content": torch.tensor(4.0)}, Flags(stop=True))
    ledger.settle()
    assert ledger.agreed == Flags(stop=True)
    ledger.record(2, {"balance": torch.tensor(0.5), "content": torch.tensor(math.nan)}, Flags(save=True))
    assert ledger.settle() == {}
    assert ledger.problem == "the loss 'content' became nan in step 3"
    assert ledger.agreed == Flags(save=True)
    ledger.record(3, {"balance": torch.tensor(0.5), "content": torch.tensor(3.0)}, Flags(save=True))
    ledger.settle()
    assert ledger.problem == ""
    assert ledger.agreed == Flags()  # it was agreed on just before, and is being done


def test_ledger_brings_what_was_measured() -> None:
    ledger = Ledger()
    losses = {"content": torch.tensor(2.0)}
    sample = Sample({"norm": torch.tensor(4.0)}, {"wait": 0.5, "unknown": math.nan})
    ledger.record(0, losses, Flags(save=True), sample=sample)
    assert ledger.settle() == {"content": 2.0}
    assert ledger.agreed == Flags(save=True)
    assert ledger.gathered.means == {"norm": 4.0}
    assert ledger.gathered.by_worker == {"wait": [0.5], "unknown": [pytest.approx(math.nan, nan_ok=True)]}
    kept = ledger.gathered
    ledger.record(1, losses)
    ledger.settle()
    assert ledger.gathered is kept
