"""Importing HAT checkpoints: parity with the reference, design spaces found, and bad files refused in one line."""

from __future__ import annotations

import argparse
import builtins
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import BundleError, CheckpointError, DesignSpaceError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.hat_bundle import ImportOptions, count_dict_entries, import_checkpoints
from dynhat_runtime.offline.hat_pickle import HatCheckpoint, read_checkpoint
from dynhat_runtime.offline.hat_spec import spec_of_checkpoint
from tests.golden import GOLDEN, covering_space, hat_configs, read_json

MODELS = ("tiny_shared", "tiny_unshared", "tiny_asym")
FULL = GOLDEN / "training" / "wmt_style" / "checkpoint_full.pt"
ATOL = 5e-5


def checkpoint_of(model: str) -> Path:
    """The golden checkpoint of a tiny model."""
    return GOLDEN / model / "checkpoint_min.pt"


def write_dict(path: Path, vocab_size: int) -> Path:
    """A made-up fairseq dictionary of the right size."""
    path.write_text("".join(f"w{i} {1000 - i}\n" for i in range(vocab_size - 4)))
    return path


def options_for(tmp_path: Path, src: int = 100, tgt: int | None = None, **others: Any) -> ImportOptions:
    """Options with made-up dictionaries."""
    return ImportOptions(
        dictionary=write_dict(tmp_path / "src.txt", src),
        tgt_dictionary=None if tgt is None else write_dict(tmp_path / "tgt.txt", tgt),
        **others,
    )


