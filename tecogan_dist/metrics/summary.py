"""The numbers of an evaluation: its averages, as the original's ``metrics.csv``, and in full as ``metrics.json``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tecogan_dist.metrics.names import COLUMN
from tecogan_dist.metrics.protocol import Protocol
from tecogan_dist.metrics.sequence import mean


@dataclass(frozen=True)
class SequenceValues:
    """The metrics of one sequence.

    ``results`` and ``targets`` are where it was read from, ``height`` and ``width`` the targets' size in pixels,
    ``frames`` the indices that were measured. ``values`` has a list for each metric; a temporal one starts at the
    second of ``frames``.
    """

    name: str
    results: str
    targets: str
    height: int
    width: int
    frames: Sequence[int]
    values: dict[str, list[float]]

    def frames_of(self, metric: str) -> Sequence[int]:
        """The frame that each value of ``metric`` belongs to."""
        return self.frames[len(self.frames) - len(self.values[metric]) :]

    def average(self, metric: str) -> float:
        """The mean over its frames (``Avg`` in the original); not a number if it has no value."""
        return mean(self.values[metric])


@dataclass(frozen=True)
class Evaluation:
    """Sequences that were measured by one protocol."""

    protocol: Protocol
    metrics: Sequence[str]
    sequences: Sequence[SequenceValues]

    def frame_average(self, metric: str) -> float:
        """The mean over all frames of all sequences (``FrameAvg`` in the original)."""
        return mean([value for sequence in self.sequences for value in sequence.values[metric]])

    def sequence_average(self, metric: str) -> float:
        """The mean of the sequences' averages (``FolderAvg`` in the original)."""
        return mean([sequence.average(metric) for sequence in self.sequences])

    def to_csv(self) -> str:
        """The original's layout: a table for each sequence, then averages of each, of sequences and of frames.

        Numbers are float32, as the original's. The columns' names say so where the protocol is not the official one.
        """
        text = io.StringIO()
        prefix = "" if self.protocol.name == "official" else f"{self.protocol.name}_"
        names = [prefix + COLUMN[metric] for metric in self.metrics]
        for number, sequence in enumerate(self.sequences):
            columns = [sequence.values[metric] for metric in self.metrics]
            _table(text, [f"{name}_{number:02}" for name in names], columns)
        averages = [[sequence.average(metric) for sequence in self.sequences] for metric in self.metrics]
        _table(text, [f"Avg_{name}" for name in names], averages)
        _table(text, [f"FolderAvg_{name}" for name in names], [[self.sequence_average(m)] for m in self.metrics])
        _table(text, [f"FrameAvg_{name}" for name in names], [[self.frame_average(m)] for m in self.metrics])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Everything, in full precision. Keys of ``per_frame`` and ``averages`` are those of :meth:`to_csv`.

        The PSNR of frames that are equal is infinite, and an average without values is not a number: in JSON, which
        knows neither, both are null (:func:`tecogan_dist.base.documents.dump_json`).
        """
        per_frame = {
            f"{COLUMN[metric]}_{number:02}": sequence.values[metric]
            for number, sequence in enumerate(self.sequences)
            for metric in self.metrics
        }
        averages: dict[str, Any] = {}
        for metric in self.metrics:
            averages[f"Avg_{COLUMN[metric]}"] = [sequence.average(metric) for sequence in self.sequences]
            averages[f"FrameAvg_{COLUMN[metric]}"] = self.frame_average(metric)
            averages[f"FolderAvg_{COLUMN[metric]}"] = self.sequence_average(metric)
        return {
            "protocol": {
                "name": self.protocol.name,
                "description": self.protocol.description,
                "cut_frames": self.protocol.cut_frames,
                "crops": self.protocol.crops,
                "ssim_data_range": self.protocol.ssim_data_range,
            },
            "sequences": [
                {
                    "name": sequence.name,
                    "results": sequence.results,
                    "targets": sequence.targets,
                    "height": sequence.height,
                    "width": sequence.width,
                    "frames": list(sequence.frames),
                }
                for sequence in self.sequences
            ],
            "per_frame": per_frame,
            "averages": averages,
        }


def _table(text: io.StringIO, header: Sequence[str], columns: Sequence[Sequence[float]]) -> None:
    """Rows numbered from 0 under an empty head, as pandas writes them; a shorter column ends in empty cells."""
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *header])
    for row in range(max(map(len, columns))):
        writer.writerow([row, *(str(np.float32(column[row])) if row < len(column) else "" for column in columns)])
