"""An evaluation's files, above all its HTML page: tables, curves, the worst frames and temporal profiles.

Pictures are data URIs, curves are drawn by plotly.js (:mod:`tecogan_dist.pages.charts`). The markup is in
evaluation.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tecogan_dist.base.documents import dump_json
from tecogan_dist.base.together import write_together
from tecogan_dist.metrics.measuring import OpenSequence
from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.metrics.summary import Evaluation, SequenceValues
from tecogan_dist.metrics.worst import worst_frames
from tecogan_dist.pages.charts import Figure
from tecogan_dist.pages.curves import curve
from tecogan_dist.pages.pictures import (
    COLOUR_MAP,
    Profile,
    ProfilePicture,
    WorstFrame,
    profile_picture,
    read_worst,
    region_style,
)
from tecogan_dist.pages.templates import render
from tecogan_dist.pages.values import LABEL, format_value
from tecogan_dist.video.source import FrameSource

FILES = ("metrics.csv", "metrics.json", "report.html")
"""What an evaluation leaves."""
BLAME_ORDER = ("tof", "lpips", "psnr", "ssim", "tlp")
"""The first of these that was measured says which frames are the worst."""

ARROW = {metric: "↑" if metric in HIGHER_IS_BETTER else "↓" for metric in LABEL}
OPEN_SEQUENCES = 4
"""Up to this many sequences are all unfolded; of more, only the first."""


@dataclass(frozen=True)
class PublishedSet:
    """Published averages over a set of sequences: by model and metric, with the digits that were published."""

    name: str
    sequences: tuple[str, ...]
    rows: dict[str, dict[str, str]]


# Values as they were given for the comparison, not checked against the paper's tables; the page says so beside SOURCE.
PUBLISHED = (
    PublishedSet(
        "Vid4",
        ("calendar", "city", "foliage", "walk"),
        {
            "Official FRVSR": {"psnr": "26.91", "lpips": "0.251", "tof": "0.209", "tlp": "0.957"},
            "TecoGAN+": {"psnr": "25.57", "lpips": "0.162", "tof": "0.190", "tlp": "0.668"},
        },
    ),
    PublishedSet(
        "ToS3",
        ("bridge", "face", "room"),
        {
            "Official FRVSR": {"psnr": "34.01", "lpips": "0.145", "tof": "0.145", "tlp": "0.541"},
            "TecoGAN+": {"psnr": "32.75", "lpips": "0.108", "tof": "0.133", "tlp": "0.661"},
        },
    ),
)
SOURCE = (
    "M. Chu, Y. Xie, J. Mayer, L. Leal-Taixé and N. Thuerey, Learning Temporal Coherence via Self-Supervision for "
    "GAN-based Video Generation, ACM Transactions on Graphics 39(4), 2020"
)
SOURCE_LINK = "https://doi.org/10.1145/3386569.3392457"


def write_evaluation(
    folder: Path, evaluation: Evaluation, sequences: Sequence[OpenSequence], *, note: str
) -> list[Path]:
    """Write metrics.csv, metrics.json and report.html into ``folder``: all three, or none if one cannot be made.

    ``sequences`` have been read to their ends and are those of ``evaluation``, ``note`` as in :func:`render_report`.
    Files of these names are replaced. Returns the paths; raises :class:`UserError`.
    """
    report = render_report(
        evaluation,
        [sequence.profile() for sequence in sequences],
        [(sequence.results, sequence.targets) for sequence in sequences],
        note=note,
    )
    table, numbers, page = FILES
    contents = {
        table: evaluation.to_csv(),
        numbers: dump_json({**evaluation.to_json(), "measured_with": note}, indent=2) + "\n",
        page: report,
    }
    return write_together(folder, contents)


def render_report(
    evaluation: Evaluation,
    profiles: Sequence[Profile],
    sources: Sequence[tuple[FrameSource, FrameSource]],
    *,
    worst: int = 3,
    note: str = "",
) -> str:
    """The page, to be written as UTF-8; of its size, 4.8 MB are plotly.js.

    ``profiles`` and ``sources``, the latter (results, targets), are those of ``evaluation.sequences``. The ``worst``
    frames of each are read again, two at a time. ``note`` says how it was measured
    (:func:`tecogan_dist.metrics.measuring.measured_with`). Raises :class:`UserError` for frames that cannot be read any
    more.
    """
    sections = [
        _section(sequence, evaluation, profile, pair, worst)
        for sequence, profile, pair in zip(evaluation.sequences, profiles, sources, strict=True)
    ]
    return render(
        "evaluation.html",
        {
            "evaluation": evaluation,
            "sections": sections,
            "comparisons": _comparisons(evaluation),
            "source": SOURCE,
            "source_link": SOURCE_LINK,
            "label": LABEL,
            "arrow": ARROW,
            "colours": ["#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOUR_MAP],
            "open_all": len(sections) <= OPEN_SEQUENCES,
            "note": note,
        },
        charts=True,
        filters={"value": format_value},
    )


@dataclass(frozen=True)
class Comparison:
    """A published set, of ``size`` sequences, beside the average of those that were measured.

    ``found`` are the names of the latter; ``rows`` are (label, numbers by metric), none where it is not clear which
    sequence of ``found`` is which of the set.
    """

    name: str
    size: int
    found: list[str]
    rows: list[tuple[str, dict[str, str]]]


def _comparisons(evaluation: Evaluation) -> list[Comparison]:
    """Published numbers are by the official protocol, so they stand beside no other."""
    return [
        comparison
        for published in PUBLISHED
        if evaluation.protocol.name == "official"
        if (comparison := _comparison(evaluation, published)) is not None
    ]


def _comparison(evaluation: Evaluation, published: PublishedSet) -> Comparison | None:
    bearers = {name: [s for s in evaluation.sequences if name in _words(s.name)] for name in published.sequences}
    found = [sequence for sequences in bearers.values() for sequence in sequences]
    if not found or not any(set(evaluation.metrics) & set(row) for row in published.rows.values()):
        return None
    names = [sequence.name for sequence in found]
    if not len(found) == len(set(names)) == sum(map(bool, bearers.values())):
        return Comparison(published.name, len(bearers), names, [])
    ours = Evaluation(evaluation.protocol, evaluation.metrics, found)
    averages = {metric: format_value(ours.sequence_average(metric), metric) for metric in evaluation.metrics}
    rows = [(f"{model}, published", row) for model, row in published.rows.items()]
    return Comparison(published.name, len(bearers), names, [*rows, ("this evaluation", averages)])


def _words(name: str) -> list[str]:
    return re.split(r"[\W_]+", name.casefold())


@dataclass(frozen=True)
class Section:
    """What the page shows of a sequence. ``blamed`` is the metric that chose the ``worst`` frames."""

    values: SequenceValues
    charts: list[Figure]
    blamed: str
    worst: list[WorstFrame]
    region: str
    profile: ProfilePicture


def _section(
    sequence: SequenceValues,
    evaluation: Evaluation,
    profile: Profile,
    sources: tuple[FrameSource, FrameSource],
    worst: int,
) -> Section:
    blamed = next(metric for metric in BLAME_ORDER if metric in evaluation.metrics)
    chosen = worst_frames(sequence.frames_of(blamed), sequence.values[blamed], blamed, count=worst)
    values = dict(zip(sequence.frames_of(blamed), sequence.values[blamed], strict=True))
    shown = {frame.frame: frame for frame in read_worst({frame: values[frame] for frame in chosen}, sources)}
    return Section(
        values=sequence,
        charts=[
            curve(
                metric,
                sequence.frames_of(metric),
                sequence.values[metric],
                title=f"{LABEL[metric]} {ARROW[metric]}, {evaluation.protocol.name}",
                worst=chosen,
                blamed=LABEL[blamed].partition(" ")[0],
            )
            for metric in evaluation.metrics
        ],
        blamed=blamed,
        worst=[shown[frame] for frame in chosen],
        region=region_style(evaluation.protocol, sequence.height, sequence.width),
        profile=profile_picture(profile),
    )
