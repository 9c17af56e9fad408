"""Which files are images and videos, by their suffixes, and the frame rate of those that have none."""

from __future__ import annotations

from fractions import Fraction

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
READABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi")
FOLDER_RATE = Fraction(24)
"""Frames a second of a folder of images."""
