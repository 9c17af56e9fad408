"""A run's TensorBoard files: scalars and their layout, pictures that move, and a trial's settings."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.custom_scalar import metadata as layouts
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Layout, MultilineChartContent
from tensorboard.plugins.custom_scalar.layout_pb2 import Chart as LayoutChart
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_BOOL,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.util import tensor_util
from torch import Tensor

from tecogan_dist.metrics.names import COLUMN
from tecogan_dist.runs.quantities import VALIDATION
from tecogan_dist.tracking.animations import encode_animation
from tecogan_dist.tracking.charts import SECTIONS, pattern
from tecogan_dist.tracking.event_file import EventFile


class TensorBoardRecords:
    """Writes into ``folder``. ``first_step`` steps are done: TensorBoard forgets what it read beyond them.

    ``searched`` are the settings that a sweep searches, with this trial's values; empty for a run that is no trial.
    """

    def __init__(self, folder: Path, *, first_step: int, searched: Mapping[str, Any] = {}) -> None:
        self._events = EventFile(folder)
        self._searched, self._began, self._is_session = searched, time.time(), False
        self._first_step, self._has_head = first_step, False
        with contextlib.suppress(OSError):  # of a full disk, which the first record tells of
            self._begin()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Values by name. Raises ``OSError`` if they cannot be written."""
        measured = [name for name in values if name.startswith(f"{VALIDATION}/")]
        if self._searched and measured and not self._is_session:
            # Only now: in parallel coordinates a trial is left out that lacks one of the metrics.
            self._is_session = True
            self._add(0, session_begins(self._searched, measured, began=self._began))
        self._add(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def animations(self, step: int, animations: Mapping[str, Tensor]) -> None:
        """(N, T, 3, H, W) frames by name, 0..1. Raises ``OSError`` if they cannot be written."""
        self.pictures(step, {name: encode_animation(frames)[0] for name, frames in animations.items()})

    def pictures(self, step: int, files: Mapping[str, bytes]) -> None:
        """Contents of PNG or GIF files by name. Raises ``OSError`` if they cannot be written."""
        values = []
        for name, data in files.items():
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
            values.append(Summary.Value(tag=name, image=image))
        self._add(step, values)

    def close(self, *, failed: bool = False) -> None:
        """No more is written. Of a trial that has ``failed`` nothing says that it ended: it may go on."""
        if self._is_session and not failed:
            self._add(0, [session_ends()])

    def _begin(self) -> None:
        self._events.add(Event(step=self._first_step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._events.add(Event(step=0, summary=Summary(value=[layout()])))
        self._has_head = True

    def _add(self, step: int, values: list[Any]) -> None:
        if not self._has_head:
            self._begin()
        self._events.add(Event(step=step, summary=Summary(value=values)))


def layout() -> Summary.Value:
    """What the page Custom Scalars shows: the charts of :data:`tecogan_dist.tracking.charts.SECTIONS`."""
    categories = [
        Category(
            title=section.title,
            chart=[
                LayoutChart(title=chart.title, multiline=MultilineChartContent(tag=list(map(pattern, chart.names))))
                for chart in section.charts
            ],
        )
        for section in SECTIONS
    ]
    return Summary.Value(
        tag=layouts.CONFIG_SUMMARY_TAG,
        metadata=layouts.create_summary_metadata(),
        tensor=tensor_util.make_tensor_proto(Layout(category=categories).SerializeToString()),
    )


def session_begins(searched: Mapping[str, Any], measured: Sequence[str], *, began: float) -> list[Summary.Value]:
    """A trial for the page HParams: what is searched and ``measured``, and the trial's values.

    Numbers, words and truth values are shown as they are, others as JSON.
    """
    values = {name: _shown(value) for name, value in searched.items()}
    experiment = Experiment(
        hparam_infos=[HParamInfo(name=name, type=_type(value)) for name, value in values.items()],
        metric_infos=[
            MetricInfo(name=MetricName(tag=name), display_name=COLUMN[name.rpartition("/")[2]]) for name in measured
        ],
    )
    start = SessionStartInfo(start_time_secs=began)
    for name, value in values.items():
        kind = {DATA_TYPE_BOOL: "bool_value", DATA_TYPE_FLOAT64: "number_value", DATA_TYPE_STRING: "string_value"}
        setattr(start.hparams[name], kind[_type(value)], value)
    return [
        _session(hparams.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment)),
        _session(hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
    ]


def session_ends() -> Summary.Value:
    """The trial is complete, or was stopped by its sweep."""
    end = SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time())
    return _session(hparams.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _session(tag: str, data: HParamsPluginData) -> Summary.Value:
    metadata: SummaryMetadata = hparams.create_summary_metadata(data)
    return Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR)


def _shown(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _type(value: bool | float | str) -> int:
    if isinstance(value, bool):
        return DATA_TYPE_BOOL
    return DATA_TYPE_STRING if isinstance(value, str) else DATA_TYPE_FLOAT64
