"""Sampling and measuring a latency dataset: what is measured, what a row says, and which rows are not trusted."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from dynhat_runtime.design_space import SubTransformerConfig, latency_features
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.model.laid_out import for_decoding
from dynhat_runtime.offline.latency_dataset import Conditions, read_latency_dataset
from dynhat_runtime.offline.profile_dataset import (
    MAX_ATTEMPTS,
    DatasetOptions,
    RunTimes,
    conditions_now,
    measure_by_protocol,
    measure_dataset,
    sampled_configs,
)
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.tiny_bundle import SPACE
from tests.toy_bundle import toy_super_transformer

CONDITIONS = Conditions(
    design_space=SPACE.name,
    device="a board",
    device_type="cpu",
    power_mode="MAXN",
    num_cpus=4,
    cpu_max_frequency_hz=1.5e9,
    num_threads=1,
    precision="fp32",
    beam_size=4,
    num_src_tokens=30,
    num_tgt_tokens=30,
    torch_version="2.1",
)
OPTIONS = DatasetOptions(num_samples=6, num_runs=10, num_warmup_runs=1)


def steady(_: SubTransformerConfig) -> RunTimes:
    """Ten runs, one of them a glitch."""
    return RunTimes([1.0] * 9 + [50.0], [10.0, 11.0] * 4 + [0.1, 900.0], [4.0] * 9 + [100.0], 1.0)


class Device:
    """Counts measurements; its states and times come from lists, the last of which stays."""

    def __init__(
        self, states: Iterable[Conditions] = (CONDITIONS,), shares: Iterable[float] = (1.0,)
    ) -> None:
        self.states, self.shares = _then_the_last(states), _then_the_last(shares)
        self.measured: list[SubTransformerConfig] = []
        self.messages = Console(record=True, quiet=False, width=200, file=_Nowhere())

    def measure(self, config: SubTransformerConfig) -> RunTimes:
        """As `steady`, with the next share of the CPU."""
        self.measured.append(config)
        return steady(config)._replace(cpu_share=next(self.shares))

    def fill(self, out: Path, options: DatasetOptions = OPTIONS) -> int:
        """Measure the dataset on this device."""
        return measure_dataset(
            SPACE,
            options,
            out,
            measure=self.measure,
            read_conditions=lambda: next(self.states),
            console=self.messages,
            wait=lambda _: None,
        )


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, text: str) -> int:
        """Forget it."""
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""


def _then_the_last(values: Iterable[object]) -> Iterator[object]:
    listed = list(values)
    return itertools.chain(listed, itertools.repeat(listed[-1]))


# --- what is sampled ---


def test_samples_are_distinct_and_hold_both_ends() -> None:
    """The smallest and the largest are among them, none twice."""
    configs = sampled_configs(SPACE, 50, seed=1)
    assert configs[:2] == [SPACE.smallest(), SPACE.largest()]
    assert len({SPACE.gene(config) for config in configs}) == 50


def test_a_shorter_sample_is_the_beginning_of_a_longer_one() -> None:
    """So a dataset can be made longer later."""
    assert sampled_configs(SPACE, 20, seed=3) == sampled_configs(SPACE, 40, seed=3)[:20]
    assert sampled_configs(SPACE, 20, seed=3) != sampled_configs(SPACE, 20, seed=4)


def test_more_samples_than_there_are_is_an_error() -> None:
    """With both numbers."""
    few = SPACE.model_copy(
        update={
            "name": "few",
            "decoder_num_layers": (1,),
            "encoder_ffn_dim": (32,),
            "encoder_attention_heads": (4,),
            "decoder_ffn_dim": (32,),
            "decoder_attention_heads": (4,),
            "cross_attention_heads": (4,),
        }
    )
    assert len(sampled_configs(few, few.num_configurations(), seed=1)) == few.num_configurations() == 8
    with pytest.raises(LatencyDataError, match=r"9 samples .* 'few' has only 8"):
        sampled_configs(few, 9, seed=1)


# --- what a row says ---


def test_a_row_is_the_papers_protocol(tmp_path: Path) -> None:
    """Fastest and slowest tenth dropped, encoder and decoder apart; gene, features and conditions come along."""
    out = tmp_path / "dataset.csv"
    assert Device().fill(out) == 6
    rows = read_latency_dataset(out)
    for row, config in zip(rows, sampled_configs(SPACE, 6, seed=1), strict=True):
        assert (row.encoder_mean_ms, row.encoder_std_ms, row.encoder_median_ms) == (1.0, 0.0, 1.0)
        assert row.decoder_mean_ms == pytest.approx(10.5)
        assert row.decoder_std_ms == pytest.approx(statistics.pstdev([10, 11] * 4))
        assert row.decoder_median_ms == 10.5
        assert (row.num_runs, row.cpu_share, row.reference_mean_ms) == (8, 1.0, 4.0)
        assert row.gene == SPACE.gene(config)
        assert row.features == pytest.approx(latency_features(config))
        assert row.conditions == CONDITIONS


def test_conditions_are_caps() -> None:
    """A clock that idles down changes nothing; a cap that is lowered does."""
    snapshot = ResourceSnapshot(
        monotonic_s=1.0,
        source="host",
        usable_cpus=(0, 2),
        cpu_quota_cpus=1.5,
        cpu_max_frequency_hz=2e9,
        cpu_current_frequency_hz=1e9,
        power_mode="10W",
    )

    def read(snapshot: ResourceSnapshot) -> Conditions:
        return conditions_now(snapshot, SPACE, "a board", OPTIONS)

    found = read(snapshot)
    assert (found.num_cpus, found.cpu_quota_cpus, found.power_mode) == (2, 1.5, "10W")
    assert (found.design_space, found.device, found.device_type) == ("tiny", "a board", "cpu")
    assert (found.num_threads, found.torch_version) == (torch.get_num_threads(), torch.__version__)
    assert read(replace(snapshot, cpu_current_frequency_hz=5e8, temperature_celsius=80.0)) == found
    assert read(replace(snapshot, cpu_max_frequency_hz=1e9)) != found
    assert read(replace(snapshot, usable_cpus=(0,))) != found


def test_measuring_runs_the_network() -> None:
    """As many runs as asked for, each with an encoder and a decoder part, in the CPU's own time."""
    toy = toy_super_transformer()
    times = measure_by_protocol(for_decoding(toy), OPTIONS)(toy.spec.design_space.smallest())
    assert len(times.encoder_ms) == len(times.decoder_ms) == OPTIONS.num_runs
    assert len(times.reference_ms) == OPTIONS.num_runs
    assert min(times.encoder_ms) > 0
    assert min(times.decoder_ms) > min(times.encoder_ms)
    assert 0 < times.cpu_share < 1.5


