"""The table of operating points: its order, its file, and what it says when either is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import BundleError, DesignSpaceError, SettingsError, UnknownOperatingPointError
from dynhat_runtime.operating_point import PRECISIONS, OperatingPointTable, precision_called
from tests.hand_made import point, row, table, three_points


def _space(**changes: Any) -> DesignSpace:
    """The space of the hand-made points."""
    fields: dict[str, Any] = {
        "name": "hand-made",
        "qkv_dim": 8,
        "encoder_embed_dim": (8,),
        "encoder_num_layers": (1,),
        "encoder_ffn_dim": (8,),
        "encoder_attention_heads": (1,),
        "decoder_embed_dim": (8,),
        "decoder_num_layers": (6, 3, 1),
        "decoder_ffn_dim": (8,),
        "decoder_attention_heads": (1,),
        "cross_attention_heads": (1,),
        "cross_attention_span": (1,),
    }
    return DesignSpace(**{**fields, **changes})


def _saved(tmp_path: Path, change: Any = None) -> Path:
    """A table in a file, altered by `change`."""
    content = json.loads(three_points().model_dump_json())
    if change is not None:
        change(content)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    return path


def _load_error(path: Path) -> str:
    """What loading says, having checked that it is one line that names the file."""
    with pytest.raises(BundleError) as raised:
        OperatingPointTable.load(path)
    message = str(raised.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --- order and ids ---


def test_slower_point_first_is_refused() -> None:
    """A table whose points are not ordered fastest first is refused."""
    fast, slow = point("a", [row(4, 30, 30, 1, 9)]), point("b", [row(4, 30, 30, 1, 19)])
    assert len(table([fast, slow])) == 2
    with pytest.raises(BundleError, match="not ordered fastest first"):
        table([slow, fast])


def test_repeated_id_is_refused() -> None:
    """Two points of one name are refused, listing the names."""
    twin = point("a", [row(4, 30, 30, 1, 9)])
    with pytest.raises(BundleError, match=r"ids repeat: \['a', 'a'\]"):
        table([twin, twin])


def test_order_is_at_the_largest_number_of_cpus_and_the_reference_length() -> None:
    """Points are compared with all CPUs at the length nearest to the reference, whatever else was measured."""
    first = point("a", [row(1, 30, 30, 1, 99), row(4, 10, 10, 1, 89), row(4, 28, 28, 1, 9)])
    second = point("b", [row(1, 30, 30, 1, 1), row(4, 10, 10, 1, 1), row(4, 28, 28, 1, 19)])
    both = table([first, second])
    assert [both.reference_latency_ms(p) for p in both] == [10.0, 20.0]


def test_lookup_by_id() -> None:
    """A point is found by its id; the table iterates fastest first."""
    points = three_points()
    assert points["p3"].config.num_decoder_layers == 3
    assert [p.id for p in points] == ["p1", "p3", "p6"]
    assert len(points) == 3


def test_unknown_id_lists_the_known() -> None:
    """Asking for an unknown point names it and those there are."""
    with pytest.raises(UnknownOperatingPointError, match=r"'p2' is unknown: choose one of p1, p3, p6"):
        three_points()["p2"]


# --- the file ---


def test_round_trip(tmp_path: Path) -> None:
    """What was saved is what is loaded, missing figures included."""
    path = tmp_path / "table.json"
    saved = three_points(cpu_max_frequency_hz=2.4e9)
    saved.save(path)
    assert OperatingPointTable.load(path) == saved
    assert OperatingPointTable.load(path)["p1"].bleu is None


def test_missing_file(tmp_path: Path) -> None:
    """A missing table is named, with the command that makes one."""
    assert "dynhat profile" in _load_error(tmp_path / "absent.json")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A folder where a table should be is named."""
    _load_error(tmp_path)


def test_broken_json(tmp_path: Path) -> None:
    """A truncated table is named."""
    path = _saved(tmp_path)
    path.write_text(path.read_text()[:-40])
    assert "JSON" in _load_error(path)


@pytest.mark.parametrize(
    ("keys", "value", "names"),
    [
        (("points", 1, "latencies", 0, "total_ms"), -1, "points.1.latencies.0.total_ms"),
        (("points", 0, "id"), "no spaces", "points.0.id"),
        (("points", 2, "bleu"), 101, "points.2.bleu"),
        (("device", "num_cpus"), "four", "device.num_cpus"),
        (("device", "colour"), "red", "device.colour"),
        (("default_latency_budget_ms",), 0, "default_latency_budget_ms"),
        (("points",), [], "points"),
        (("points", 1, "config", "decoder_ffn_dims"), [8, 8], "has 3 entries; decoder_ffn_dims has 2"),
        (("points", 1, "id"), "p1", "ids repeat"),
        (("points", 0, "latencies", 1, "total_ms"), 1000, "not ordered"),
    ],
)
def test_wrong_field(tmp_path: Path, keys: tuple[str | int, ...], value: Any, names: str) -> None:
    """A table with a wrong value is refused in one line that names the file and the field."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    assert names in _load_error(_saved(tmp_path, change))


# --- against a design space ---


def test_check_against_its_space() -> None:
    """A table whose points lie in the space it names passes."""
    three_points().check_against(_space())


def test_check_against_another_space() -> None:
    """A table of another space is refused, naming both."""
    with pytest.raises(BundleError, match="'hand-made', not 'other'"):
        three_points().check_against(_space(name="other"))


def test_check_against_a_space_without_its_points() -> None:
    """A point outside the space is refused with the field at fault."""
    with pytest.raises(DesignSpaceError, match=r"num_decoder_layers=3 .*\(6, 1\)"):
        three_points().check_against(_space(decoder_num_layers=(6, 1)))


def test_tables_without_precisions_are_fp32(tmp_path: Path) -> None:
    """A table from before points had a precision named one for all: it loads, and every point is fp32."""
    made = table(three_points())
    content = made.model_dump(mode="json")
    content["device"]["precision"] = "fp32"
    for each in content["points"]:
        del each["precision"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(content))
    assert OperatingPointTable.load(file) == made
    assert made.precisions == ("fp32",)


def test_tables_without_shortlists_have_none(tmp_path: Path) -> None:
    """A table from before points could have a shortlist loads, and none has."""
    made = table(three_points())
    content = made.model_dump(mode="json")
    del content["shortlist_sha256"]
    for each in content["points"]:
        del each["has_shortlist"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(content))
    assert OperatingPointTable.load(file) == made
    assert not any(point.has_shortlist for point in made)


def test_a_point_with_an_unnamed_shortlist_is_refused(tmp_path: Path) -> None:
    """A table says which shortlist its points were measured with."""

    def change(content: Any) -> None:
        content["points"][1]["has_shortlist"] = True

    assert "shortlist_sha256 does not say which" in _load_error(_saved(tmp_path, change))


def test_precision_by_name() -> None:
    """Every precision has its name; another lists them."""
    assert [precision_called(name) for name in ("fp32", "int8")] == list(PRECISIONS)
    with pytest.raises(SettingsError, match="'fp17' is unknown: choose one of fp32, int8"):
        precision_called("fp17")
