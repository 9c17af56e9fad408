"""``python -m tecogan_dist.evaluate``: see :mod:`tecogan_dist.commands.evaluate`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.evaluate import main

if __name__ == "__main__":
    run_command(main)
