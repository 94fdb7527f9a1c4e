"""The latency predictor: how well it predicts, what it refuses, and that its file holds all of it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.design_space import SubTransformerConfig, latency_features
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.offline import hat_latency_predictor
from dynhat_runtime.offline.additive_latency_model import fit_additive_model
from dynhat_runtime.offline.latency_basis import Stacks
from dynhat_runtime.offline.latency_dataset import LatencyRow, append_row
from dynhat_runtime.offline.latency_fit import (
    FitOptions,
    Split,
    TrainingSet,
    fit_predictor,
    mape,
    noise_floor_mape,
)
from dynhat_runtime.offline.latency_predictor import LatencyPredictor
from tests.test_latency_dataset import CONDITIONS, DATA, SPACE
from tests.tiny_bundle import SPACE as TINY_SPACE

PI, NANO = DATA / "wmt14ende_raspberrypi4_cpu.csv", DATA / "wmt14ende_jetson_nano_gpu.csv"
DEVICE = CONDITIONS.device
QUICK = FitOptions(compares_with_hat=False)
NOISE = 0.03


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows need not survive a power cut here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def nano() -> LatencyPredictor:
    """Fitted on averaged features of a real device."""
    return fit_predictor(NANO, dataclasses.replace(QUICK, device="nano"))


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    """Three hundred rows with genes of a made-up device."""
    path = tmp_path / "own.csv"
    for seed in range(300):
        append_row(path, made_up_row(seed))
    return path


def true_latency_ms(config: SubTransformerConfig) -> float:
    """A device that fetches weights or dispatches operators, whichever takes longer; not a sum of our terms."""

    def operator(num_weights: float) -> float:
        return 0.012 + max(0.004, num_weights / 4e6)

    qkv, dec, enc = 512, config.decoder_embed_dim, config.encoder_embed_dim
    encoder = sum(
        operator(4 * enc * qkv) + operator(2 * enc * ffn) + 0.02 * heads
        for ffn, heads in zip(config.encoder_ffn_dims, config.encoder_attention_heads, strict=True)
    )
    step = operator(dec * 3200)
    for ffn, heads, cross, span in zip(
        config.decoder_ffn_dims,
        config.decoder_attention_heads,
        config.cross_attention_heads,
        config.cross_attention_spans,
        strict=True,
    ):
        step += 2 * operator(4 * dec * qkv) + 2 * operator(dec * ffn) + (0.01 if ffn > 2 * dec else 0)
        step += 0.003 * heads**0.7 + 0.002 * cross**0.7 * (1 + 0.3 * span) + 0.006 * span
    return 4 * encoder + 30 * step


def made_up_row(seed: int, *, noise: float = NOISE, glitch: float = 1.0) -> LatencyRow:
    """One measurement of the made-up device."""
    config = SPACE.sample(random.Random(seed))
    factor = float(np.exp(np.random.default_rng(seed).normal(0, noise))) * glitch
    total_ms = true_latency_ms(config) * factor
    return LatencyRow(
        features=latency_features(config),
        encoder_mean_ms=0.1 * total_ms,
        decoder_mean_ms=0.9 * total_ms,
        encoder_std_ms=0.0,
        decoder_std_ms=0.1,
        gene=SPACE.gene(config),
        conditions=CONDITIONS,
    )


def unseen_error(predictor: LatencyPredictor) -> float:
    """Mean relative error against the made-up device's true latencies, on other architectures."""
    configs = [SPACE.sample(random.Random(seed)) for seed in range(5000, 5500)]
    truth = np.array([true_latency_ms(config) for config in configs])
    return mape(predictor.predict_ms(configs), truth)


# --- how well it predicts ---


