"""Where the time of some steps goes: torch's profiler around them, and of each worker a trace and a table.

``profiles/`` in the run's folder, on s3:// and gs:// too, gets of each worker, by the steps that were really recorded::

    steps_00000010-00000015_rank0.json.gz        Chrome's trace format; Perfetto (https://ui.perfetto.dev) opens it
    steps_00000010-00000015_rank0.txt            its costliest operations, as a table
    steps_00000010-00000015_rank0_memory.pickle  with ``memory``: what the GPU's memory was taken for

Files of the same steps are replaced. A step in the trace is a bar named ``step 10``; reading, recording and saving are
between the bars.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from tecogan_dist.base.errors import UserError
from tecogan_dist.base.invariants import present
from tecogan_dist.base.storage import Location
from tecogan_dist.training.profiled_steps import Profile, check_device

FOLDER = "profiles"
TABLE_ROWS = 40
MEMORY_EVENTS = 200_000
"""The newest allocations that a memory snapshot keeps; a step of the published networks makes some thousands."""


class Profiler:
    """Records the wanted steps of one worker; a context manager, whose end writes what there is if the run ends first.

    ``say`` tells people, of any worker; ``first_step`` steps are done when it is made. Without ``wanted`` it does
    nothing. That nothing can be written is a warning: the run goes on. Raises :class:`UserError` where memory is wanted
    of a device that is no GPU.
    """

    def __init__(
        self,
        wanted: Profile | None,
        output: Location,
        *,
        device: torch.device,
        rank: int,
        first_step: int,
        say: Callable[[str], None],
    ) -> None:
        if wanted is not None:
            check_device(wanted, is_gpu=device.type == "cuda")
        self._wanted, self._output, self._device, self._rank, self._say = wanted, output, device, rank, say
        # The step before is a warm-up, in which CUDA's tracing starts, which takes seconds.
        self._prepared_in = max(wanted.first - 1, first_step + 1) if wanted is not None else 0
        self._recorder: profile | None = None
        self._first = self._last = 0
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recorder is None:
            return
        if kind is None:
            self._finish()
            return
        with contextlib.suppress(RuntimeError):  # of a GPU that failed: what ended the run is to be seen
            self._finish()  # what memory was taken for is of most use where there was not enough

    def step(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Around step ``number`` of the run."""
        wanted = self._wanted
        if wanted is None or not self._prepared_in <= number <= wanted.last:
            return contextlib.nullcontext()
        return self._watched(number, wanted)

    @contextlib.contextmanager
    def _watched(self, number: int, wanted: Profile) -> Iterator[None]:
        if self._recorder is None:
            self._recorder = _recorder(self._device)
            self._recorder.prepare_trace()
        if number < wanted.first:
            yield
            return
        if not self._first:
            self._start(number, memory=wanted.memory)
        self._last = number
        with record_function(f"step {number}"):
            yield
        if number == wanted.last:
            self._finish()

    def _start(self, number: int, *, memory: bool) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # kernels of the step before are not this one's
        if memory:
            torch.cuda.memory._record_memory_history(context="alloc", max_entries=MEMORY_EVENTS, stacks="python")
        self._first, self._began = number, time.perf_counter()
        present(self._recorder, "a trace is prepared before it is started").start_trace()

    def _finish(self) -> None:
        """Stop, and write what was recorded."""
        recorder, wanted = present(self._recorder, "a trace was prepared"), present(self._wanted, "steps were wanted")
        first, last = self._first, self._last
        self._wanted, self._recorder = None, None
        if not first:  # the run has ended with the warm-up
            recorder.start_trace()
        recorder.stop_trace()  # waits for the device
        if not first:
            return
        ended = time.perf_counter()
        seconds = ended - self._began
        name = f"steps_{first:08}-{last:08}_rank{self._rank}"
        shown = f"step {first}" if first == last else f"steps {first} to {last}"
        folder = self._output / FOLDER
        try:
            self._write(recorder, folder, name, head=self._head(shown, last - first + 1, seconds), memory=wanted.memory)
        except (UserError, OSError, RuntimeError) as error:
            self._say(f"warning: the profile of {shown} is not written (rank {self._rank}): {error}")
            return
        finally:
            if wanted.memory:
                torch.cuda.memory._record_memory_history(enabled=None)
        if self._rank == 0:
            waited = time.perf_counter() - ended
            self._say(_where(folder, name, f"{shown}, written in {waited:.0f} s", memory=wanted.memory))

    def _head(self, shown: str, count: int, seconds: float) -> str:
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        return (
            f"{shown} of {self._output}, rank {self._rank}, {name}, torch {torch.__version__}: "
            f"{seconds / count:.3f} s a step under the profiler, which makes a step slower\n\n"
        )

    def _write(self, recorder: profile, folder: Location, name: str, *, head: str, memory: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="tecogan_profile_") as scratch:
            trace = Path(scratch) / "trace.json"
            recorder.export_chrome_trace(str(trace))
            if not _is_whole(trace):  # Kineto does not say it where a disk is full
                raise UserError(f"the trace does not fit into {tempfile.gettempdir()}: make room there, or set TMPDIR.")
            packed = trace.with_suffix(".json.gz")
            with open(trace, "rb") as plain, gzip.open(packed, "wb", compresslevel=5) as file:
                shutil.copyfileobj(plain, file, 2**20)
            trace.unlink()
            if memory:
                snapshot = Path(scratch) / "memory.pickle"
                torch.cuda.memory._dump_snapshot(str(snapshot))
                (folder / f"{name}_memory.pickle").put(snapshot)
            (folder / f"{name}.txt").write_bytes((head + _table(recorder, self._device)).encode())
            (folder / f"{name}.json.gz").put(packed)


def _recorder(device: torch.device) -> profile:
    on_gpu = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return profile(activities=[ProfilerActivity.CPU, *on_gpu])


def _table(recorder: profile, device: torch.device) -> str:
    """Operations by the time that they took themselves: of the GPU where there is one."""
    column = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table: str = recorder.key_averages().table(sort_by=column, row_limit=TABLE_ROWS, max_name_column_width=70)
    return table


def _is_whole(trace: Path) -> bool:
    """Whether a JSON object was written to its end."""
    if not trace.is_file():
        return False
    with open(trace, "rb") as file:
        file.seek(max(0, trace.stat().st_size - 100))
        return file.read().rstrip().endswith(b"}")


def _where(folder: Location, name: str, shown: str, *, memory: bool) -> str:
    """A line for people: what is where, and how it is opened."""
    line = (
        f"profile of {shown}: {folder / name}.txt lists the costliest operations; open the .json.gz beside it in "
        "https://ui.perfetto.dev (which reads it in the browser and sends nothing) or chrome://tracing"
    )
    return line + ("; the _memory.pickle in https://pytorch.org/memory_viz" if memory else "")
