"""One process of an all-reduce: ``python -m tecogan_dist.diagnosis.collective_rank SETTINGS``, a JSON object.

A process of its own, because a collective that hangs can only be ended with its process. Prints what it measured.
"""

from __future__ import annotations

import datetime
import json
import sys
import time

import torch
import torch.distributed as dist

from tecogan_dist.diagnosis.collectives import Measured, RankSettings


def measure(settings: RankSettings) -> Measured:
    """Take part. Raises what torch raises when others are missing."""
    rank, ranks = settings["rank"], settings["ranks"]
    device = torch.device("cuda", 0) if settings["backend"] == "nccl" else torch.device("cpu")
    dist.init_process_group(
        settings["backend"],
        init_method=f"tcp://{settings['address']}:{settings['port']}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=settings["seconds"]),
    )
    expected = ranks * (ranks + 1) / 2  # 1 + 2 + ... + ranks
    is_right = True

    def timed(count: int) -> float:
        nonlocal is_right
        tensor = torch.full((count,), rank + 1.0, device=device)
        _finish(device)
        started = time.perf_counter()
        dist.all_reduce(tensor)
        _finish(device)
        seconds = time.perf_counter() - started
        is_right = is_right and bool((tensor == expected).all())
        return seconds

    timed(1)  # connects
    small = sorted(timed(1) for _ in range(settings["repeats"]))
    count = settings["megabytes"] * 2**20 // 4
    timed(count)
    large = min(timed(count) for _ in range(settings["repeats"]))
    dist.destroy_process_group()
    return {
        "latency": small[len(small) // 2],
        "bandwidth": 2 * (ranks - 1) / ranks * count * 4 / large,
        "is_right": is_right,
    }


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
