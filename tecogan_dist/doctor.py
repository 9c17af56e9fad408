"""``python -m tecogan_dist.doctor``: see :mod:`tecogan_dist.commands.doctor`."""

from tecogan_dist.base.errors import run_command
from tecogan_dist.commands.doctor import main

if __name__ == "__main__":
    run_command(main)
