"""Files of searched points: five kinds told apart by content, and what is said of any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import PAPER_POINTS, shipped_bundle_path
from dynhat_runtime.offline.paper_points import PaperPoints
from dynhat_runtime.offline.point_files import points_from_any
from dynhat_runtime.offline.searched_points import SearchedPoints, read_searched_points, slug
from tests.service_fakes import make_table

AUTHORS = Path(__file__).parent / "data" / "searched" / "jetson_nano.json"
HAT = AUTHORS.with_name("hat_published.json")
PUBLISHED = shipped_bundle_path("wmt14-en-de") / PAPER_POINTS


def _read(folder: Path, content: Any) -> SearchedPoints:
    path = folder / "points.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_searched_points(path)


def test_lists_agree_with_our_published_points() -> None:
    """Read from the authors' and HAT's lists, architectures are those of our published points."""
    known = {point.config for point in PaperPoints.load(PUBLISHED).points}
    authors, hat = read_searched_points(AUTHORS).points, read_searched_points(HAT).points
    assert len(authors) == 39
    assert {point.config for point in authors} <= known
    assert {point.config for point in hat if point.task == "wmt14ende"} <= known
    assert sum(point.is_of_table_ii for point in authors) == 6


@pytest.mark.parametrize("path", [AUTHORS, HAT, PUBLISHED], ids=["authors", "hat", "published"])
def test_ids_are_distinct(path: Path) -> None:
    """Every point of a file has a name of its own that an operating point may have."""
    ids = [point.id for point in read_searched_points(path).points]
    assert len(set(ids)) == len(ids)
    assert [slug(name) for name in ids] == ids


def test_table_and_search_result_name_their_space(tmp_path: Path) -> None:
    """A table and a search's result say which space they are of; fields not known of a result are ignored."""
    table = make_table()
    found = _read(tmp_path, table.model_dump_json())
    assert found.design_space == table.design_space
    assert [point.id for point in found.points] == ["p1", "p2", "p3"]
    config = table.points[0].config.model_dump()
    front = [{"config": config, "id": "fast", "dev_loss": 3.1}, {"config": config}]
    found = _read(tmp_path, {"format_version": 1, "design_space": "x", "front": front, "seed": 1})
    assert [(point.id, point.device) for point in found.points] == [("fast", None), ("front-2", None)]
    assert found.design_space == "x"


def test_points_to_measure_come_from_any_of_them() -> None:
    """What is read for reducing can be measured too, by device."""
    points = points_from_any(AUTHORS, preset("paper-wmt14-ende"), "jetson-nano-cpu")
    assert len(points) == 15
    assert points[0].id == "jetson-nano-cpu-2600ms"


def _authors_entry(**changes: Any) -> dict[str, Any]:
    return {**json.loads(AUTHORS.read_text())[0], **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not JSON"),
        ([], "an empty list is no list of points"),
        ([1, 2], "a list of int is no list of points"),
        ({"a": 1}, "an object of 'a' is no list of points"),
        ('"words"', "'words' is no list of points"),
        ([_authors_entry(config=None)], "entry 0 holds no 'config'"),
        ([_authors_entry(device=3)], "entry 0: 'device' is 3, should name a device"),
        ([_authors_entry(config={})], "entry 0: 'encoder_layer_num' is missing"),
        ([_authors_entry(), 5], "entry 1 holds no 'config'"),
        ({"front": [], "format_version": 1}, "front: lists no points"),
        ({"front": [{}], "format_version": 1}, "front.0 holds no 'config'"),
        ({"front": [{"config": {}}], "format_version": 1}, "encoder_embed_dim: Field required"),
        ({"front": [], "format_version": 2}, "format_version is 2, should be 1"),
        ({"device": {}, "points": []}, "device.name: Field required"),
        ({"task": "x", "points": []}, "design_space: Field required"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    """Anything else is refused in one line that names the file and what is wrong with it."""
    with pytest.raises(SettingsError) as raised:
        _read(tmp_path, content)
    assert str(raised.value).startswith(f"{tmp_path / 'points.json'}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(SettingsError, match=r"absent\.json: cannot be read"):
        read_searched_points(tmp_path / "absent.json")


def test_device_of_a_file_without_devices(tmp_path: Path) -> None:
    """A device asked of a file that names none says to leave it out."""
    config = make_table().points[0].config.model_dump()
    found = _read(tmp_path, {"format_version": 1, "front": [{"config": config}]})
    with pytest.raises(SettingsError, match="no points for device 'nano': leave out --device"):
        found.of_device("nano")
