"""``python -m tecogan_dist.convert``: see :mod:`tecogan_dist.commands.convert`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.convert import main

if __name__ == "__main__":
    run_command(main)
