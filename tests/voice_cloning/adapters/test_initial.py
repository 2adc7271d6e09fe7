"""Test the adapter that a run starts from, and that every command refuses a broken adapter in the same words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import TRANSFORMERS
from lora_config import ADAPTER_CONFIG_FILE, ADAPTER_FILE, HiggsAudioLoRATrainingConfig
from tests.exported_adapters import EVERY_GROUP, rename
from tests.training_runs import flags, trainer
from tools import merge_adapter, synthesize
from voice_cloning.adapters.initial import check_modules, read_initial_adapter, start_from
from voice_cloning.speech import adapter_run

WANTED = HiggsAudioLoRATrainingConfig(lora_targets=EVERY_GROUP, lora_dropout=0.1)
PROJECTIONS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
HEADS = ["text_lm_head", "audio_lm_head", "audio_codebook_embeddings"]


def with_settings(adapter: Path, folder: Path, **settings: Any) -> Path:
    """Copy an adapter with other settings."""
    shutil.copytree(adapter, folder)
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


def modules_of(model: HiggsAudioModel) -> list[str]:
    return [name for name, module in model.named_modules() if name.endswith(tuple([*PROJECTIONS, *HEADS]))]


@pytest.mark.parametrize("written", ["pattern", "last names", "whole names", "short pattern", "transformers layout"])
def test_a_run_starts_from_an_adapter_however_its_targets_are_written(
    trained: Path, demo: Path, tmp_path: Path, written: str
) -> None:
    base = HiggsAudioModel.from_pretrained(demo / "model")
    targets = {
        "last names": [*PROJECTIONS, *HEADS],
        "whole names": modules_of(base),
        "short pattern": rf".*({'|'.join([*PROJECTIONS, *HEADS])})",
    }
    adapter = trained
    if written in targets:
        adapter = with_settings(trained, tmp_path / "adapter", target_modules=targets[written])
    elif written == "transformers layout":
        adapter = rename(trained, tmp_path / "renamed", TRANSFORMERS)
    found = read_initial_adapter(adapter, WANTED)
    check_modules(found, adapter, WANTED, HiggsAudioConfig.from_pretrained(demo / "model"))
    model = start_from(base, found, WANTED)
    oracle = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(demo / "model"), trained, is_trainable=True)
    ours, theirs = (get_peft_model_state_dict(m, save_embedding_layers=False) for m in (model, oracle))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, parameter in oracle.named_parameters() if parameter.requires_grad}
    assert {parameter.dtype for name, parameter in model.named_parameters() if name in trainable} == {torch.float32}


def test_the_program_starts_from_an_adapter_with_a_list_of_targets(trained: Path, demo: Path, tmp_path: Path) -> None:
    adapter = with_settings(trained, tmp_path / "adapter", target_modules=[*PROJECTIONS, *HEADS])
    subject = trainer(demo, tmp_path / "out", init_adapter=adapter, lora_targets=EVERY_GROUP)
    stored = read_initial_adapter(trained, WANTED).tensors
    loaded = get_peft_model_state_dict(subject.components.model, save_embedding_layers=False)
    assert loaded.keys() == stored.keys() and all(torch.equal(loaded[name], stored[name]) for name in stored)
    subject.components.opened.directory.close()


def test_other_modules_than_the_flags_name_are_listed(trained: Path, demo: Path) -> None:
    wanted = HiggsAudioLoRATrainingConfig(lora_targets=["attention", "text_mlp", "audio_mlp", "heads"])
    adapter = read_initial_adapter(trained, wanted)
    with pytest.raises(InputError) as caught:
        check_modules(adapter, trained, wanted, HiggsAudioConfig.from_pretrained(demo / "model"))
    assert str(caught.value) == (
        f"--init_adapter {trained}: adapts other modules than --lora_targets attention text_mlp audio_mlp heads; give "
        "the flags it was trained with (1):\n  audio_codebook_embeddings: only in the adapter"
    )


def test_an_adapter_of_another_model_is_refused(trained: Path, demo: Path) -> None:
    config = HiggsAudioConfig.from_pretrained(demo / "model")
    config.text_config.intermediate_size *= 2
    with pytest.raises(InputError, match=r"(?s)was trained on another model.*mlp.up_proj.lora_B.weight: has shape"):
        check_modules(read_initial_adapter(trained, WANTED), trained, WANTED, config)


# -- every command ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["trainer", "merge", "rename", "synthesize"])
def message_of(
    request: pytest.FixtureRequest,
    demo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Runs a command with an adapter, which must be refused before any weight of the base is loaded."""

    def message(adapter: Path) -> str:
        out, named = tmp_path / "out", ["--adapter", str(adapter)]
        merging = [*named, "--output", str(out), "--layout", "original"]
        speech = ["--text", "\u0645\u0631\u062d\u0628\u0627", "--reference_text", "\u0646\u0639\u0645"]
        speech += ["--reference", str(demo / "clips/amal/train_00.wav"), "--output", str(out.with_suffix(".wav"))]
        model = ["--model_path", str(demo / "model")]
        codec = ["--audio_tokenizer_path", str(demo / "audio_tokenizer"), "--prompt_style", "voice_clone"]
        main, words = {
            "trainer": (program.main, flags(demo, out, init_adapter=adapter, lora_targets=EVERY_GROUP)),
            "merge": (merge_adapter.main, [*model, *merging]),
            "rename": (merge_adapter.main, [*merging, "--adapter_only"]),
            "synthesize": (synthesize.main, [*model, *codec, *named, *speech]),
        }[request.param]
        assert main(words) == 1
        assert not out.exists() and not out.with_suffix(".wav").exists()
        return capsys.readouterr().err

    monkeypatch.setattr(HiggsAudioModel, "from_pretrained", None)
    return message


