"""Which files are images and videos, by their suffixes, and the frame rate of those that have none."""

from __future__ import annotations

from fractions import Fraction

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
OTHER_IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpe"),
    *(".jfif", ".apng", ".exr", ".hdr", ".dpx", ".cin", ".tga", ".psd", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".pcx"),
    *(".sgi", ".rgb", ".xbm", ".xpm", ".svg", ".eps", ".dds", ".ico", ".qoi", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
    *(".orf", ".rw2", ".raf", ".y4m", ".yuv"),
)
"""Pictures that are not read, and are not left out without a word either."""
READABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi")
JOINABLE_SUFFIXES = (*WRITABLE_SUFFIXES, ".webm", ".gif")
"""What `upscale` makes of segments (:mod:`tecogan_dist.video.joining`)."""
FOLDER_RATE = Fraction(24)
"""Frames a second of a folder of images."""