def import_tiny(model: str, tmp_path: Path, dtype: torch.dtype = torch.float32) -> Bundle:
    """A golden model as a bundle, read back from disk."""
    args = read_json(model, "args.json")
    space = covering_space(model, args["qkv_dim"], args, list(hat_configs(model).values()))
    options = options_for(tmp_path, 100, 90 if model == "tiny_unshared" else None, space=space, dtype=dtype)
    import_checkpoints([checkpoint_of(model)], options, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def changed(tmp_path: Path, change: Any, model: str = "tiny_shared") -> Path:
    """A copy of a golden checkpoint with something changed."""
    content = torch.load(checkpoint_of(model), weights_only=False)
    change(content)
    torch.save(content, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


@pytest.mark.parametrize("model", MODELS)
def test_logits_and_hypotheses_are_the_references(model: str, tmp_path: Path) -> None:
    """Every golden config of an imported bundle has the reference's logits and beam hypotheses."""
    super_transformer = import_tiny(model, tmp_path).super_transformer()
    outputs = load_file(GOLDEN / model / "outputs.safetensors")
    batches = read_json(model, "batches.json")
    generation = read_json(model, "generation.json")
    num_compared = 0
    for name, config in hat_configs(model).items():
        sub = super_transformer.extract(config)
        for batch_name, batch in batches.items():
            with torch.inference_mode():
                logits = sub.logits(
                    torch.tensor(batch["src_tokens"]), torch.tensor(batch["prev_output_tokens"])
                )
            torch.testing.assert_close(logits, outputs[f"{name}/{batch_name}/logits"], atol=ATOL, rtol=0)
        for golden in generation.get(name, {}).values():
            if golden.get("stable_top1_under_1e-5_noise", True):
                _check_hypotheses(sub, torch.tensor(batches["leftpad"]["src_tokens"]), golden)
                num_compared += 1
    assert num_compared > 0


@torch.inference_mode()
def _check_hypotheses(sub: Any, src: torch.Tensor, golden: dict[str, Any]) -> None:
    settings = golden["settings"]
    cap = int(settings["max_len_a"] * src.shape[1] + settings["max_len_b"])
    options = BeamOptions(settings["beam"], settings["lenpen"], settings.get("min_len", 1), 2, 1)
    found = beam_search(sub.start(sub.encode(src), options.beam_size), [cap] * src.shape[0], options)
    num_compared = settings["beam"] if golden.get("stable_all_under_1e-5_noise", True) else 1
    for mine, theirs in zip(found, golden["hypotheses"], strict=True):
        for hypothesis, expected in list(zip(mine, theirs, strict=False))[:num_compared]:
            assert list(hypothesis.tokens) == expected["tokens"]
            assert hypothesis.score == pytest.approx(expected["score"], abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_half_precision_at_rest_is_close(model: str, tmp_path: Path) -> None:
    """The default, half precision at rest, moves logits by little."""
    super_transformer = import_tiny(model, tmp_path, torch.float16).super_transformer()
    outputs = load_file(GOLDEN / model / "outputs.safetensors")
    batch = read_json(model, "batches.json")["single"]
    for name, config in hat_configs(model).items():
        with torch.inference_mode():
            logits = super_transformer.extract(config).logits(
                torch.tensor(batch["src_tokens"]), torch.tensor(batch["prev_output_tokens"])
            )
        torch.testing.assert_close(logits, outputs[f"{name}/single/logits"], atol=5e-2, rtol=0)


def test_full_checkpoint_with_fairseq_objects(tmp_path: Path) -> None:
    """A full checkpoint of HAT's trainer is read; its pickled fairseq objects are swallowed."""
    bundle = import_checkpoints([FULL], options_for(tmp_path), tmp_path / "bundle")
    assert bundle.spec.tied_embeddings == "all"
    assert bundle.training_record()["imported_from"][0]["updates"] == 12
    assert bundle.manifest.text_pipeline == "moses-bpe"
    assert (tmp_path / "bundle" / "bpe.codes").read_bytes() == b""


def test_legacy_file_format(tmp_path: Path) -> None:
    """Files of torch before 1.6, such as HAT's published ones, are read alike."""
    content = torch.load(checkpoint_of("tiny_shared"), weights_only=False)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old, new = read_checkpoint(tmp_path / "old.pt"), read_checkpoint(checkpoint_of("tiny_shared"))
    assert old.args == new.args
    assert all(torch.equal(old.state[key], new.state[key]) for key in new.state if "_float" not in key)


def test_averaging(tmp_path: Path) -> None:
    """Several checkpoints are averaged weight by weight."""

    def double(content: dict[str, Any]) -> None:
        content["model"] = OrderedDict((k, v * 3) for k, v in content["model"].items())

    paths = [checkpoint_of("tiny_shared"), changed(tmp_path, double)]
    options = options_for(tmp_path, dtype=torch.float32)
    averaged = import_checkpoints(paths, options, tmp_path / "two").super_transformer()
    single = import_checkpoints(paths[:1], options, tmp_path / "one").super_transformer()
    for name, weight in averaged.weights.items():
        torch.testing.assert_close(weight, 2 * single.weights[name])


def test_half_precision_and_separate_projections(tmp_path: Path) -> None:
    """fp16 weights and newer fairseq's separate q, k and v give the same bundle as packed ones."""

    def modernise(content: dict[str, Any]) -> None:
        model = OrderedDict()
        for key, value in content["model"].items():
            value = value.half() if value.is_floating_point() else value
            if ".in_proj_" in key:
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    model[key.replace("in_proj_", f"{letter}_proj.")] = part
            else:
                model[key] = value
        model["decoder.output_projection.weight"] = model["decoder.embed_tokens.weight"]
        content["model"] = model

    modern = import_checkpoints([changed(tmp_path, modernise)], options_for(tmp_path), tmp_path / "a")
    packed = import_checkpoints([checkpoint_of("tiny_shared")], options_for(tmp_path), tmp_path / "b")
    assert modern.weights_sha256 == packed.weights_sha256


# --- the design space ---


def _hat_args(**changes: Any) -> dict[str, Any]:
    args = {
        "arch": "transformersuper_wmt_en_de", "qkv_dim": 512, "share_all_embeddings": True,
        "share_decoder_input_output_embed": True, "target_lang": "de", "data": "data/binary/wmt16_en_de",
        "encoder_embed_dim": 640, "decoder_embed_dim": 640, "encoder_ffn_embed_dim": 3072,
        "decoder_ffn_embed_dim": 3072, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8,
    }  # fmt: skip
    return {**args, **changes}


def _space_of(args: dict[str, Any], space: DesignSpace | None = None) -> DesignSpace:
    checkpoint = HatCheckpoint(Path("x.pt"), args, {"encoder.embed_tokens.weight": torch.zeros(9, 4)}, None)
    return spec_of_checkpoint(checkpoint, space).design_space


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "paper-wmt14-ende"),
        ({"target_lang": "fr"}, "hat-wmt14-enfr"),
        ({"data": "data/binary/wmt19_en_de"}, "hat-wmt19-ende"),
        ({"encoder_embed_dim": 512, "decoder_embed_dim": 512}, "reduced-wmt14-ende"),
        (
            {
                "encoder_ffn_embed_dim": 2048,
                "decoder_ffn_embed_dim": 2048,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
            },
            "hat-iwslt14-deen",
        ),
    ],
)
def test_space_is_found(changes: dict[str, Any], name: str) -> None:
    """Sizes, language and data tell HAT's tasks and the reduced space apart."""
    assert _space_of(_hat_args(**changes)) == preset(name)