# --- resuming ---


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    """What was measured is on disk; the same command measures the rest and nothing twice."""
    out = tmp_path / "dataset.csv"
    device = Device()

    def interrupted(config: SubTransformerConfig) -> RunTimes:
        if len(device.measured) == 3:
            raise KeyboardInterrupt
        return Device.measure(device, config)

    device.measure = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        device.fill(out)
    assert len(read_latency_dataset(out)) == 3
    again = Device()
    assert again.fill(out) == 3
    assert device.measured + again.measured == sampled_configs(SPACE, 6, seed=1)
    assert len(read_latency_dataset(out)) == 6
    assert Device().fill(out) == 0


def test_a_torn_last_line_is_measured_again(tmp_path: Path) -> None:
    """A killed process's half line goes, the rows before it stay."""
    out = tmp_path / "dataset.csv"
    Device().fill(out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])
    assert Device().fill(out) == 1
    assert len(read_latency_dataset(out)) == 6
    out.write_bytes(whole[:50])  # the heading itself
    assert Device().fill(out) == 6
    assert len(read_latency_dataset(out)) == 6


def test_rows_of_another_state_do_not_count(tmp_path: Path) -> None:
    """A dataset holds several resource states side by side, each complete."""
    out = tmp_path / "dataset.csv"
    slower = replace(CONDITIONS, power_mode="5W", num_cpus=2)
    Device().fill(out)
    assert Device([slower]).fill(out) == 6
    assert [row.conditions for row in read_latency_dataset(out)] == [CONDITIONS] * 6 + [slower] * 6


