"""Imported by each worker process of a Ray that a command starts, before anything else."""

from tecogan_dist.base.garbage import collect_rarely

collect_rarely()
