"""A run with a prompt template: trained, resumed, spoken and evaluated from the adapter's folder alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.prompt_template import PromptTemplate
from tests.chatml_files import write_records
from tests.spoken_runs import TINY
from tests.training_runs import metrics, trainer
from tests.voice_cloning.corpora.packed_data import pack
from tests.voice_cloning.speech.cloners import entry_of, make_cloner
from tools import evaluate, synthesize
from voice_cloning.adapters.serving import check_tokenizer
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.summary import PlannedRun
from voice_cloning.speech import voice_cloner
from voice_cloning.speech.adapter_run import style_of_adapter
from voice_cloning.speech.requests import read_manifest
from voice_cloning.speech.voice_cloner import VoiceCloner

TEMPLATE = {
    "system": "Generate audio following instruction.",
    "scene": "Audio is recorded from a quiet room.\nDialect: {dialect}",
    "reference_text": "{reference_text}",
    "target_text": "{target_text}",
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.json"
    path.write_text(json.dumps(TEMPLATE, indent=2), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(demo: Path) -> Path:
    """Four records, each with a dialect, which the template needs."""
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))[:4]
    for number, record in enumerate(records):
        record["misc"]["dialect"] = ("Najdi", "Hijazi")[number % 2]
    return write_records(demo / "dialects.json", records)


def run_flags(data: Path, **overrides: Any) -> dict[str, Any]:
    return {"data_path": data, "eval_data_path": data, "max_steps": 2, "eval_steps": 2, "save_steps": 2, **overrides}


@pytest.fixture(scope="module")
def adapter(demo: Path, data: Path, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of two steps, whose run also spoke two samples as codes. The template's file is gone afterwards."""
    output = tmp_path_factory.mktemp("run") / "out"
    subject = trainer(demo, output, **run_flags(data, prompt_template=template, num_scored_samples=2, num_samples=0))
    first = subject.components.data.train_dataset[0]
    prompt = subject.components.data.train_dataset.text_to_speak(0)
    assert prompt == entry_of(json.loads(data.read_text(encoding="utf-8"))[0])["text"]
    assert first.label_ids[-4:].min() >= 0
    subject.train()
    assert any("eval_spoken_clips" in line or "spoken_clips" in line for line in metrics(output))
    template.unlink()
    return output / "checkpoint-000002"


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut all clips after a few columns, which takes less time."""
    monkeypatch.setattr(voice_cloner.VoiceCloner, "most_columns", lambda _, piece: 14)


def test_the_template_lies_beside_the_adapter(adapter: Path) -> None:
    flags = json.loads((adapter / "run.json").read_text(encoding="utf-8"))["flags"]
    saved = PromptTemplate.read(str(adapter / "prompt_template.json"))
    assert saved.text() == flags["prompt_template"] and saved == PromptTemplate.read(json.dumps(TEMPLATE))


def test_the_prompt_of_synthesis_is_the_head_of_the_training_ids(
    demo: Path, data: Path, adapter: Path, tmp_path: Path
) -> None:
    cloner = make_cloner(demo, adapter=adapter)
    trained = trainer(demo, tmp_path / "again", **run_flags(data, prompt_template=json.dumps(TEMPLATE)))
    dataset = trained.components.data.train_dataset
    requests, problems = read_manifest(data, cloner.prompt_style)
    assert problems == []
    for index, request in enumerate(requests):
        ids = cloner.prompt(request.pieces[0], data.parent).input_ids
        assert torch.equal(ids, dataset[index].input_ids[: len(ids)])
        shown = cloner.tokenizer.decode(ids)
        dialect = ("Najdi", "Hijazi")[index % 2]
        assert f"<|scene_desc_start|>\n{TEMPLATE['scene'].format(dialect=dialect)}\n<|scene_desc_end|>" in shown


def test_a_run_resumes_with_its_own_template_alone(demo: Path, data: Path, adapter: Path, tmp_path: Path) -> None:
    """Its file is gone: the run holds it."""
    how = run_flags(data, num_scored_samples=2, num_samples=0)
    assert trainer(demo, adapter.parent, **how).train().finished
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**TEMPLATE, "system": "Speak."}), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"holds another run[^$]*flags.prompt_template: was '.*Generate.*', is '.*Speak"
    ):
        trainer(demo, adapter.parent, **how, prompt_template=other)


def synthesis_of(demo: Path, adapter: Path, *words: str | Path) -> list[str]:
    model = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    return [str(word) for word in [*model, "--adapter", adapter, "--greedy", "--keep_runaways", *words]]


@pytest.mark.usefixtures("short_clips")
def test_a_text_is_spoken_with_the_template_of_the_adapter(
    demo: Path, data: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = entry_of(json.loads(data.read_text(encoding="utf-8"))[0])
    texts = ["--text", entry["text"], "--reference", demo / entry["reference"]]
    texts += ["--reference_text", entry["reference_text"], "--output", tmp_path / "a.wav"]
    assert synthesize.main(synthesis_of(demo, adapter, *texts)) == 1
    assert "--dialect: missing, and the prompt template uses {dialect}; give it" in capsys.readouterr().err
    assert synthesize.main(synthesis_of(demo, adapter, *texts, "--dialect", "Najdi", "--scene", "x")) == 1
    assert "--scene: the prompt has no {scene}; leave it out" in capsys.readouterr().err
    assert synthesize.main(synthesis_of(demo, adapter, *texts, "--dialect", "Najdi")) == 3, "14 columns are too few"
    assert "voice_clone with the template " in (tmp_path / "a.runaway.wav.json").read_text(encoding="utf-8")
    manifest = write_records(tmp_path / "m.json", [entry, {**entry, "id": "b", "dialect": "Najdi"}])
    assert synthesize.main(synthesis_of(demo, adapter, "--manifest", manifest, "--output_dir", tmp_path / "many")) == 1
    assert f"{entry['id']}: dialect: missing" in (said := capsys.readouterr().err) and "b: dialect" not in said


@pytest.mark.usefixtures("short_clips")
def test_an_evaluation_takes_the_template_of_the_adapter(demo: Path, data: Path, adapter: Path, tmp_path: Path) -> None:
    model = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    words = [*model, "--adapter", adapter, "--test_set", data, "--output_dir", tmp_path / "out", "--greedy"]
    assert evaluate.main([str(word) for word in words]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    styles = {system["name"]: system["prompt_style"] for system in report["systems"]}
    template = PromptTemplate.read(str(adapter / "prompt_template.json"))
    assert styles == {"base": "voice_clone", adapter.name: str(template)}
    assert any("the systems differ in prompt_style" in warning for warning in report["warnings"])


def test_records_without_a_field_are_named_before_any_weight(demo: Path, tmp_path: Path) -> None:
    how = run_flags(demo / "val_chatml_samples.json", prompt_template=json.dumps(TEMPLATE))
    with pytest.raises(InputError, match=r"misc.dialect: missing, and the prompt template uses \{dialect\}") as caught:
        trainer(demo, tmp_path / "out", **how)
    assert str(caught.value).count("misc.dialect: missing") > 3
    assert not (tmp_path / "out").exists()


def test_the_start_shows_the_first_prompt_and_who_can_send_it(
    demo: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trainer(demo, tmp_path / "out", **run_flags(data, prompt_template=json.dumps(TEMPLATE)))
    told = next(line for line in caplog.messages if line.startswith("the first sample's prompt: "))
    assert "<|scene_desc_start|>\\nAudio is recorded from a quiet room.\\nDialect: Najdi\\n<|scene_desc_end|>" in told
    assert told.endswith("<|start_header_id|>assistant<|end_header_id|>\\n\\n<|audio_out_bos|>")
    assert any("vLLM-Omni (/v1/audio/speech) (it never sends a scene)" in line for line in caplog.messages)


def test_the_two_records_of_the_template_must_agree(demo: Path, adapter: Path, tmp_path: Path) -> None:
    """``run.json`` and ``prompt_template.json``; without the first, the second counts alone."""
    copied = shutil.copytree(adapter, tmp_path / "adapter")
    saved = copied / "prompt_template.json"
    template = style_of_adapter(copied)
    assert isinstance(template, PromptTemplate)
    saved.write_text(json.dumps({**TEMPLATE, "system": "Speak."}), encoding="utf-8")
    with pytest.raises(InputError, match="prompt_template.json: is not the template of the training: .*run.json says"):
        make_cloner(demo, adapter=copied)
    assert make_cloner(demo, adapter=copied, prompt_style="voice_clone").prompt_style == "voice_clone"
    saved.unlink()
    assert style_of_adapter(copied) == template
    shutil.copyfile(adapter / "prompt_template.json", saved)
    (copied / "run.json").unlink()
    assert style_of_adapter(copied) == template
    for wrong in (5, "t.json", "{}"):
        (copied / "run.json").write_text(
            json.dumps({"flags": {"prompt_style": "voice_clone", "prompt_template": wrong}})
        )
        with pytest.raises(InputError, match=r"run.json: flags.prompt_template( is |: not a prompt template)"):
            style_of_adapter(copied)


def test_an_adapter_of_an_earlier_release_speaks_as_before() -> None:
    cloner = VoiceCloner(
        model_path=str(TINY / "model"),
        audio_tokenizer_path="no_codec",
        codes=[TINY / "codes.safetensors"],
        adapter=TINY / "run" / "checkpoint-000003",
        device="cpu",
    )
    assert cloner.prompt_style == "as_written"
    (first, *_), problems = read_manifest(TINY / "val.json", cloner.prompt_style)
    assert problems == []
    (spoken,) = cloner.speak_pieces([(first.pieces[0], TINY)], [0])
    assert spoken.codes.shape[0] == 8 and spoken.codes.shape[1] > 0


def test_a_model_without_the_tokens_of_scenes_is_refused_everywhere(
    demo: Path, data: Path, adapter: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(demo / "model", tmp_path / "model")
    tokenizer = model / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8").replace("scene_desc_", "other_"), encoding="utf-8")
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "audio_tokenizer")
    text = json.dumps(TEMPLATE)
    how, run = run_flags(data, model_path=model, prompt_template=text), PlannedRun(prompt_template=text)
    for start in (
        lambda: trainer(demo, tmp_path / "out", **how),
        lambda: pack(tmp_path, data, tmp_path / "packed", prompt_style="voice_clone", prompt_template=text),
        lambda: VoiceCloner(
            model_path=str(model), audio_tokenizer_path=str(demo / "audio_tokenizer"), adapter=adapter, device="cpu"
        ),
        lambda: check_files([data], tmp_path / "check", run=run, model_path=str(model), num_workers=1),
        lambda: check_tokenizer(model, HiggsAudioConfig.from_pretrained(model), PromptTemplate.read(text)),
    ):
        with pytest.raises(InputError, match=r"<\|scene_desc_start\|> is missing in the tokenizer, and the prompt"):
            start()


def test_the_data_check_finds_records_without_a_field(data: Path, tmp_path: Path) -> None:
    records = json.loads(data.read_text(encoding="utf-8"))
    del records[1]["misc"]["dialect"]
    path = write_records(data.parent / "one_without.json", records)
    run = PlannedRun(prompt_template=json.dumps(TEMPLATE))
    report = check_files([path], tmp_path / "check", run=run, num_workers=1, speaker_model="none")
    (error,) = report["errors"]
    assert error["kind"] == "malformed_record" and list(error["details"]) == [records[1]["misc"]["sample_id"]]
    assert report["summary"]["settings"]["prompt_template"] == PromptTemplate.read(json.dumps(TEMPLATE)).text()