def test_a_file_that_is_no_dataset_is_left_alone(tmp_path: Path) -> None:
    """It is refused, not appended to."""
    out = tmp_path / "notes.csv"
    out.write_text("a,b\n1,2")
    with pytest.raises(LatencyDataError, match="lacks column 'encoder_embed_dim'"):
        Device().fill(out)
    assert out.read_text() == "a,b\n1,2"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is named, with what to do, before anything is measured."""
    device = Device()
    with pytest.raises(LatencyDataError, match=r"cannot be written .*give another --out"):
        device.fill(tmp_path / "nowhere" / "dataset.csv")
    assert device.measured == []


# --- trust ---

SLOW = replace(CONDITIONS, cpu_max_frequency_hz=8e8)


@pytest.mark.parametrize(
    ("states", "num_measured"),
    [
        # begin; before, after of each attempt
        ([CONDITIONS, CONDITIONS, SLOW, CONDITIONS], 7),
        ([CONDITIONS, SLOW, CONDITIONS], 6),
    ],
    ids=["changed during the row", "changed before it"],
)
def test_a_row_during_which_the_device_changed_is_measured_again(
    tmp_path: Path, states: list[Conditions], num_measured: int
) -> None:
    """A warning says what changed; no row of the disturbed time is kept."""
    out = tmp_path / "dataset.csv"
    device = Device(states)
    assert device.fill(out) == 6
    assert len(device.measured) == num_measured
    assert {row.conditions for row in read_latency_dataset(out)} == {CONDITIONS}
    assert "cpu_max_frequency_hz changed from 1500000000.0 to 800000000.0" in device.messages.export_text()


def test_a_device_that_stays_changed_ends_the_command(tmp_path: Path) -> None:
    """What was measured before is kept; running again goes on under the new state."""
    out = tmp_path / "dataset.csv"
    device = Device([CONDITIONS, *[CONDITIONS] * 4, SLOW])
    with pytest.raises(LatencyDataError, match=r"cpu_max_frequency_hz changed .* rows before are kept"):
        device.fill(out)
    assert len(read_latency_dataset(out)) == 2
    assert Device([SLOW]).fill(out) == 6


def test_a_shared_cpu_is_measured_again(tmp_path: Path) -> None:
    """Other work on the same CPU makes a row too slow."""
    device = Device(shares=[0.5, 0.8, 1.0])
    device.fill(tmp_path / "dataset.csv")
    assert len(device.measured) == 8
    assert "other work took 50% of its CPU" in device.messages.export_text()


def test_on_a_busy_device_the_least_disturbed_attempt_counts(tmp_path: Path) -> None:
    """And says so: in a warning and in its row."""
    out = tmp_path / "dataset.csv"
    device = Device(shares=[0.5, 0.7, 0.6, 0.4, 1.0])
    assert device.fill(out) == 6
    assert len(device.measured) == MAX_ATTEMPTS + 5
    assert [row.cpu_share for row in read_latency_dataset(out)] == [0.7, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert "kept the least disturbed of 4 attempts (cpu_share 0.70)" in device.messages.export_text()


# --- the paper's space ---


def test_rows_of_the_papers_space_have_forty_genes(tmp_path: Path) -> None:
    """The full gene survives the file."""
    space = preset("paper-wmt14-ende")
    conditions = replace(CONDITIONS, design_space=space.name)
    out = tmp_path / "dataset.csv"
    measure_dataset(
        space,
        replace(OPTIONS, num_samples=20),
        out,
        measure=steady,
        read_conditions=lambda: conditions,
        console=Console(quiet=True),
    )
    measured = read_latency_dataset(out)
    assert [space.config_from_gene(row.gene or ()) for row in measured] == sampled_configs(space, 20, 1)