def test_space_of_own_choices() -> None:
    """Other sizes take the checkpoint's choices, without those its weights cannot hold."""
    args = vars(torch.load(checkpoint_of("tiny_asym"), weights_only=False)["args"])
    space = _space_of({**args, "share_all_embeddings": True, "encoder_embed_choice": [64, 48, 32, 16]})
    assert space.encoder_embed_dim == (48, 32, 16)
    assert space.decoder_embed_dim == (40,)
    assert space.encoder_attention_heads == (4, 2, 1)
    assert space.encoder_num_layers == (3, 2)


def test_space_asked_for_must_fit() -> None:
    """A space of other sizes than the checkpoint's is refused with both numbers."""
    with pytest.raises(DesignSpaceError, match=r"encoder_embed_dim=512; the checkpoint has 640"):
        _space_of(_hat_args(), preset("reduced-wmt14-ende"))


def test_plain_fairseq_transformer_has_one_architecture() -> None:
    """A Transformer that is no SuperTransformer is a space of one configuration."""
    args = _hat_args(arch="transformer_wmt_en_de", encoder_embed_dim=512, decoder_embed_dim=512, qkv_dim=None)
    assert _space_of(args).num_configurations() == 1


# --- bad input ---


class _Payload:
    """Pickles as a call."""

    def __init__(self, function: Any, argument: str) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> Any:
        return self.call


class _Meter:
    """Stands for a fairseq object whose state holds something."""

    def __init__(self, content: Any) -> None:
        self.content = content


_Meter.__module__, _Meter.__qualname__, _Meter.__name__ = "fairseq.meters", "AverageMeter", "AverageMeter"


