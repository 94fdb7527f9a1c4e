"""The command `dynhat`: each subcommand reads its options and calls the library."""

from dynhat_runtime.cli import run_time  # first, since help lists commands as they come

from dynhat_runtime.cli import design_time  # isort: skip
from dynhat_runtime.cli.root import app

__all__ = ["app", "design_time", "main", "run_time"]


def main() -> None:
    """Entry point of the command."""
    app(prog_name="dynhat")
