"""Several adapters in one process: the base is loaded once, each entry is spoken by its own adapter, as if alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.errors import InputError, NamedError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.prompt_template import PromptTemplate
from tests.chatml_files import write_records
from tests.exported_adapters import random_adapter
from tools import evaluate, synthesize
from tools.studio import __main__ as studio
from voice_cloning.evaluation.run_selection import other_adapters
from voice_cloning.speech import voice_cloner
from voice_cloning.speech.adapter_folders import folder_lines, named_adapters
from voice_cloning.speech.manifest_voices import VoiceChoice, read_voiced_manifest
from voice_cloning.speech.voices import open_voices

DIALECTS: dict[str, dict[str, Any]] = {
    "gulf": {"use_dora": True},
    "hijazi": {"lora_rank": 8, "lora_targets": ["heads"]},
    "najdi": {"lora_targets": ["attention"]},
}
STYLES = {"gulf": "voice_clone", "hijazi": "as_written", "najdi": "voice_clone"}
SHORT = ("--greedy", "--retries", "0", "--keep_runaways")


@pytest.fixture(scope="module")
def adapters(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters by dialect, and a sub-folder with none."""
    root = tmp_path_factory.mktemp("dialects") / "adapters"
    torch.manual_seed(0)  # with some weights, an adapter speaks two short texts alike
    for name, settings in DIALECTS.items():
        random_adapter(root / name, HiggsAudioModel.from_pretrained(demo / "model"), **settings)
        run = {"flags": {"prompt_style": STYLES[name], "text_normalisation": "none", "quantise": "none"}}
        (root / name / "run.json").write_text(json.dumps(run), encoding="utf-8")
    (root / "notes").mkdir()
    (root / ".hidden").mkdir()
    return root


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of the models that are loaded. All clips are cut after a few columns, which takes less time."""
    folders: list[str] = []
    load = voice_cloner.load_speaking_model
    monkeypatch.setattr(voice_cloner, "load_speaking_model", lambda *args: folders.append(args[0].name) or load(*args))
    monkeypatch.setattr(voice_cloner.VoiceCloner, "most_columns", lambda _, piece: 12 + len(piece.text) // 2)
    return folders


def flags(demo: Path, *words: str | Path) -> list[str]:
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    return [str(word) for word in (*paths, *words)]


def entry(demo: Path, name: str, text: str = "نعم", **more: Any) -> dict[str, Any]:
    clip = str(demo / "clips/amal/train_01.wav")
    return {"id": name, "text": text, "reference": clip, "reference_text": "كيف حالك اليوم", **more}


def record(demo: Path, name: str, **misc: Any) -> dict[str, Any]:
    """A ChatML record with absolute paths."""
    raw = json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8"))[0]
    for message in raw["messages"]:
        for content in message["content"] if isinstance(message["content"], list) else []:
            if content.get("audio_url"):
                content["audio_url"] = str(demo / content["audio_url"])
    return {**raw, "misc": {**raw["misc"], "sample_id": name, **misc}}


@pytest.fixture
def wrong(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run tools.synthesize on wrong input. Return what it prints."""

    def run(arguments: list[str]) -> str:
        assert synthesize.main(arguments) == 1
        return capsys.readouterr().err

    return run


