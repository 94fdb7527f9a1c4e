"""Commands about the daemon's settings and interface: what holds and where it came from, and the HTTP description."""

from __future__ import annotations

import json

import typer

from dynhat_runtime.cli.root import ConfigOption, JsonOption, app

config_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at the daemon's settings.")
app.add_typer(config_app, name="config")


@config_app.command()
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every setting's value and where it came from: command lines apart, as `serve` would find them here.

    \b
    Example:
      DYNHAT_PORT=5001 dynhat config show --config dynhat.toml
    """
    from dynhat_runtime.settings import SECRETS, read_settings

    reading = read_settings(config)
    values = {
        name: "***" if name in SECRETS and value is not None else value
        for name, value in reading.settings.model_dump(mode="json").items()
    }
    if as_json:
        shown = {name: {"value": value, "from": reading.origin(name)} for name, value in values.items()}
        typer.echo(json.dumps(shown, indent=1))
        return
    width = max(map(len, values))
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    text_width = max(map(len, texts.values()))
    for name, text in texts.items():
        typer.echo(f"{name:{width}}  {text:{text_width}}  {reading.origin(name)}")


@app.command()
def openapi() -> None:
    """Print the HTTP interface as OpenAPI 3.1, as a running daemon has it at /openapi.json.

    \b
    Example:
      dynhat openapi > docs/openapi.json
    """
    from dynhat_runtime.service.description import openapi_text

    typer.echo(openapi_text(), nl=False)
