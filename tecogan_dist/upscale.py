"""``python -m tecogan_dist.upscale``: see :mod:`tecogan_dist.commands.upscale`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.upscale import main

if __name__ == "__main__":
    run_command(main)