@pytest.mark.parametrize(("path", "share"), [(PI, 0.7), (NANO, 0.95)], ids=["pi", "nano"])
def test_better_than_least_squares(path: Path, share: float) -> None:
    """On a real device's rows, fitted on either half, it errs less on the other than linear least squares."""
    data = TrainingSet.read(path, QUICK)
    matrix = np.column_stack([np.ones(len(data.rows)), data.features])
    order = np.random.default_rng(0).permutation(len(data.rows))
    ours, linear = [], []
    for known, unseen in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        model = fit_additive_model(
            data.stacks.take(known), data.latency_ms[known], is_per_layer=False, seed=0
        )
        ours.append(mape(model.predict_ms(data.stacks.take(unseen)), data.latency_ms[unseen]))
        weights = np.linalg.lstsq(matrix[known], data.latency_ms[known], rcond=None)[0]
        linear.append(mape(matrix[unseen] @ weights, data.latency_ms[unseen]))
    assert sum(ours) < share * sum(linear)


def test_full_genes_with_noise(own_file: Path) -> None:
    """Three hundred rows with genes and 3 % noise suffice for 3 % error on unseen rows, and less against the truth."""
    predictor = fit_predictor(own_file, QUICK)
    assert predictor.model.is_per_layer
    assert predictor.record.mape <= 0.03
    assert unseen_error(predictor) <= 0.012


def test_glitches_do_not_steer(tmp_path: Path) -> None:
    """A tenth of the rows at three times their latency leave the prediction of the others where it was."""
    path = tmp_path / "glitches.csv"
    for seed in range(300):
        append_row(path, made_up_row(seed, glitch=3.0 if seed % 10 == 0 else 1.0))
    assert unseen_error(fit_predictor(path, QUICK)) <= 0.02


def test_small_files_and_constant_columns(tmp_path: Path) -> None:
    """Forty rows of one width and depth are enough to fit without failing, and predictions stay near them."""
    path = tmp_path / "small.csv"
    rows = [made_up_row(seed) for seed in range(2000)]
    chosen = [
        row for row in rows if row.features.num_decoder_layers == 3 and row.features.decoder_embed_dim == 512
    ]
    for row in chosen[:40]:
        append_row(path, row)
    predictor = fit_predictor(path, QUICK)
    assert predictor.record.mape < 0.06
    assert "decoder width" not in predictor.model.terms


def test_all_rows_alike(tmp_path: Path) -> None:
    """Where every row has the same architecture and latency, that latency is predicted."""
    path = tmp_path / "alike.csv"
    row = made_up_row(0, noise=0.0)
    for _ in range(40):
        append_row(path, row)
    predictor = fit_predictor(path, QUICK)
    assert predictor.predict_features_ms([row.features]) == pytest.approx([row.total_ms], rel=1e-6)


def test_more_layers_take_longer(nano: LatencyPredictor) -> None:
    """On the Jetson Nano's rows every decoder layer more is predicted to take longer, for small and large widths."""
    for width in (512.0, 640.0):
        for ffn in (1024.0, 2048.0, 3072.0):
            rows = np.array([[width, 6, 2048, 6, width, depth, ffn, 6, 6, 2] for depth in range(1, 7)])
            assert np.all(np.diff(nano.predict_features_ms(rows)) > 0)


def test_predictions_are_positive_everywhere(nano: LatencyPredictor) -> None:
    """The space's smallest and largest architecture have a positive latency, the largest the greater one."""
    space = preset("hat-iwslt14-deen")
    small, large = nano.predict_ms([space.smallest(), space.largest()])
    assert 0 < small < large


def test_averaged_model_reads_configs_as_averages(nano: LatencyPredictor) -> None:
    """A predictor fitted on averages predicts the same from an architecture and from its averages."""
    configs = [SPACE.sample(random.Random(seed)) for seed in range(20)]
    features = [latency_features(config) for config in configs]
    np.testing.assert_allclose(nano.predict_ms(configs), nano.predict_features_ms(features), rtol=1e-12)
    np.testing.assert_allclose(Stacks.of_configs(configs).features(), np.array(features), rtol=1e-12)


def test_no_architecture_no_prediction(nano: LatencyPredictor) -> None:
    """Nothing asked, nothing answered."""
    assert nano.predict_ms([]).shape == (0,)


