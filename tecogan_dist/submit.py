"""``python -m tecogan_dist.submit``: see :mod:`tecogan_dist.commands.submit`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.submit import main

if __name__ == "__main__":
    run_command(main)
