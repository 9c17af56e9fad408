"""``python -m tecogan_dist.report``: see :mod:`tecogan_dist.commands.report`."""

from tecogan_dist.base.errors import run_command, run_module


def main(argv: list[str] | None = None) -> None:
    """Run the command, which is imported only now: an interruption meanwhile ends in one line, too."""
    run_module("tecogan_dist.commands.report", argv)


if __name__ == "__main__":
    run_command(main)