def test_noise_floor_is_a_bound() -> None:
    """Of normal noise of 3 % the floor is 0.56 times that, less than what the perfect predictor errs."""
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(4000, 10)), rng.normal(0, 0.03, 4000)
    measured = 100 * (1 + noise)
    floor = noise_floor_mape(features, np.full(4000, 100.0), measured)
    assert floor == pytest.approx(0.564 * 0.03, rel=0.05)
    assert floor < mape(np.full(4000, 100.0), measured)


def test_the_same_seed_fits_the_same(own_file: Path) -> None:
    """A fit is reproduced by its seed; another seed splits otherwise."""
    first, again = fit_predictor(own_file, QUICK), fit_predictor(own_file, QUICK)
    other = fit_predictor(own_file, dataclasses.replace(QUICK, seed=1))
    assert first.model == again.model
    assert first.record.mape != other.record.mape


def test_test_rows_are_not_learnt_from(own_file: Path, tmp_path: Path) -> None:
    """Other latencies in the test rows change the errors reported, not the model."""
    test_rows = set(Split.of(300, 0).test.tolist())
    path = tmp_path / "other.csv"
    for seed in range(300):
        append_row(path, made_up_row(seed, glitch=5.0 if seed in test_rows else 1.0))
    first, other = fit_predictor(own_file, QUICK), fit_predictor(path, QUICK)
    assert other.model == first.model
    assert other.record.mape > 10 * first.record.mape


# --- HAT's ---


def test_hat_network_has_the_published_size() -> None:
    """Ten features, four hidden layers of 400, one latency."""
    network = hat_latency_predictor._network()
    assert sum(weights.numel() for weights in network.parameters()) == 486_001


