"""The command that judges speech: what it prints and leaves, how it ends and goes on, and what it refuses."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from tests.chatml_files import write_clip, write_records
from tests.exported_adapters import random_adapter, tiny_model
from tests.training_runs import PROJECT, command, run
from tests.voice_cloning.evaluation.coded_sets import coded_set
from tests.voice_cloning.evaluation.judges import KnowsClips, Loudness
from tests.voice_cloning.speech.cloners import checkpoint_of
from tools import evaluate as tool
from tools import synthesize
from voice_cloning.evaluation import speaking
from voice_cloning.evaluation.naturalness import Dnsmos
from voice_cloning.evaluation.recognisers import RecogniserInFolder
from voice_cloning.evaluation.similarity import SpeakerModel
from voice_cloning.evaluation.test_sets import OUR_SENTENCES
from voice_cloning.speech import voice_cloner

KINDS = (".npy", ".wav")
CUT_EARLY = ("--greedy", "--slowest_letters_per_second", "9")


def flags(demo: Path, output: Path, *words: str | Path, test_set: Path | None = None) -> list[str]:
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    paths += ["--test_set", test_set or demo / "val_chatml_samples.json", "--output_dir", output, *CUT_EARLY]
    return [str(word) for word in (*paths, *words)]


def report_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if weights are loaded."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    for place, name in [(voice_cloner, "load_speaking_model"), (voice_cloner, "load_higgs_audio_tokenizer")]:
        monkeypatch.setattr(place, name, refuse)
    for kind in (RecogniserInFolder, SpeakerModel):
        monkeypatch.setattr(kind, "load", refuse)
    monkeypatch.setattr(Dnsmos, "score", refuse)


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut all clips after a few columns, which takes less time."""
    monkeypatch.setattr(voice_cloner.VoiceCloner, "most_columns", lambda _, piece: 12 + len(piece.text) // 2)


@pytest.fixture(scope="module")
def wavs(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The memorised clips, as tools.synthesize writes them."""
    folder = tmp_path_factory.mktemp("synthesised") / "wavs"
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    words = [
        "--adapter",
        checkpoint_of(memorised),
        "--manifest",
        demo / "four.json",
        "--output_dir",
        folder,
        "--greedy",
    ]
    assert synthesize.main([str(word) for word in (*paths, *words)]) == 0
    return folder


def test_finished_wavs_are_judged_beside_an_adapter(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    wavs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judges = {"find_recogniser": KnowsClips({}), "find_speaker_model": Loudness(), "load_mos": Loudness()}
    for name, judge in judges.items():
        monkeypatch.setattr(tool, name, lambda *_, found=judge: found)
    words = ["--adapter", checkpoint_of(memorised), "--wavs", wavs, "--no_base", "--asr", "a", "--speaker_model", "b"]
    assert tool.main(flags(demo, tmp_path / "out", *words, "--mos", "dnsmos", test_set=demo / "four.json")) == 0
    adapter, finished = report_of(tmp_path / "out")["systems"]
    assert (finished["name"], finished["kind"], finished["cost"]) == ("wavs", "wavs", {})
    same = {"stop_rate", "length_ratio", "sim_reference", "sim_recording", "mos", "silent_share", "wer_scoring"}
    for name in same:
        assert finished["figures"][name] == adapter["figures"][name], name
    assert "repeated_share" not in finished["figures"], "a waveform does not show codes"
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["ends", "checkpoint-000080", "wavs"]
    assert table[-1] == str(tmp_path / "out/report.html") and Path(table[-1]).is_file()


def test_the_base_is_loaded_once_for_all_adapters_and_a_merged_model_speaks_alone(
    demo: Path, short_clips: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = [
        random_adapter(tmp_path / name / "best", HiggsAudioModel.from_pretrained(demo / "model"), **settings)
        for name, settings in (("a", {"lora_rank": 4}), ("b", {"lora_rank": 8, "lora_targets": ["heads"]}))
    ]
    shutil.copytree(demo / "model", tmp_path / "merged")
    loaded, load = [], voice_cloner.load_speaking_model

    def counted(folder: Path, *rest: Any) -> Any:
        loaded.append(folder.name)
        return load(folder, *rest)

    monkeypatch.setattr(voice_cloner, "load_speaking_model", counted)
    out = tmp_path / "out"
    assert tool.main(flags(demo, out, "--adapter", *adapters, "--merged", tmp_path / "merged")) == 0
    assert loaded == ["model", "merged"]
    report = report_of(out)
    names = ["base", "a/best", "b/best", "merged"]
    assert [system["name"] for system in report["systems"]] == names
    codes = [sorted(path.read_bytes() for path in (out / "codes" / name).glob("*.npy")) for name in names]
    assert codes[3] == codes[0], "this merged model is a copy of the base"
    assert codes[0] != codes[1] != codes[2] != codes[0]
    assert report["systems"][3]["differences"]["stop_rate"]["value"] == 0.0


def test_a_retention_set_is_spoken_by_the_same_weights(
    demo: Path, short_clips: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(place: Any, name: str) -> None:
        load = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *given: loaded.append(name) or load(*given))

    for name in ("load_speaking_model", "load_higgs_audio_tokenizer"):
        counted(voice_cloner, name)
    out, same = tmp_path / "out", demo / "val_chatml_samples.json"
    assert tool.main(flags(demo, out, "--retention", same, test_set=same)) == 0
    assert sorted(loaded) == ["load_higgs_audio_tokenizer", "load_speaking_model"]
    report = report_of(out)
    assert report["retention"]["set"] == report["set"]
    clips = [sorted((folder / "codes/base").glob("*.npy")) for folder in (out, out / "retention")]
    assert [p.read_bytes() for p in clips[0]] == [p.read_bytes() for p in clips[1]]
    assert len(clips[0]) == report["set"]["sentences"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_after_an_interrupt_the_same_command_goes_on(
    demo: Path,
    short_clips: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    status: int,
) -> None:
    """The files at the end are those of a call that was not interrupted."""
    words = ["--batch_size", "2"]
    assert tool.main(flags(demo, tmp_path / "whole", *words)) == 0
    write = speaking.ClipFile.write
    written = []

    def interrupted(self: Any, *args: Any, **facts: Any) -> Any:
        if len(written) == 2:
            signal.raise_signal(number)
        written.append(self)
        return write(self, *args, **facts)

    monkeypatch.setattr(speaking.ClipFile, "write", interrupted)
    assert tool.main(flags(demo, tmp_path / "out", *words)) == status
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out/report.json").exists()
    monkeypatch.setattr(speaking.ClipFile, "write", write)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    assert len(before) == 2
    assert tool.main(flags(demo, tmp_path / "out", *words)) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    for path in (tmp_path / "whole").rglob("*.wav"):
        assert (tmp_path / "out" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    assert without_cost(report_of(tmp_path / "out")) == without_cost(report_of(tmp_path / "whole"))


def without_cost(report: dict[str, Any]) -> dict[str, Any]:
    for system in report["systems"]:
        system.pop("cost")
    return report


@pytest.mark.slow
def test_two_processes_leave_the_files_of_one(demo: Path, tmp_path: Path) -> None:
    words = ["--slowest_letters_per_second", "40", "--seeds", "0", "1", "--batch_size", "2"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert tool.main(flags(demo, one, *words)) == 0
    script = PROJECT / "tools/evaluate.py"
    launched = command(flags(demo, two, *words), 2, script)
    place = launched.index(str(script))
    launched[place : place + 1] = ["-m", "tools.evaluate"]
    done = run(launched)
    assert done.returncode == 0, done.stderr
    assert without_cost(report_of(one)) == without_cost(report_of(two))
    made = [sorted(p.relative_to(output) for p in output.rglob("*.*") if p.suffix in KINDS) for output in (one, two)]
    assert made[0] == made[1] and {path.suffix for path in made[0]} == set(KINDS)
    for path in made[0]:
        assert (two / path).read_bytes() == (one / path).read_bytes(), path


# -- wrong inputs ------------------------------------------------------------------------------------------------------


def errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert tool.main(arguments) == 1
    return capsys.readouterr().err


def test_a_folder_that_lacks_wavs_is_refused_with_all_of_them(
    demo: Path, wavs: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    some = tmp_path / "some"
    shutil.copytree(wavs, some)
    lacking = sorted(some.glob("*.wav"))[1:3]
    for path in lacking:
        path.unlink()
    (tmp_path / "none").mkdir()
    words = ["--asr", "a", "--wavs", some, tmp_path / "none"]
    said = errors(capsys, flags(demo, tmp_path / "out", *words, test_set=demo / "four.json"))
    assert "folders of WAVs that lack clips (6):" in said
    for path in lacking:
        assert f"--wavs {some}: no {path.name}" in said
        assert f"--wavs {tmp_path / 'none'}: no {path.name}" in said
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_is_refused(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = random_adapter(tmp_path / "a", HiggsAudioModel.from_pretrained(demo / "model"), lora_targets=["heads"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    wide = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(wide, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    said = errors(capsys, flags(demo, tmp_path / "out", "--adapter", adapter))
    assert f"--adapter {adapter}: was trained on another model" in said


def test_another_base_of_the_same_shape_is_printed_and_reported(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    short_clips: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(checkpoint_of(memorised), adapter)
    record = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    record["identity"]["model"] = "0123456789abcdef"
    (adapter / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert tool.main(flags(demo, tmp_path / "out", "--adapter", adapter, "--no_base")) == 0
    warning = "was trained on a base with the fingerprint 0123456789abcdef, and --model_path has"
    assert warning in capsys.readouterr().err
    assert warning in report_of(tmp_path / "out")["warnings"][0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no_base"], "there is no system to evaluate"),
        (["--adapter", "gone"], "--adapter gone: no such folder"),
        (["--select", "gone"], "--select gone: no such folder; give the --output_dir of a training run"),
        (["--select", "."], "--select .: 0 checkpoints in it"),
        (["--retention_bound", "0.2"], "--retention_bound 0.2: acts with --select and --retention alone"),
        (["--seeds", "0", "0"], "seeds are [0, 0]; give at least one, and each once"),
        (["--batch_size", "0"], "batch_size is 0; it must be at least 1"),
        (["--adapter_scale", "0.5"], "--adapter_scale 0.5: there is no --adapter to weaken"),
        (["--test_set", "gone.json"], "gone.json: no such file"),
        (["--asr_revision", "abc"], "--asr_revision is given without --asr"),
        (["--temperature", "0"], "temperature is 0.0; it must be a number above 0"),
        (["--model_path", "gone"], "--model_path gone: no such folder"),
    ],
)
def test_wrong_flags_are_named(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in errors(capsys, flags(demo, tmp_path / "out", *words))


def test_everything_that_is_wrong_is_named_at_once(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind that can be checked without weights, of the flags, the sets, the systems and the judges."""
    voice = {"reference": str(tmp_path / "gone.wav"), "reference_text": "نعم"}
    for again in ("gone.json", "none.tsv"):  # a set that both evaluations lack
        words = ["--retention", again, "--test_set", again]
        assert errors(capsys, flags(demo, tmp_path / "out", *words)).count(f"{again}: no such file") == 1
    kept = write_records(tmp_path / "kept.json", [{"id": "a", "text": "لا", **voice}])
    other = random_adapter(tmp_path / "wide", tiny_model(tmp_path / "base"))
    (tmp_path / "few").mkdir()
    words = ["--adapter", "gone", other, "--wavs", tmp_path / "few", "--asr", "nowhere", "--mos", "dnsmos"]
    words += ["--speaker_model", demo / "model", "--seeds", "0", "0", "--batch_size", "0", "--temperature", "0"]
    words += ["--slowest_letters_per_second", "0", "--select", "no_run", "--retention", kept, "--retention_bound", "2"]
    said = errors(capsys, flags(demo, tmp_path / "out", *words))
    for message in (
        "--adapter gone: no such folder",
        f"--adapter {other}: was trained on another model",
        f"--wavs {tmp_path / 'few'}: no ",
        "--asr nowhere: no such folder",
        f"--speaker_model {demo / 'model'}: no preprocessor_config.json",
        "seeds are [0, 0]; give at least one, and each once",
        "batch_size is 0; it must be at least 1",
        "temperature is 0.0; it must be a number above 0",
        "slowest_letters_per_second is 0.0; it must be above 0",
        "--select no_run: no such folder",
        "retention_bound is 2.0; it must be a share of words",
        "gone.wav: no such file",
    ):
        assert said.count(message) >= 1, message
    assert said.count("--adapter gone: no such folder") == said.count("another model") == 1, "once for both sets"
    assert not (tmp_path / "out").exists()


def test_wrong_flags_hide_no_wrong_set_and_no_wrong_system(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--no_base", "--test_set", "gone.json", "--asr_revision", "abc", "--device", "tpu"]
    said = errors(capsys, flags(demo, tmp_path / "out", *words))
    assert "there is no system to evaluate" in said and "gone.json: no such file" in said
    assert "--asr_revision is given without --asr" in said and "--device tpu: cannot be used" in said
    words = ["--model_path", "gone", "--retention_references", "voices.json", "--adapter_scale", "0.5"]
    said = errors(capsys, flags(demo, tmp_path / "out", *words, test_set=tmp_path / "none.tsv"))
    assert "--model_path gone: no such folder" in said and "--adapter_scale 0.5: there is no --adapter" in said
    assert f"{tmp_path / 'none.tsv'}" in said and "--retention_references voices.json: there is no --retention" in said


def test_a_folder_of_another_evaluation_is_refused_before_anything_is_loaded(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/evaluation.json").write_text('{"format": 1, "torch_dtype": "bfloat16"}')
    said = errors(capsys, flags(demo, tmp_path / "out", "--asr", "nowhere"))
    assert f"--output_dir {tmp_path / 'out'}: holds another evaluation" in said
    assert "--asr nowhere: no such folder" in said
    (tmp_path / "file").write_text("a note")
    assert "is a file; give a folder" in errors(capsys, flags(demo, tmp_path / "file"))


def test_the_help_shows_groups_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for group in ("set and output:", "systems:", "judges:", "prompts:", "speech:", "computation:"):
        assert group in said
    for default in ("(default: 0)", "(default: 8)", "(default: auto)", "(default: 0.95)", "(default: 1.0)"):
        assert default in said
    assert "None)" not in said and "False)" not in said and "[]" not in said


def test_an_adapter_given_twice_is_refused(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    no_weights: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapter = checkpoint_of(memorised)
    said = errors(capsys, flags(demo, tmp_path / "out", "--adapter", adapter, "--adapter", f"{adapter}/"))
    assert f"--adapter {adapter}: is given 2 times; give each folder once" in said


def test_wrong_items_are_named_together(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = {"reference": str(write_clip(tmp_path / "voice.wav", 3.0)), "reference_text": "نعم"}
    entries = [{"id": "a", "text": " ", **voice}, {"id": "b", "text": "لا", **voice}, {"id": "b", "text": "!", **voice}]
    said = errors(capsys, flags(demo, tmp_path / "out", test_set=write_records(tmp_path / "m.json", entries)))
    assert "a: text: ' ' has no words" in said and "b: text: '!' has no words" in said
    gone = [{"id": "a", "text": "لا", **voice, "reference": "gone.wav"}]
    said = errors(capsys, flags(demo, tmp_path / "out", test_set=write_records(tmp_path / "m.json", gone)))
    assert "references that cannot be used (1)" in said and "gone.wav: no such file" in said


def test_sentences_without_voices_need_some(
    demo: Path, short_clips: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = OUR_SENTENCES.read_text(encoding="utf-8").splitlines()
    test_set = tmp_path / "two.tsv"
    test_set.write_text("\n".join([lines[0], lines[1], lines[-1]]) + "\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(voice_cloner, "load_speaking_model", None)
        said = errors(capsys, flags(demo, tmp_path / "out", test_set=test_set))
        assert f"{test_set}" in said and "--references" in said
    voices = demo / "val_chatml_samples.json"
    assert tool.main(flags(demo, tmp_path / "out", "--references", voices, test_set=test_set)) == 0
    report = report_of(tmp_path / "out")
    assert (report["set"]["sentences"], report["set"]["speakers"]) == (2, 2)
    assert "length_ratio" not in report["systems"][0]["figures"], "there are no recordings"
    groups = report["systems"][0]["groups"]
    assert groups["speaker"].keys() == {"hana", "karim"} and len(groups["dialect"]) == 2 and len(groups["kind"]) == 2
    assert all(item["reference"] and item["recording"] is None for item in report["items"])


def test_judges_of_sound_need_a_codec(
    demo: Path, tmp_path: Path, no_weights: None, capsys: pytest.CaptureFixture[str]
) -> None:
    test_set, codes = coded_set(demo, tmp_path)
    words = ["--codes", codes, "--audio_tokenizer_path", "no_codec", "--mos", "dnsmos"]
    said = errors(capsys, flags(demo, tmp_path / "out", *words, test_set=test_set))
    assert "--audio_tokenizer_path no_codec: there is no codec, so speech stays codes" in said


def test_some_missing_recordings_are_refused_and_all_missing_are_printed(
    demo: Path, short_clips: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = json.loads((demo / "val_chatml_samples.json").read_text(encoding="utf-8"))[:2]
    for record in records:
        for message in record["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "audio":
                    part["audio_url"] = str(demo / part["audio_url"])
    records[0]["messages"][-1]["content"][-1]["audio_url"] = "gone.wav"
    path = write_records(tmp_path / "some.json", records)
    said = errors(capsys, flags(demo, tmp_path / "out", test_set=path))
    assert (
        "recordings of the test set that do not exist, while others do (1)" in said and "gone.wav: no such file" in said
    )
    records[1]["messages"][-1]["content"][-1]["audio_url"] = "lost.wav"
    path = write_records(tmp_path / "none.json", records)
    assert tool.main(flags(demo, tmp_path / "out", test_set=path)) == 0
    assert "none of the 2 recordings that the set names exists, such as gone.wav" in capsys.readouterr().err
    report = report_of(tmp_path / "out")
    assert "length_ratio" not in report["systems"][0]["figures"]
    assert report["items"][0]["recording"] is None and report["items"][0]["reference"] is not None
