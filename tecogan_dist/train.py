"""``python -m tecogan_dist.train``: see :mod:`tecogan_dist.commands.train`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.train import main

if __name__ == "__main__":
    run_command(main)