def test_hat_predictor_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained faster than published, to save time, it gets near the rows and says how far it is."""
    monkeypatch.setattr(hat_latency_predictor, "NUM_STEPS", 100)
    monkeypatch.setattr(hat_latency_predictor, "LEARNING_RATE", 1e-3)
    data = TrainingSet.read(NANO, QUICK)
    split = Split.of(len(data.rows), 0)
    told: list[int] = []
    predicted_ms = hat_latency_predictor.hat_predictions_ms(
        data.features, data.latency_ms, split.train, split.validation, seed=0, progress=told.append
    )
    assert told == [100]
    assert mape(predicted_ms[split.test], data.latency_ms[split.test]) < 0.08


# --- its file ---


def test_saved_and_loaded(own_file: Path, tmp_path: Path) -> None:
    """A loaded predictor is equal to the saved one, predicts the same, and names what it was trained on."""
    predictor = fit_predictor(own_file, QUICK)
    predictor.save(tmp_path / "predictor.json")
    loaded = LatencyPredictor.load(tmp_path / "predictor.json")
    configs = [SPACE.sample(random.Random(seed)) for seed in range(50)]
    assert loaded == predictor
    assert np.array_equal(loaded.predict_ms(configs), predictor.predict_ms(configs))
    assert (loaded.device, loaded.conditions, loaded.record.file) == (DEVICE, CONDITIONS, "own.csv")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-40],
        lambda text: text.replace('"format_version": 1', '"format_version": 2'),
        lambda text: text.replace('"weights_ms"', '"weights"'),
        lambda text: "[]",
    ],
    ids=["torn", "version", "field", "other"],
)
def test_broken_predictor_file(nano: LatencyPredictor, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    """A file that is torn, of another version or of something else is refused with the remedy, in one line."""
    path = tmp_path / "predictor.json"
    nano.save(path)
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(LatencyDataError, match="fit it with 'dynhat fit-predictor") as raised:
        LatencyPredictor.load(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_missing_and_unwritable_file(nano: LatencyPredictor, tmp_path: Path) -> None:
    """A file that is not there, and a place that cannot be written, say so."""
    with pytest.raises(LatencyDataError, match=r"cannot be read \(No such file or directory\)"):
        LatencyPredictor.load(tmp_path / "missing.json")
    with pytest.raises(LatencyDataError, match=r"cannot be written .*: give --out a file you may write"):
        nano.save(tmp_path / "missing/predictor.json")


def test_check_for_device_and_space(own_file: Path, nano: LatencyPredictor) -> None:
    """It is refused for another device, another space, and where it does not know its own device."""
    predictor = fit_predictor(own_file, QUICK)
    predictor.check_for(SPACE, DEVICE)
    nano.check_for(SPACE, "nano")
    with pytest.raises(
        LatencyDataError, match="is for device 'Some Board, 4 CPUs', not 'xeon': measure here"
    ):
        predictor.check_for(SPACE, "xeon")
    with pytest.raises(
        LatencyDataError, match="is for design space 'paper-wmt14-ende', not 'hat-wmt14-enfr'"
    ):
        predictor.check_for(preset("hat-wmt14-enfr"), DEVICE)
    with pytest.raises(LatencyDataError, match=r"saw encoder_embed_dim from 512 to 640; .* has 160"):
        nano.check_for(preset("quarter-wmt14-ende"), "nano")
    with pytest.raises(LatencyDataError, match=r"names no device, .* fit it again with --device 'xeon'"):
        fit_predictor(NANO, QUICK).check_for(SPACE, "xeon")


# --- rows that do not belong together ---


def write_rows(path: Path, change: Callable[[int, LatencyRow], LatencyRow], num_rows: int = 40) -> Path:
    """Rows of the made-up device, changed by number."""
    for seed in range(num_rows):
        append_row(path, change(seed, made_up_row(seed)))
    return path


def with_cpus(number: int, row: LatencyRow) -> LatencyRow:
    """Every other row on one CPU."""
    return dataclasses.replace(row, conditions=dataclasses.replace(CONDITIONS, num_cpus=1 + number % 2))


def test_rows_of_several_conditions(tmp_path: Path) -> None:
    """Rows that differ in a condition are refused with the filter that chooses; the filter chooses."""
    path = write_rows(tmp_path / "cpus.csv", with_cpus, 80)
    with pytest.raises(
        LatencyDataError, match=r"its rows differ in num_cpus \(1 or 2\): choose with --where num_cpus=1"
    ):
        fit_predictor(path, QUICK)
    predictor = fit_predictor(path, dataclasses.replace(QUICK, where=(("num_cpus", "2"),)))
    assert predictor.conditions == CONDITIONS
    assert predictor.record.where == ("num_cpus=2",)
    assert predictor.record.num_train + predictor.record.num_validation + predictor.record.num_test == 40


@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        (("num_cpus", "3"), "no row has num_cpus=3: choose 1 or 2"),
        (("num_cpus", "two"), "no row has num_cpus=two: choose 1 or 2"),
        (("cores", "2"), "--where cores=2: no such condition: choose one of design_space, device,"),
    ],
)
def test_filters_that_leave_nothing(tmp_path: Path, where: tuple[str, str], complaint: str) -> None:
    """A filter without rows, or of no condition, is refused with what there is."""
    path = write_rows(tmp_path / "cpus.csv", with_cpus)
    with pytest.raises(LatencyDataError, match=complaint):
        fit_predictor(path, dataclasses.replace(QUICK, where=(where,)))


def test_gene_outside_the_space(tmp_path: Path) -> None:
    """A gene outside its space is refused with line, entry and choices."""

    def change(number: int, row: LatencyRow) -> LatencyRow:
        assert row.gene is not None
        return dataclasses.replace(row, gene=(768, *row.gene[1:])) if number == 5 else row

    path = write_rows(tmp_path / "gene.csv", change)
    with pytest.raises(LatencyDataError, match=r"line 7: gene\[0\] \(encoder_embed_dim\) = 768 is not in"):
        fit_predictor(path, QUICK)


def test_gene_that_contradicts_its_features(tmp_path: Path) -> None:
    """A row whose gene and features describe different architectures is refused."""

    def change(number: int, row: LatencyRow) -> LatencyRow:
        features = row.features._replace(mean_decoder_ffn_dim=1.0)
        return dataclasses.replace(row, features=features) if number == 0 else row

    path = write_rows(tmp_path / "gene.csv", change)
    with pytest.raises(LatencyDataError, match=r"line 2: mean_decoder_ffn_dim is 1, but .* in the gene"):
        fit_predictor(path, QUICK)


def test_space_that_is_no_preset(tmp_path: Path) -> None:
    """Genes of a bundle's own space need that bundle's space."""
    conditions = dataclasses.replace(CONDITIONS, design_space=TINY_SPACE.name)

    def change(number: int, row: LatencyRow) -> LatencyRow:
        config = TINY_SPACE.sample(random.Random(number))
        return dataclasses.replace(
            row, features=latency_features(config), gene=TINY_SPACE.gene(config), conditions=conditions
        )

    path = write_rows(tmp_path / "tiny.csv", change)
    with pytest.raises(LatencyDataError, match="design space 'tiny', which is no preset: give --bundle"):
        fit_predictor(path, QUICK)
    with pytest.raises(LatencyDataError, match="design space 'tiny', not 'paper-wmt14-ende': give --bundle"):
        fit_predictor(path, dataclasses.replace(QUICK, space=SPACE))
    assert fit_predictor(path, dataclasses.replace(QUICK, space=TINY_SPACE)).design_space == "tiny"


def test_rows_with_and_without_conditions(tmp_path: Path) -> None:
    """HAT's rows and ours in one file are refused."""
    path = write_rows(
        tmp_path / "both.csv",
        lambda number, row: dataclasses.replace(row, gene=None, conditions=None) if number else row,
    )
    with pytest.raises(LatencyDataError, match="keep them in two files"):
        fit_predictor(path, QUICK)


