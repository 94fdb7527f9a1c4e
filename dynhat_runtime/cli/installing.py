"""The command that makes a service of the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, app


@app.command("install-service")
def install_service(
    bundle: BundleOption = None,
    key_file: Annotated[
        Path | None, typer.Option(help="TOML file of API keys, which only root need be able to read.")
    ] = None,
    jtop: Annotated[
        bool,
        typer.Option("--jtop", help="Let the daemon ask the jtop service, whose group is as good as root."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the files and write none.")] = False,
    root: Annotated[Path, typer.Option(help="Folder that stands for / when an image is built.")] = Path("/"),
) -> None:
    """Write the systemd units of the daemon for this machine, and settings where there are none yet.

    \b
    Example:
      dynhat install-service --dry-run
      sudo /opt/dynhat/bin/dynhat install-service --key-file /etc/dynhat/keys.toml
    """
    from dynhat_runtime.service_units import Machine, Wishes, service_files, write_service_files

    files = service_files(Machine.this(), Wishes(bundle, key_file, jtop))
    if dry_run:
        for file in files:
            typer.echo(
                f"# --- {root / file.path}{' (only if there is none)' if file.is_kept else ''}\n{file.text}"
            )
        return
    for path in write_service_files(root, files):
        typer.echo(f"wrote {path}")
    typer.echo("now: systemctl daemon-reload && systemctl enable --now dynhat.socket dynhat.service")