def test_each_entry_is_spoken_by_its_own_adapter_as_if_that_were_alone(
    demo: Path, adapters: Path, tmp_path: Path, loaded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"n1": "نعم", "h1": "لا", "b1": "شكرا", "g1": "صباح الخير", "n2": "كلا"}
    voice_of = {"n": "najdi", "h": "hijazi", "b": "base", "g": "gulf"}
    entries = [entry(demo, name, text, adapter=voice_of[name[0]]) for name, text in texts.items()]
    entries.append(record(demo, "h2", adapter="hijazi"))
    out = tmp_path / "out"
    words = ["--manifest", write_records(tmp_path / "all.json", entries), "--output_dir", out, *SHORT]
    synthesize.main(flags(demo, *words, "--adapter", adapters))
    assert loaded == ["model"]
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()[1:7]] == [*texts, "h2"]
    assert [line.split()[-1] for line in printed.out.splitlines()[:7]] == [
        "adapter",
        *("najdi", "hijazi", "base", "gulf", "najdi", "hijazi"),
    ]
    assert f"{adapters}: 3 adapters in it, gulf, hijazi, najdi; without an adapter: notes" in printed.err
    assert "hijazi: prompt_style as_written, text_normalisation none" in printed.err
    spoken = {path.name: path.read_bytes() for path in out.glob("*.wav")}
    assert len(spoken) == len(set(spoken.values())) == len(entries)
    for letter, voice in voice_of.items():
        own = [{k: v for k, v in raw.items() if k != "adapter"} for raw in entries if raw_name(raw)[0] == letter]
        words[1] = write_records(tmp_path / f"{voice}.json", own)
        alone = ["--adapter", adapters / voice] if voice != "base" else []
        synthesize.main(flags(demo, *words, *alone))
        assert "exists" in capsys.readouterr().out, "the same identity: nothing is spoken again"
        words[3] = tmp_path / voice
        synthesize.main(flags(demo, *words, *alone))
        words[3] = out
        for path in (tmp_path / voice).glob("*.wav"):
            assert path.read_bytes() == spoken[path.name], path.name
    assert loaded == ["model"] * 5


def raw_name(raw: dict[str, Any]) -> str:
    return raw["id"] if "id" in raw else raw["misc"]["sample_id"]


def test_one_text_names_its_adapter(
    demo: Path, adapters: Path, tmp_path: Path, loaded: list[str], wrong: Callable[..., str]
) -> None:
    words = ["--text", "نعم", "--reference", demo / "clips/amal/train_01.wav", "--reference_text", "كيف حالك"]
    words += ["--output", tmp_path / "out.wav", *SHORT, "--adapter", adapters / "najdi", adapters / "gulf"]
    assert "--adapter_name is missing; give one of najdi, gulf, base" in wrong(flags(demo, *words))
    said = wrong(flags(demo, *words, "--adapter_name", "Najdi"))
    assert "--adapter_name Najdi: there is no such adapter; there are najdi, gulf, base" in said
    assert loaded == []
    synthesize.main(flags(demo, *words, "--adapter_name", "gulf"))
    record = json.loads((tmp_path / "out.runaway.wav.json").read_text(encoding="utf-8"))
    assert record["made_of"]["adapter"] and loaded == ["model"]


def test_what_is_wrong_with_the_choice_is_named_at_once(
    demo: Path, adapters: Path, tmp_path: Path, loaded: list[str], wrong: Callable[..., str]
) -> None:
    entries = [
        entry(demo, "a", adapter="nejdi"),
        entry(demo, "b"),
        entry(demo, "c", adapter=3),
        entry(demo, "d", adapter="", text=" "),
        record(demo, "e", adapter=["najdi"]),
        record(demo, "f", dialect="najdi"),
        entry(demo, "g", adapter="najdi"),
    ]
    words = ["--manifest", write_records(tmp_path / "m.json", entries), "--output_dir", tmp_path / "out"]
    said = wrong(flags(demo, *words, "--adapter", adapters))
    there_are = "gulf, hijazi, najdi, base"
    assert "cannot be spoken (7):" in said
    assert f"a: adapter: 'nejdi'; there is no such adapter; there are {there_are}" in said
    assert f"b: adapter: missing; name one of {there_are}, or give --adapter_name" in said
    assert "c: adapter: 3; it must be a string that is not empty" in said
    assert "d: adapter: ''; it must be a string that is not empty" in said and "d: text: ' ' has no words" in said
    assert f"e: misc.adapter: ['najdi']; there is no such adapter; there are {there_are}" in said
    assert "f: misc.adapter: missing" in said and "\n  g: " not in said
    nothing = ["--adapter", tmp_path / "dialects", adapters / "notes"]
    said = wrong(flags(demo, *words, *nothing))
    assert f"--adapter {nothing[1]}: no such folder" in said
    assert f"--adapter {nothing[2]}: holds no adapter, and none of its sub-folders is one" in said
    said = wrong(flags(demo, *words, *nothing, "--adapter_name", "najdi"))
    assert f"there are dialects, notes, base; --adapter {nothing[1]}: no such folder; --adapter {nothing[2]}: " in said
    assert "--adapter_name x: there is no --adapter" in wrong(flags(demo, *words, "--adapter_name", "x"))
    assert "a: adapter: 'nejdi'; there is no such adapter; there are base" in wrong(flags(demo, *words))
    by = ["--adapter", adapters, "--adapter_by", "dialect"]
    said = wrong(flags(demo, *words, *by))
    by_it = f"with --adapter_by it names the adapter; there are {there_are}; name one in adapter, or give"
    assert f"b: dialect: missing; {by_it} --adapter_name for all such entries" in said
    assert "f: " not in said
    assert loaded == []


