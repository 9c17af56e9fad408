"""``python -m tecogan_dist.tune``: see :mod:`tecogan_dist.commands.tune`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.tune import main

if __name__ == "__main__":
    run_command(main)
