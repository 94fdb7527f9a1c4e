"""The command `dynhat`: each subcommand reads its options and calls the library."""

from dynhat_runtime.cli import run_time  # isort: skip  # help lists commands as they come:
from dynhat_runtime.cli import configuration  # isort: skip
from dynhat_runtime.cli import tracing  # isort: skip
from dynhat_runtime.cli import installing  # isort: skip
from dynhat_runtime.cli import training  # isort: skip  # first what runs, then the design time in its order
from dynhat_runtime.cli import measuring, quality, searching
from dynhat_runtime.cli.root import app

__all__ = [
    "app",
    "configuration",
    "installing",
    "main",
    "measuring",
    "quality",
    "run_time",
    "searching",
    "tracing",
    "training",
]


def main() -> None:
    """Entry point of the command."""
    app(prog_name="dynhat")