def test_one_manifest_is_for_adapters_with_and_without_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each prompt takes the fields that it has. An entry whose adapter is unknown has no prompt that lacks a field."""
    template = PromptTemplate("{reference_text}", "{target_text}", system="In {scene}: {dialect}")
    style_of = {"najdi": template, "gulf": "voice_clone", "base": "voice_clone"}
    fields = {"text": "نعم", "reference": "a.wav", "reference_text": "كيف", "scene": "a car", "speaker": "amal"}
    voices = {"a": "najdi", "b": "gulf", "c": "base", "d": "najid", "e": "najdi"}
    entries = [{"id": name, "adapter": voice, **fields} for name, voice in voices.items()]
    entries[0]["dialect"] = "Najdi"
    manifest = write_records(tmp_path / "m.json", entries)
    choice = VoiceChoice(["najdi", "gulf"], None)
    requests, spoken_by, problems = read_voiced_manifest(manifest, choice, lambda voice: (style_of[voice], "none"), 99)
    assert spoken_by == {"a": "najdi", "b": "gulf", "c": "base"}
    systems = [request.pieces[0].sample.messages[0].content[0].text for request in requests]
    assert systems == ["In a car: Najdi", *["Generate audio following instruction."] * 2]
    assert problems[0] == "d: adapter: 'najid'; there is no such adapter; there are najdi, gulf, base"
    assert len(problems) == 2 and problems[1].startswith("e: dialect: missing, and the prompt template uses {dialect}")
    lines = capsys.readouterr().err.splitlines()
    assert "scene of 1 entries is not sent: the prompts of gulf have no {scene}" in lines
    assert len(lines) == 5 and "speaker of 2 entries is not sent: the prompts of najdi have no {speaker}" in lines


def test_the_dialect_of_an_entry_names_its_adapter_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    choice = VoiceChoice(["najdi", "gulf", "Gulf"], "base", by_dialect=True)
    chosen = {"najdi": "najdi", "Najdi": "najdi", "gulf": "gulf", "Gulf": "Gulf", "GULF": "base", "iraqi": "base"}
    for dialect, voice in chosen.items():
        assert choice.of_entry({"dialect": dialect}) == (voice, None)
        assert choice.of_entry({"messages": [], "misc": {"dialect": dialect}}) == (voice, None)
        assert choice.of_entry({"dialect": dialect, "adapter": "gulf"}) == ("gulf", None)
    assert choice.of_entry({"dialect": None}) == choice.of_entry({"messages": [], "misc": None}) == ("base", None)
    assert VoiceChoice(["najdi"], "najdi").of_entry({"dialect": "gulf"}) == ("najdi", None)


def test_dialects_that_the_default_speaks_are_printed(
    demo: Path, adapters: Path, tmp_path: Path, wrong: Callable[..., str]
) -> None:
    entries = [entry(demo, name, dialect=name, text=" ") for name in ("najdi", "iraqi", "libyan")]
    words = ["--manifest", write_records(tmp_path / "m.json", entries), "--output_dir", tmp_path / "out"]
    words += ["--adapter", adapters, "--adapter_by", "dialect", "--adapter_name", "base"]
    said = wrong(flags(demo, *words))
    assert "2 entries have a dialect without an adapter and are spoken by base:\n  iraqi\n  libyan\n" in said


def test_names_of_adapters_are_those_of_their_folders(adapters: Path, tmp_path: Path) -> None:
    assert named_adapters([adapters]) == {name: adapters / name for name in DIALECTS}
    assert list(named_adapters([adapters / "najdi"])) == ["najdi"]
    other = tmp_path / "adapters"
    other.mkdir()
    (other / "najdi").symlink_to(adapters / "gulf")
    assert list(named_adapters([other])) == ["najdi"], "a link has a name of its own"
    found = named_adapters([adapters / "najdi", adapters / "hijazi", other])
    assert [name.split("/")[-2:] for name in found][1:] == [["hijazi"], ["adapters", "najdi"]]
    with pytest.raises(InputError, match="--adapter: given twice .1.:\n  .*gulf"):
        named_adapters([adapters, other])
    assert folder_lines([adapters / "najdi", tmp_path / "absent"]) == []
    others = other_adapters([str(adapters)], [adapters / "gulf"])  # those of --select are evaluated anyway
    assert others == [str(adapters / "hijazi"), str(adapters / "najdi")]
    (other / "run" / "checkpoint-000200").mkdir(parents=True)
    with pytest.raises(InputError, match="run: holds checkpoints of a run and is no adapter; give"):
        named_adapters([other])


def test_adapters_that_do_not_fit_are_named_together(
    demo: Path, adapters: Path, tmp_path: Path, wrong: Callable[..., str]
) -> None:
    for name in ("cut", "four_bits", "najdi"):
        shutil.copytree(adapters / "najdi", tmp_path / "adapters" / name)
    weights = tmp_path / "adapters/cut/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    run = tmp_path / "adapters/four_bits/run.json"
    run.write_text(run.read_text().replace('"none"}', '"nf4"}'))
    parts = {"model_path": str(demo / "model"), "audio_tokenizer_path": str(demo / "audio_tokenizer"), "device": "cpu"}
    with pytest.raises(InputError) as raised:
        open_voices(named_adapters([tmp_path / "adapters"]), **parts)
    assert "cut: adapter_model.safetensors is damaged" in str(raised.value)
    assert "trained with different --quantise" in str(raised.value)
    for name in ("cut", "najdi"):
        (tmp_path / "adapters" / name / "run.json").write_text("{}")
    entries = [entry(demo, name, adapter=name) for name in ("cut", "four_bits", "najdi")]
    words = ["--manifest", write_records(tmp_path / "m.json", entries), "--output_dir", tmp_path / "out"]
    said = wrong(flags(demo, *words, "--adapter", tmp_path / "adapters"))
    assert all(f"{name}/run.json: does not have flags.prompt_style" in said for name in ("cut", "najdi"))


def test_an_adapter_of_another_base_is_told(
    demo: Path, adapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(adapters / "najdi", tmp_path / "najdi")
    run = {**json.loads((tmp_path / "najdi/run.json").read_text()), "base_fingerprint": "0123456789abcdef"}
    (tmp_path / "najdi/run.json").write_text(json.dumps(run))
    parts = {"model_path": str(demo / "model"), "audio_tokenizer_path": str(demo / "audio_tokenizer"), "device": "cpu"}
    voices = open_voices(named_adapters([tmp_path / "najdi", adapters / "gulf"]), **parts, adapter_scale=1.0)
    assert list(voices) == ["base", "najdi", "gulf"]
    said = capsys.readouterr().err
    assert f"{tmp_path / 'najdi'}: was trained on a base with the fingerprint 0123456789abcdef" in said
    assert "gulf" not in said


def test_evaluate_and_the_studio_take_the_folder_and_load_the_base_once(
    demo: Path, adapters: Path, tmp_path: Path, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test_set = write_records(tmp_path / "set.json", [entry(demo, "a"), entry(demo, "b", "لا")])
    words = ["--adapter", adapters, "--test_set", test_set, "--output_dir", tmp_path / "out", "--greedy"]
    assert evaluate.main(flags(demo, *words)) == 0
    assert loaded == ["model"]
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in report["systems"]] == ["base", *DIALECTS]
    codes = [(tmp_path / "out/codes" / name / "a.0.npy").read_bytes() for name in ("base", *DIALECTS)]
    assert len(set(codes)) == len(codes)
    monkeypatch.setattr(studio, "require_gradio", lambda: None)
    monkeypatch.setattr(studio, "check_address", lambda *_: None)
    systems = studio.checked_systems(studio.parse_arguments(flags(demo, "--adapter", adapters)))
    systems.load()
    assert systems.names == ["base", *DIALECTS] and loaded == ["model"] * 2
    with (
        systems.cloners["najdi"].speaking(),
        pytest.raises(NamedError, match=r"/gulf \(fingerprints .*\) cannot speak while .*/najdi "),
    ):
        _ = systems.cloners["gulf"].model