def test_every_command_refuses_a_broken_adapter_in_the_same_words(
    trained: Path, tmp_path: Path, message_of: Any
) -> None:
    for number, (name, value, expected) in enumerate(
        (
            ("lora_alpha", None, "lora_alpha is null; it must be a number above 0"),
            ("r", "4", 'r is "4"; it must be a whole number from 1'),
            ("target_modules", "(layers", 'target_modules is "(layers", which is not a pattern (missing ), untermina'),
            ("target_modules", {"q_proj": 1}, "it must be a pattern, or a list of names of modules"),
            ("base_model_name_or_path", 5, "base_model_name_or_path is 5; it must be a name or null"),
            (
                "alpha_pattern",
                None,
                "this project does not support (1):\n  alpha_pattern is None, not {}",
            ),
        )
    ):
        adapter = with_settings(trained, tmp_path / f"adapter_{number}", **{name: value})
        message = message_of(adapter)
        assert f"adapter {adapter}: adapter_config.json: " in message and expected in message
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_FILE):
        adapter = shutil.copytree(trained, tmp_path / f"cut_{name}")
        (adapter / name).write_bytes((adapter / name).read_bytes()[:200])
        message = message_of(adapter)
        assert f"adapter {adapter}: {name} is " in message and "fetch it again" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "not JSON ("),
        (b"[" * 100_000, "not JSON ("),
        (b'{"flags": 5}', "does not describe a training run"),
        (b'{"flags": {"model_path": 5, "lora_targets": [1]}}', "flags.model_path is 5; it must be a text or null"),
        (b'{"flags": {}, "data": {"training": {"file": 1}}}', "data.training.samples is null; it must be a number"),
        (b'{"flags": {"data_path": 5}}', "flags.data_path is 5; it must be a text or a list or null"),
        (b'{"flags": {"data_path": ["a", 5]}}', "flags.data_path[1] is 5; it must be a text"),
        (b'{"flags": {}, "data": {"training": {"parts": 3}}}', "data.training.parts is 3; it must be a list"),
        (
            b'{"flags": {}, "data": {"training": {"parts": [{"samples": 3}]}}}',
            "data.training.parts[0].samples_of_epoch is null; it must be a number",
        ),
        (b'{"flags": {}, "results": {"step": "1"}}', 'results.step is "1"; it must be a number'),
        (b'{"flags": {}, "results": {"step": 1, "total_steps": 1, "best": 3}}', "results.best is 3; it must be an obj"),
    ],
)
def test_what_lies_beside_an_adapter_is_checked(
    trained: Path, tmp_path: Path, content: bytes, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(trained, tmp_path / "adapter")
    (adapter / "run.json").write_bytes(content)
    words = ["--adapter", str(adapter), "--output", str(tmp_path / "out"), "--layout", "original", "--adapter_only"]
    assert merge_adapter.main(words) == 1
    message = capsys.readouterr().err
    assert f"{adapter / 'run.json'}: " in message and expected in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, 5, ["as_written"], "clone", {}])
def test_a_prompt_style_that_a_run_cannot_have_is_refused(trained: Path, tmp_path: Path, value: Any) -> None:
    for name, read in (
        ("prompt_style", adapter_run.style_of_adapter),
        ("text_normalisation", adapter_run.normalisation_of_adapter),
    ):
        (tmp_path / "run.json").write_text(json.dumps({"flags": {name: value}}))
        with pytest.raises(InputError, match=rf"run.json: flags.{name} is .*; it must be one of .*, or give --{name}$"):
            read(tmp_path)
