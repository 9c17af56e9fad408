"""From segments to the output: joined, checked, and put in place at once.

Everything is made inside the work folder first. What is about to be put in place is written down before, so that a
command that was killed between two outputs, or before the folder was gone, recognises what it finds: a name of the
same file, which is why what belongs on another disk is brought there first.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tecogan_dist.base.atomic import remove, reported_local, sync, sync_folder
from tecogan_dist.base.errors import UserError
from tecogan_dist.upscaling import space
from tecogan_dist.upscaling.folder import WorkFolder, beside_path
from tecogan_dist.upscaling.targets import Target
from tecogan_dist.video.formats import IMAGE_SUFFIXES, JOINABLE_SUFFIXES, OTHER_IMAGE_SUFFIXES, READABLE_SUFFIXES
from tecogan_dist.video.images import image_files
from tecogan_dist.video.timeline import Timeline

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EACCES)
"""What file systems answer that know no second name of a file, or have given it too many."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output, and the segments that it consists of."""

    path: Path
    target: Target
    files: Sequence[Path]
    frames: range
    """That they hold, counted in the source."""
    timeline: Timeline | None
    """When they are shown; None: as often as the encoding says."""
    film: Path | None = None
    """Whose other streams, chapters and tags it gets."""
    video_stream: int | None = None
    may_replace: bool = True
    """Whether something may stand at ``path``: it was there, and allowed to go, when the command began."""


def place(outputs: Sequence[Output], *, folder: WorkFolder) -> list[str]:
    """Join, check and put in place; returns sentences on what could not be kept.

    Raises :class:`UserError` if the disk has no room for it, the result is not what it has to be, or something has
    appeared meanwhile that may not be replaced; then all segments are as they were.
    """
    for output in outputs:
        _check_free(output)
    needed = sum(sum(file.stat().st_size for file in output.files) for output in outputs if output.target.is_video)
    space.check_room(folder.path, needed, what="joining the segments")
    made: list[Path] = []
    notes: list[str] = []
    for number, output in enumerate(outputs):
        joined = folder.joined(number, output.path)
        remove(joined)
        notes += _join(output, joined)
        _check(output, joined)
        made.append(_at_hand(joined, output.path))
    folder.announce({output.path: joined for output, joined in zip(outputs, made, strict=True)})
    for output in outputs:
        _check_free(output)  # once more: joining takes minutes
    for output, joined in reversed(list(zip(outputs, made, strict=True))):  # the main one last
        _put(joined, output.path)
    return notes


def _check_free(output: Output) -> None:
    path = output.path
    is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not is_empty and not output.may_replace:
        raise UserError(
            f"{path} has appeared while it was made, and is not replaced: move it away, or add --overwrite, and give "
            "the same command again, which then only joins what is finished."
        )


def _at_hand(joined: Path, path: Path) -> Path:
    """``joined``, or, of an output in another folder, what has become of it there: only its name is missing.

    That folder may be on another disk, to which a file goes by a copy, which would not be recognised.
    """
    if path.absolute().parent == joined.absolute().parent.parent:
        return joined
    near = beside_path(path)
    with reported_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(near)
        try:
            os.replace(joined, near)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            try:
                _copy(joined, near)
            except BaseException:
                remove(near)
                raise
            remove(joined)
        sync_folder(path.parent)
    return near


def _copy(joined: Path, near: Path) -> None:
    """On the other disk for good."""
    if not joined.is_dir():
        shutil.copyfile(joined, near)
        sync(near)
        return
    near.mkdir()
    for image in image_files(joined):
        shutil.copyfile(image, near / image.name)
        sync(near / image.name)
    sync_folder(near)


def _put(made: Path, path: Path) -> None:
    with reported_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, path)
        sync_folder(path.parent)


def so_far(output: Output, *, folder: WorkFolder) -> Path | None:
    """A playable file of an output's first segments; None for images, which are there as they are."""
    if not output.target.is_video:
        return None
    file = folder.so_far(output.path)
    remove(file)
    _join(output, file)
    return file


def _join(output: Output, joined: Path) -> list[str]:
    if output.target.is_video:
        return output.target.join(
            output.files,
            joined,
            frames=output.frames,
            timeline=output.timeline,
            film=output.film,
            video_stream=output.video_stream,
        )
    with reported_local(joined):
        joined.mkdir()
        for folder in output.files:
            for image in image_files(folder):
                _second_name(image, joined / image.name)
        sync_folder(joined)
    return []


def _second_name(image: Path, name: Path) -> None:
    if name.exists():
        raise UserError(f"two frames would be named {name.name}: rename one of them.")
    try:
        os.link(image, name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(image, name)
        sync(name)


def _check(output: Output, joined: Path) -> None:
    """Raise :class:`UserError` unless all images are there. Each has been decoded before, in its segment."""
    if output.target.is_video:
        sync(joined)
        return  # its frames and times have been verified as it was made
    count = len(image_files(joined))
    if count != len(output.frames):
        raise UserError(
            f"{joined} has {count} frames and should have {len(output.frames)}: it is not put in place. All segments "
            "are kept; please report this."
        )


def check_output(path: Path) -> None:
    """Raise :class:`UserError` for what could not take the output's name in the end, or would lose something."""
    is_video, is_folder = path.suffix.lower() in JOINABLE_SUFFIXES, path.is_dir()
    if not is_video and path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES, *READABLE_SUFFIXES):
        raise UserError(
            f"{path} cannot be written: use {', '.join(JOINABLE_SUFFIXES)}, or a folder's name for PNG images."
        )
    if is_video and is_folder:
        raise UserError(f"{path} is a folder: give the name of a video file.")
    if not is_video and path.is_file():
        raise UserError(f"{path} is a file: give a folder's name, or a video file's with its suffix.")
    if path.exists() and not is_folder and not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder: give the name of one.")
    if path.is_file() and not os.access(path, os.W_OK):
        raise UserError(f"{path} is protected from writing: change its permissions, or name another output.")
    if is_folder and any(path.iterdir()):
        raise UserError(f"{path} is not empty: give a new or an empty folder for the images.")
    if is_folder and (path.is_symlink() or path.is_mount()):  # the images' folder could not take its name
        raise UserError(f"{path} is a link or a disk of its own: give the name of a new folder in it.")