def test_too_few_rows_and_another_device(tmp_path: Path) -> None:
    """A handful of rows, and a device the file contradicts, are refused."""
    path = write_rows(tmp_path / "few.csv", lambda _, row: row, 12)
    with pytest.raises(LatencyDataError, match="12 rows are too few for a predictor: measure at least 30"):
        fit_predictor(path, QUICK)
    path = write_rows(tmp_path / "more.csv", lambda _, row: row)
    with pytest.raises(LatencyDataError, match="was measured on 'Some Board, 4 CPUs', not on --device 'pi'"):
        fit_predictor(path, dataclasses.replace(QUICK, device="pi"))


# --- the command ---


def test_command_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--json prints one object with the errors of both, and nothing else; --out keeps the predictor."""
    monkeypatch.setattr(hat_latency_predictor, "NUM_STEPS", 100)
    out = tmp_path / "pi.json"
    arguments = ["fit-predictor", str(PI), "--device", "pi", "--out", str(out), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert 0 < found["mape"] < found["hat_mape"]
    assert 0 < found["rmse_ms"] < found["hat_rmse_ms"]
    assert 0 < found["noise_floor_mape"] < 0.1
    assert (found["num_train"], found["num_validation"], found["num_test"], found["seed"]) == (320, 40, 40, 0)
    assert found["model"]["kind"] == "additive"
    assert "neighbours" in found["noise_floor_method"]
    assert LatencyPredictor.load(out).device == "pi"


def test_command_for_people() -> None:
    """Without --json a table; without --out nothing is written, which is said."""
    result = CliRunner().invoke(app, ["fit-predictor", str(NANO), "--no-hat", "--seed", "3"])
    assert result.exit_code == 0
    assert "ours" in result.stdout
    assert "HAT's" not in result.stdout
    assert "seed 3" in result.stdout
    assert "nothing written: give --out FILE" in result.stderr


@pytest.mark.parametrize("where", ["num_cpus", "=2", "num_cpus="])
def test_command_refuses_in_one_line(where: str) -> None:
    """What is no condition ends the command with one line and status 2."""
    result = CliRunner().invoke(app, ["fit-predictor", str(PI), "--where", where, "--no-hat"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"dynhat: error: --where {where!r} is no condition: give COLUMN=VALUE, such as num_cpus=2\n"
    )
