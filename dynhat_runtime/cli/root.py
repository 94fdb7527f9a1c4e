"""The command `dynhat` itself: its root, how any command ends in an error, and the options that several share."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dynhat_runtime import __version__
from dynhat_runtime.errors import DynhatError, SettingsError
from dynhat_runtime.journal_lines import leads_to_journal, with_priority
from dynhat_runtime.memory_shortage import low_memory_error

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Commands(TyperGroup):
    """All commands; an error of ours ends any of them with one line and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            ours = error if isinstance(error, DynhatError) else low_memory_error(error)
            if ours is None:
                raise
            typer.echo(_for_stderr(f"dynhat: error: {ours}"), err=True)
            raise typer.Exit(ours.exit_code) from None


def _for_stderr(line: str) -> str:
    """An error's line; in systemd's journal it is one of the priority error."""
    return with_priority(line, logging.ERROR) if leads_to_journal(sys.stderr) else line


app = typer.Typer(
    name="dynhat",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


BundleOption = Annotated[Path | None, typer.Option(help="Bundle folder; without it the shipped one.")]
TableOption = Annotated[
    Path | None, typer.Option(help="Operating point table file; without it the bundle's best match.")
]
ConfigOption = Annotated[
    Path | None, typer.Option(help="TOML file with settings; without it the one DYNHAT_CONFIG names.")
]
UrlOption = Annotated[str, typer.Option(help="Where the daemon listens.")]
DEFAULT_URL = "http://127.0.0.1:5000"
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def _print_version(is_asked: bool) -> None:
    """Answer --version."""
    if is_asked:
        typer.echo(f"dynhat {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Translation on the device, as good as its resources allow within a latency budget."""


# --- run time ---


def bundle_path(bundle: Path | None) -> Path:
    """The bundle's folder: the one asked for, or the shipped one."""
    if bundle is not None:
        return bundle
    from dynhat_runtime.model.checkpoint import shipped_bundle_path

    return shipped_bundle_path()


def need_offline() -> None:
    """Say what to install when the design-time libraries are not there.

    Raises:
        SettingsError: With the command that installs them.
    """
    from importlib.util import find_spec

    missing = [
        name for name in ("sacrebleu", "matplotlib", "yaml", "pymoo", "tomli_w") if find_spec(name) is None
    ]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed: pip install 'dynhat-runtime[offline]'")
