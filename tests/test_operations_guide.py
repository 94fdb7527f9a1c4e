"""docs/operations.md names what there is: log lines, metrics, settings, units' limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynhat_runtime.service.metric_families import DEVICE_GAUGES
from dynhat_runtime.settings import Settings

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SOURCES = "".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "dynhat_runtime").rglob("*.py"))
)
METRICS = {
    *re.findall(r'"(dynhat_\w+)"', SOURCES),
    *(f"dynhat_device_{name}" for name, *_ in DEVICE_GAUGES),
}


def first_cells(title: str) -> list[str]:
    """The code in the first column of a section's table."""
    section = GUIDE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?)(?: \(.*?\))? \|", section, re.MULTILINE)
    return [code for row in rows for code in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("line", first_cells("What a log line means"))
def test_log_lines(line: str) -> None:
    """A line that the guide explains is one that we log, word for word but for what varies."""
    for piece in line.split("..."):
        assert piece.strip() in SOURCES


@pytest.mark.parametrize("name", first_cells("What to watch"))
def test_metrics(name: str) -> None:
    """A metric that the guide explains is one that there is."""
    assert name in METRICS or name.removesuffix("_total") in METRICS


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z]+_[a-z_]+)`", GUIDE))))
def test_settings(name: str) -> None:
    """A setting that the guide names is one that there is."""
    assert name in Settings.model_fields or name.startswith(("dynhat_", "sched_"))


@pytest.mark.parametrize("directive", sorted(set(re.findall(r"`(\w+Sec)=`", GUIDE))))
def test_directives(directive: str) -> None:
    """A limit of the unit that the guide names is set there."""
    assert re.search(rf"^{directive}=", (ROOT / "systemd/dynhat.service").read_text(), re.MULTILINE)
