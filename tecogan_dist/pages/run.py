"""The page of a run, or of several beside each other: ``tecogan report``.

It is one file that loads nothing, made from a run's folder alone, also while it is being trained. The markup is in
run.html, where every value is escaped; what runs in it are plotly.js, the drawing of its figures, and ``WIPE``.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tecogan_dist.base.documents import dump_yaml
from tecogan_dist.base.storage import Location
from tecogan_dist.config.load import to_tree
from tecogan_dist.metrics.names import HIGHER_IS_BETTER
from tecogan_dist.metrics.protocol import OFFICIAL
from tecogan_dist.pages import run_summary
from tecogan_dist.pages.charts import SERIES
from tecogan_dist.pages.run_compare import compare
from tecogan_dist.pages.run_evaluation import EvaluationTable
from tecogan_dist.pages.run_figures import sections
from tecogan_dist.pages.run_pictures import BICUBIC, Gallery, gallery_of
from tecogan_dist.pages.run_records import RunRecords, score_text
from tecogan_dist.pages.run_settings import variant
from tecogan_dist.pages.run_speed import time_bar
from tecogan_dist.pages.templates import render
from tecogan_dist.pages.values import LABEL

PAGE_FILE = "report.html"
MARK = '<html lang="en" data-made-by="tecogan report"'
"""In the first line but one of each of our pages, so that no other file is replaced by the next."""
MARK_BYTES = 400
WIPE = """
"use strict";
for (const viewer of document.querySelectorAll(".viewer")) {
  const find = query => viewer.querySelector(query);
  const steps = JSON.parse(viewer.dataset.steps), best = JSON.parse(viewer.dataset.best);
  const kept = [...viewer.querySelectorAll(".store img")];
  const at = find("[data-of=step]"), frame = find("[data-of=frame]"), wiper = find(".wiper"), play = find("button");
  // A strip, or a profile, of a choice: a still, or a run after the last of its steps up to this one.
  const pick = (choice, kind, step) => {
    const [layer, when] = choice.split("@");
    const mine = kept.filter(one => one.dataset.layer === layer && one.dataset.kind === kind);
    if (when !== undefined) return mine.find(one => Number(one.dataset.step) === Number(when)) || mine[0];
    return mine.filter(one => Number(one.dataset.step || 0) <= step).pop() || mine[0];
  };
  const count = step => Number(step).toLocaleString("en");
  const label = one => !one ? "" : one.dataset.name + (one.dataset.step ? ", step " + count(one.dataset.step) : "");
  const put = (image, one) => {
    image.hidden = one === undefined;
    if (one !== undefined && image.src !== one.src) { image.src = one.src; image.alt = label(one); }
  };
  const show = () => {
    const step = steps[at.value];
    for (const side of ["left", "right"]) {
      const choice = find("select." + side).value, strip = pick(choice, "strip", step);
      put(find(".stage img." + side), strip);
      put(find(".all img." + side), strip);
      find(".stage b." + side).textContent = find(".all ." + side + " figcaption").textContent = label(strip);
      const profile = pick(choice, "profile", step), holder = find(".profiles ." + side);
      holder.hidden = profile === undefined;
      put(holder.querySelector("img"), profile);
      holder.querySelector("figcaption").textContent = label(profile);
    }
    const marks = best.includes(step) ? ", the best" : "";
    find("output.step").textContent = count(step) + marks;
    find("output.frame").textContent = viewer.dataset.frames.split(" ")[frame.value];
    viewer.style.setProperty("--frame", frame.value);
    viewer.style.setProperty("--at", wiper.value + "%");
  };
  for (const control of viewer.querySelectorAll("input, select")) control.addEventListener("input", show);
  let timer = 0;
  const turn = () => {
    frame.value = frame.value === frame.max ? 0 : Number(frame.value) + 1;
    show();
  };
  play.addEventListener("click", () => {
    if (timer) { clearInterval(timer); timer = 0; } else timer = setInterval(turn, 150);
    play.textContent = timer ? "stop" : "play";
    play.setAttribute("aria-pressed", timer ? "true" : "false");
  });
  show();
}
"""
"""What the page's sliders do: a wipe between two layers, over steps and frames."""


@dataclass(frozen=True)
class Choice:
    """What a side of the wipe can show: ``value`` is a layer, or a layer at a step, as ``WIPE`` reads it."""

    value: str
    words: str


def render_runs(
    runs: Sequence[RunRecords],
    evaluations: Sequence[EvaluationTable | None],
    *,
    notes: Sequence[str] = (),
    now: datetime.datetime | None = None,
) -> str:
    """The page, to be written as UTF-8: about 6 MB without its pictures, most of it plotly.js.

    ``evaluations`` has one for each run, or None. ``notes`` say what else could not be read.
    """
    gallery, more = gallery_of(runs)
    with np.errstate(all="ignore"):  # what has gone wild is shown as it is, and what is beyond all numbers as a gap
        drawn = list(sections(runs))
    several = len(runs) > 1
    choices = [] if gallery is None else _choices(runs, gallery)
    told = [f"{run.name}: {note}" if several else note for run in runs for note in run.notes]
    title = runs[0].name if not several else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    return render(
        "run.html",
        {
            "title": title,
            "runs": runs,
            "several": several,
            "comparison": compare(runs) if several else None,
            "sections": drawn,
            "gallery": gallery,
            "choices": choices,
            "sides": _sides(choices, several=several),
            "evaluations": [(run, found) for run, found in zip(runs, evaluations, strict=True) if found is not None],
            "summary": run_summary,
            "variant": variant,
            "time_bar": time_bar,
            "config": {run.name: dump_yaml(to_tree(run.config)) for run in runs},
            "colours": SERIES,
            "notes": [*told, *more, *notes],
            "label": LABEL,
            "arrow": {metric: "↑" if metric in HIGHER_IS_BETTER else "↓" for metric in LABEL},
            "protocol": OFFICIAL,
            "read": run_summary.moment(now or datetime.datetime.now(datetime.UTC)),
        },
        charts=True,
        scripts=[WIPE] if gallery is not None else [],
        filters={"value": score_text},
    )


def is_own(place: Location) -> bool:
    """Whether a page of ours is there, which may be replaced; a file that is going away meanwhile is none."""
    try:
        return MARK.encode() in next(iter(place.chunks()), b"")[:MARK_BYTES]
    except FileNotFoundError:
        return False


def _choices(runs: Sequence[RunRecords], gallery: Gallery) -> list[Choice]:
    found = [Choice(f"still-{name}", name) for name in gallery.stills]
    for film in gallery.films:
        words = film.name if len(runs) > 1 else "this run"
        found.append(Choice(f"run-{film.number}", words))
        if len(runs) == 1:
            found.append(Choice(f"run-{film.number}@{min(film.strips)}", f"this run, step {min(film.strips):,}"))
            if film.best in film.strips:
                found.append(Choice(f"run-{film.number}@{film.best}", f"this run, step {film.best:,} (best)"))
    return found


def _sides(choices: Sequence[Choice], *, several: bool) -> dict[str, str]:
    """What both sides show first: two runs, or what was made of bicubic."""
    values = [choice.value for choice in choices]
    films = [value for value in values if value.startswith("run-") and "@" not in value]
    if not films:
        return {"left": "", "right": ""}
    bicubic = f"still-{BICUBIC}"
    left = bicubic if bicubic in values else values[0]
    return {"left": films[0], "right": films[1]} if several and len(films) > 1 else {"left": left, "right": films[0]}