def _pickled_meter(payload: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("fairseq.meters")
    module.AverageMeter = _Meter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fairseq", types.ModuleType("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.meters", module)
    content = torch.load(checkpoint_of("tiny_shared"), weights_only=False)
    torch.save({**content, "extra_state": {"train_meters": OrderedDict(x=_Meter(payload))}}, path)
    monkeypatch.delitem(sys.modules, "fairseq.meters")
    monkeypatch.delitem(sys.modules, "fairseq")


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, builtins.getattr])
def test_malicious_pickle_runs_nothing(
    function: Any, is_nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that calls something is refused by that name and nothing runs, not even inside a stub's state."""
    mark, path = tmp_path / "mark", tmp_path / "bad.pt"
    argument = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    payload = _Payload(function, argument)
    if is_nested:
        _pickled_meter(payload, path, monkeypatch)
    else:
        torch.save({"args": argparse.Namespace(), "model": payload}, path)
    with pytest.raises(CheckpointError, match=function.__name__) as caught:
        import_checkpoints([path], options_for(tmp_path), tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert not (tmp_path / "bundle").exists()


def test_names_with_dots_reach_nothing(tmp_path: Path) -> None:
    """A dotted name below an allowed one is refused, not followed; an allowed function cannot be altered."""
    from dynhat_runtime.offline.hat_pickle import _Unpickler

    dotted = b"\x80\x04\x8c\x08argparse\x8c\x12Namespace.__init__\x93."
    altered = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b."
    for content in (dotted, altered):
        file = tmp_path / "pickle"
        file.write_bytes(content)
        with file.open("rb") as opened, pytest.raises(CheckpointError):
            _Unpickler(opened).load()


def _truncate(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) // 2])


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    """Text, truncated, empty, missing, foreign and TorchScript files end in one line, and nothing is written."""
    whole = checkpoint_of("tiny_shared").read_bytes()
    cases = {
        "text.pt": (b"hello", "not a checkpoint"),
        "empty.pt": (b"", "not a checkpoint"),
        "cut.pt": (whole[: len(whole) // 2], "truncated"),
        "plain.pickle": (pickle.dumps({"model": 1}), "not a checkpoint"),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": OrderedDict()}, tmp_path / "noargs.pt")
    expected = {name: words for name, (_, words) in cases.items()}
    expected |= {"list.pt": "no 'model'", "noargs.pt": "no 'args'", "none.pt": "cannot be read"}
    for name, words in expected.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            import_checkpoints([tmp_path / name], options_for(tmp_path), tmp_path / "bundle")
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: setattr(c["args"], "arch", "fconv"), "'fconv' is not HAT's"),
        (lambda c: delattr(c["args"], "qkv_dim"), "'qkv_dim' is missing"),
        (lambda c: setattr(c["args"], "encoder_layers", "six"), "'encoder_layers' is 'six'"),
        (lambda c: setattr(c["args"], "encoder_learned_pos", True), "encoder_learned_pos=True"),
        (
            lambda c: c["model"].pop("encoder.layers.0.fc1.bias"),
            "encoder.0.feed_forward.expand.bias' is missing",
        ),
        (lambda c: c["model"].update(odd=torch.zeros(1)), "unexpected key 'odd'"),
        (lambda c: c["model"]["encoder.layers.0.fc1.bias"].fill_(torch.nan), "no numbers"),
        (lambda c: c["model"]["encoder.layers.0.fc1.bias"].fill_(1e6), "--keep-fp32"),
        (lambda c: setattr(c["args"], "encoder_ffn_embed_dim", 64), "has shape"),
    ],
)
def test_checkpoints_that_do_not_fit(change: Any, words: str, tmp_path: Path) -> None:
    """What is wrong with a checkpoint is said in one line with the file's name, and nothing is written."""
    path = changed(tmp_path, change)
    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        import_checkpoints([path], options_for(tmp_path), tmp_path / "bundle")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*bundle*"))


def test_dictionary_of_another_size(tmp_path: Path) -> None:
    """Both numbers are said."""
    with pytest.raises(CheckpointError, match=r"makes 99 tokens.* has 100"):
        import_checkpoints([checkpoint_of("tiny_shared")], options_for(tmp_path, 99), tmp_path / "bundle")


def test_dictionary_lines() -> None:
    """Every line counts, a madeupword tail too; a line that is no entry is refused."""
    assert count_dict_entries(b"the 9\nmadeupword0000 0\n") == 6
    assert count_dict_entries(b"\xe2\x80\xa8 1 #fairseq:overwrite\n") == 5
    with pytest.raises(CheckpointError, match="line 2"):
        count_dict_entries(b"the 9\nthe\n")


def test_target_folders(tmp_path: Path) -> None:
    """A bundle is replaced; a folder of other things and one that cannot be written are refused."""
    paths, options, out = [checkpoint_of("tiny_shared")], options_for(tmp_path), tmp_path / "bundle"
    import_checkpoints(paths, options, out)
    import_checkpoints(paths, options, out)
    assert Bundle.open(out).src_lang == "aa"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(BundleError, match="holds other files"):
        import_checkpoints(paths, options, tmp_path / "other")
    with pytest.raises(BundleError, match="cannot be written"):
        import_checkpoints(paths, options, tmp_path / "src.txt" / "bundle")
    assert not list(tmp_path.glob(".*importing*"))


def test_command_imports_and_measures(tmp_path: Path) -> None:
    """`dynhat import-hat` writes a bundle with a table that can be served at once."""
    options = options_for(tmp_path)
    arguments = ["import-hat", str(checkpoint_of("tiny_shared")), "--dict", str(options.dictionary)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.output
    assert {point.id for point in Bundle.open(tmp_path / "bundle").table()} == {"smallest", "largest"}
    refused = CliRunner().invoke(
        app, [*arguments, "--space", "paper-wmt14-ende", "--out", str(tmp_path / "b")]
    )
    assert refused.exit_code == 2
    assert len(refused.stderr.splitlines()) == 1
