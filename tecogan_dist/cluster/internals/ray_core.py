"""What is used of Ray's core that has no public name, as read in Ray 2.60.0."""

from __future__ import annotations

from ray._private import auto_init_hook


def start_no_other_ray() -> None:
    """From now on no call starts a Ray by itself: a thread that outlives ours would do that by asking for anything."""
    auto_init_hook.enable_auto_connect = False
