"""``python -m tecogan_dist.export``: see :mod:`tecogan_dist.commands.export`."""

from tecogan_dist.base.errors import run_command, run_module


def main(argv: list[str] | None = None) -> None:
    """Run the command, which is imported only now: an interruption meanwhile ends in one line, too."""
    run_module("tecogan_dist.commands.export", argv)


if __name__ == "__main__":
    run_command(main)
