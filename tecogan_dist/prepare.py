"""``python -m tecogan_dist.prepare``: see :mod:`tecogan_dist.commands.prepare`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.prepare import main

if __name__ == "__main__":
    run_command(main)
