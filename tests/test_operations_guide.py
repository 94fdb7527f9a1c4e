"""docs/operations.md names what there is: log lines, metrics, settings, units' limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.metric_families import DEVICE_GAUGES
from dynhat_runtime.settings import Settings
from tests.service_fakes import FakeControl, FakeEngine

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
SOURCES = "".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "dynhat_runtime").rglob("*.py"))
)
SERVICE = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "dynhat_runtime/service").rglob("*.py")
)
DEVICE_METRICS = [
    *(f"dynhat_device_{name}" for name, *_ in DEVICE_GAUGES),
    *(f"dynhat_device_{processor}_frequency_hertz" for processor in ("cpu", "gpu")),
]
METRICS = {
    *re.findall(r'"(dynhat_\w+)"', SOURCES),
    *DEVICE_METRICS,
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


def lines_logged() -> list[str]:
    """What the daemon's code logs, with ... for what varies; messages that are nothing but that are made elsewhere."""
    found = re.findall(r'logger\.(?:info|warning|error|exception)\(\s*"([^"]+)"', SOURCES)
    lines = [re.sub(r"%[-.\d]*[a-z]", "...", line) for line in found]
    return sorted({line for line in lines if re.search(r"\w", line)})


@pytest.mark.parametrize("line", lines_logged())
def test_every_log_line_is_explained(line: str) -> None:
    """A line that we log has a row in the guide that says what to do."""
    rows = [row.split("...") for row in first_cells("What a log line means")]
    assert any(
        line.startswith(pieces[0]) and all(piece.strip() in line for piece in pieces) for pieces in rows
    )


@pytest.mark.parametrize("name", sorted({*re.findall(r'"(dynhat_\w+)"', SERVICE), *DEVICE_METRICS}))
def test_every_metric_is_explained(name: str) -> None:
    """A metric that the daemon exports is named in the guide."""
    assert {name, f"{name}_total", f"{name}_info"} & set(first_cells("What to watch"))


def _plain(name: str) -> str:
    """A metric's name without what its kind adds."""
    return re.sub("_(total|info)$", "", name)


def test_what_a_daemon_exports_is_explained() -> None:
    """What /metrics of a ready daemon holds is in the guide, wherever the code makes it."""
    engine, lifecycle = FakeEngine(), Lifecycle()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    text = TestClient(create_app(lifecycle, RequestLimits())).get("/metrics").text
    served = {_plain(family.name) for family in text_string_to_metric_families(text)}
    cells = {_plain(cell) for cell in first_cells("What to watch")}
    assert len(served) > 10
    assert {name for name in served if not name.startswith(("python_", "process_"))} <= cells


@pytest.mark.parametrize("name", first_cells("What to watch"))
def test_metrics(name: str) -> None:
    """A metric that the guide explains is one that there is."""
    assert METRICS & {name, name.removesuffix("_total"), name.removesuffix("_info")}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z]+_[a-z_]+)`", GUIDE))))
def test_settings(name: str) -> None:
    """A setting that the guide names is one that there is."""
    assert name in Settings.model_fields or name.startswith(("dynhat_", "sched_"))


@pytest.mark.parametrize("directive", sorted(set(re.findall(r"`(\w+Sec)=`", GUIDE))))
def test_directives(directive: str) -> None:
    """A limit of the unit that the guide names is set there."""
    assert re.search(rf"^{directive}=", (ROOT / "systemd/dynhat.service").read_text(), re.MULTILINE)
