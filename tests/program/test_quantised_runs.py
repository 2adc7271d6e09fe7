"""The program with ``--quantise nf4``, and what is done with its adapter: resumed, spoken with, merged."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import arabic_voice_cloning_distributed_trainer as program
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel, quantised_weights
from boson_multimodal.model.higgs_audio.checkpoint_layouts import LAYOUTS, TRANSFORMERS
from boson_multimodal.model.higgs_audio.quantised_weights import NF4, is_quantised, linears_of_layers
from tests.exported_adapters import arguments, rename
from tests.quantised_models import in_full_precision, needs_bitsandbytes
from tests.training_runs import assert_same_adapter, command, flags, metrics, run, trainer
from tests.voice_cloning.speech.cloners import make_cloner
from tests.voice_cloning.training.test_resume import crash_after
from tools import merge_adapter, synthesize
from voice_cloning.adapters.export import apply_adapter, read_adapter
from voice_cloning.adapters.logit_comparison import differences, fixed_batch, our_logits
from voice_cloning.adapters.merge import merge
from voice_cloning.training.run_directory import RUN_FILE

SHORT = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def quantised_run(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("quantised") / "run"
    assert program.main(flags(demo, folder, **SHORT, quantise=NF4)) == 0
    return folder


@pytest.fixture(scope="module")
def adapter(quantised_run: Path) -> Path:
    return quantised_run / "checkpoint-000004"


@pytest.fixture
def library_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised_weights, "find_spec", lambda name: None)


# -- training ----------------------------------------------------------------------------------------------------------


@needs_bitsandbytes
def test_a_crashed_run_ends_with_the_bits_of_an_uninterrupted_one(
    demo: Path, quantised_run: Path, tmp_path: Path
) -> None:
    """The run is evaluated before it crashes, and takes the flag from its own record when it resumes."""
    crash_after(trainer(demo, tmp_path / "crashed", **SHORT, quantise=NF4), 3)
    again = trainer(demo, tmp_path / "crashed", **SHORT)
    assert again.components.state.step == 2 and again.config.quantise == NF4
    assert again.train().finished
    assert_same_adapter(quantised_run / "checkpoint-000004", tmp_path / "crashed" / "checkpoint-000004")
    assert metrics(tmp_path / "crashed") == metrics(quantised_run)


@needs_bitsandbytes
def test_the_flag_is_part_of_the_run_and_stands_on_its_card(demo: Path, quantised_run: Path, adapter: Path) -> None:
    record = json.loads((adapter / RUN_FILE).read_text(encoding="utf-8"))
    assert record["flags"]["quantise"] == record["identity"]["flags"]["quantise"] == NF4
    assert "bitsandbytes" in record["versions"]
    card = (adapter / "README.md").read_text(encoding="utf-8")
    assert "- quantise: nf4" in card and '`quantise="nf4"`' in card
    with pytest.raises(InputError, match=r"flags.quantise: was 'nf4', is 'none'"):
        trainer(demo, quantised_run, **SHORT, quantise="none")


@needs_bitsandbytes
def test_only_the_base_differs_from_a_run_in_full_precision(demo: Path, tmp_path: Path) -> None:
    found = {}
    for quantise in ("none", NF4):
        model = trainer(demo, tmp_path / quantise, quantise=quantise).components.model
        found[quantise] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        linears = linears_of_layers(HiggsAudioModel.from_pretrained(demo / "model"))
        quantised = [is_quantised(model.get_base_model().get_submodule(f"{name}.base_layer")) for name in linears]
        assert all(quantised) if quantise == NF4 else not any(quantised)
    assert found["none"].keys() == found[NF4].keys()
    assert all(torch.equal(found[NF4][name], parameter) for name, parameter in found["none"].items())


@needs_bitsandbytes
@pytest.mark.parametrize(
    "overrides",
    [
        {"torch_dtype": "bfloat16"},
        pytest.param({"use_dora": True}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_other_settings_train_on_quantised_weights(demo: Path, tmp_path: Path, overrides: dict[str, Any]) -> None:
    subject = trainer(demo, tmp_path, **{**SHORT, "max_steps": 3, "eval_data_path": None}, quantise=NF4, **overrides)
    before = [parameter.clone() for parameter in subject.components.optimizer.parameters]
    assert subject.train().finished
    after = subject.components.optimizer.parameters
    assert all(p.isfinite().all() and not torch.equal(p, old) for p, old in zip(after, before, strict=True))


@pytest.mark.slow
@needs_bitsandbytes
def test_two_processes_train_on_quantised_weights(demo: Path, tmp_path: Path) -> None:
    result = run(command(flags(demo, tmp_path / "out", **SHORT, quantise=NF4), processes=2))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "checkpoint-000004").is_dir()


@pytest.mark.parametrize("where", ["new run", "resumed run"])
def test_without_the_library_the_program_says_what_to_install(
    demo: Path,
    tmp_path: Path,
    where: str,
    library_is_absent: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "load_run_data", None)
    given: dict[str, Any] = {"quantise": NF4}
    if where == "resumed run":
        (tmp_path / RUN_FILE).write_text(json.dumps({"flags": given, "identity": {"flags": given}}), encoding="utf-8")
        given = {}
    assert program.main(flags(demo, tmp_path, **given)) == 1
    assert (
        "--quantise nf4 needs bitsandbytes, which is not installed; pip install 'bitsandbytes"
        in capsys.readouterr().err
    )


@needs_bitsandbytes
def test_widths_that_cannot_be_quantised_are_refused_before_clips_are_encoded(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(demo / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text(encoding="utf-8"))
    config["audio_ffn_intermediate_size"] = 250
    (tmp_path / "model/config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setattr(program, "encode_and_pack", None)
    with pytest.raises(InputError, match=r"--model_path .*multiples of 64(?s:.*)audio_ffn_intermediate_size is 250"):
        trainer(demo, tmp_path / "out", model_path=tmp_path / "model", quantise=NF4)


# -- speech ------------------------------------------------------------------------------------------------------------


@needs_bitsandbytes
def test_an_adapter_speaks_with_the_quantisation_of_its_training(demo: Path, adapter: Path) -> None:
    own, full = make_cloner(demo, adapter=adapter), make_cloner(demo, adapter=adapter, quantise="none")
    assert (own.quantise, full.quantise, make_cloner(demo).quantise) == (NF4, "none", "none")
    assert make_cloner(demo, quantise=NF4).quantise == NF4
    assert is_quantised(own.model.layers[0].mlp.up_proj.base_layer)
    assert not is_quantised(full.model.layers[0].mlp.up_proj.base_layer)
    prompt = fixed_batch(own.config).prompts()
    same = apply_adapter(in_full_precision(demo / "model"), read_adapter(adapter)).get_base_model()
    found, wanted = (m.generate(**prompt, max_new_tokens=12, do_sample=False) for m in (own.model, same))
    assert len(found.audio_sequences) == 4
    assert all(map(torch.equal, found.audio_sequences, wanted.audio_sequences))


@needs_bitsandbytes
def test_the_command_names_the_quantisation_and_repeats_speech_of_another(
    demo: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"--model_path": demo / "model", "--audio_tokenizer_path": demo / "audio_tokenizer", "--adapter": adapter}
    paths |= {"--reference": demo / "clips/amal/train_01.wav", "--output": tmp_path / "out.wav"}
    words = [str(word) for pair in paths.items() for word in pair]
    words += ["--text", "نعم", "--reference_text", "كيف حالك اليوم", "--device", "cpu", "--retries", "0"]
    words += ["--slowest_letters_per_second", "20", "--keep_runaways"]
    for more, shown, done in (([], NF4, "written"), ([], NF4, "exists"), (["--quantise", "none"], "none", "written")):
        assert synthesize.main([*words, *more]) in (0, synthesize.RUNAWAY_STATUS)
        printed = capsys.readouterr()
        assert f"torch.float32 on cpu, quantise {shown}" in printed.err
        assert done in printed.out


@needs_bitsandbytes
def test_a_record_is_read_strictly_and_may_be_older_than_the_flag(demo: Path, adapter: Path, tmp_path: Path) -> None:
    for value, quantise in ((None, "none"), ("none", "none"), (NF4, NF4)):
        copy = shutil.copytree(adapter, tmp_path / str(value))
        record = json.loads((copy / RUN_FILE).read_text(encoding="utf-8"))
        record["flags"].pop("quantise")
        record["flags"] |= {} if value is None else {"quantise": value}
        (copy / RUN_FILE).write_text(json.dumps(record), encoding="utf-8")
        assert make_cloner(demo, adapter=copy).quantise == quantise
    record["flags"]["quantise"] = 4
    (copy / RUN_FILE).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"flags.quantise is 4; it must be one of \['none', 'nf4'\]; .*give --quantise"
    ):
        make_cloner(demo, adapter=copy)


@needs_bitsandbytes
def test_without_the_library_an_adapter_can_speak_in_full_precision(
    demo: Path, adapter: Path, library_is_absent: None
) -> None:
    with pytest.raises(InputError, match="was trained with --quantise nf4. .*pip install .*Or give --quantise none"):
        make_cloner(demo, adapter=adapter)
    assert make_cloner(demo, adapter=adapter, quantise="none").quantise == "none"


# -- merging -----------------------------------------------------------------------------------------------------------

DISTANCE = re.compile(
    r"compared with the adapter on nf4 weights, on which it was trained: text ([\d.e-]+) .*audio ([\d.e-]+) "
)


@needs_bitsandbytes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_merged_into_full_precision_and_the_distance_is_measured(
    demo: Path, adapter: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "merged"
    given = rename(adapter, tmp_path / "renamed", layout) if layout == TRANSFORMERS else adapter
    assert merge_adapter.main(arguments(demo, given, merged, layout)) == 0
    printed, card = capsys.readouterr().out, (merged / "README.md").read_text(encoding="utf-8")
    batch = fixed_batch(HiggsAudioModel.from_pretrained(merged).config)
    trained = our_logits(apply_adapter(in_full_precision(demo / "model"), read_adapter(adapter)), batch)
    distance = differences(our_logits(HiggsAudioModel.from_pretrained(merged), batch), trained)
    for text in (printed, card):
        found = DISTANCE.search(text)
        for head, shown in zip(("text", "audio"), found.groups(), strict=True):
            assert distance[head].largest > 1e-3
            assert float(shown) == pytest.approx(distance[head].largest, rel=0.01)
    (tmp_path / "plain").mkdir()
    merge(read_adapter(adapter), demo / "model", tmp_path / "plain", layout)
    one, other = (load_file(folder / "model.safetensors") for folder in (merged, tmp_path / "plain"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    # Its run.json says how the adapter was trained, not how the model is stored.
    assert json.loads((merged / RUN_FILE).read_text(encoding="utf-8"))["flags"]["quantise"] == NF4
    shutil.copytree(merged, tmp_path / "model")
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "audio_tokenizer")
    assert make_cloner(tmp_path).quantise == "none"


@needs_bitsandbytes
def test_without_the_library_it_is_merged_and_the_distance_is_not_measured(
    demo: Path, adapter: Path, tmp_path: Path, library_is_absent: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge_adapter.main(arguments(demo, adapter, tmp_path / "merged", "original")) == 0
    printed = capsys.readouterr().out
    assert "its difference to them is not measured: --quantise nf4 needs bitsandbytes" in printed
    assert "on which it was trained: not measured" in printed
    assert "on which it was trained: not measured" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
