"""A whole evaluation of the demo: what it says is true, and nothing is made or judged twice."""

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
from safetensors.torch import load_file

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from tests.goldens import SHARED_DIR
from tests.voice_cloning.evaluation.coded_sets import coded_set
from tests.voice_cloning.evaluation.judges import WRONG_WORDS, KnowsClips, Loudness, settings_of
from tests.voice_cloning.speech.cloners import checkpoint_of, targets
from voice_cloning.evaluation.evaluation import evaluate
from voice_cloning.evaluation.recognisers import Heard
from voice_cloning.speech import voice_cloner

SPEAKS_DIR = SHARED_DIR / "speaks"
needs_speaks = pytest.mark.skipif(not SPEAKS_DIR.is_dir(), reason="../shared/speaks is absent")
FIGURES = {"value", "low", "high", "n", "method"}


@pytest.fixture(scope="module")
def recogniser(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> KnowsClips:
    records = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    texts = [record["misc"]["target_transcript"] for record in records]
    return KnowsClips(dict(zip(texts, targets(memorised), strict=True)))


@pytest.fixture(scope="module")
def adapter(memorised: ArabicVoiceCloningDistributedTrainer) -> str:
    return str(checkpoint_of(memorised))


@pytest.fixture(scope="module")
def evaluated(
    demo: Path, adapter: str, recogniser: KnowsClips, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The folder and the report of base and adapter."""
    folder = tmp_path_factory.mktemp("evaluated") / "out"
    judge = Loudness()
    settings = settings_of(demo, folder, adapters=(adapter,))
    report = evaluate(settings, recogniser=recogniser, speaker_model=judge, mos=judge)
    return folder, report


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if weights are loaded."""

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(voice_cloner, "load_speaking_model", refuse)


def test_the_memorised_clips_are_right_and_those_of_the_base_are_not(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, report = evaluated
    base, adapter = report["systems"]
    assert (base["name"], base["kind"]) == ("base", "base")
    assert (adapter["name"], adapter["kind"]) == ("checkpoint-000080", "adapter")
    right = {
        name: adapter["figures"][name]["value"] for name in ("stop_rate", "length_ratio", "wer_scoring", "cer_scoring")
    }
    assert right == {"stop_rate": 1.0, "length_ratio": 1.0, "wer_scoring": 0.0, "cer_scoring": 0.0}
    assert base["figures"]["stop_rate"]["value"] < 0.5
    assert base["figures"]["wer_scoring"]["value"] >= 0.9
    assert adapter["differences"]["wer_scoring"]["value"] == pytest.approx(-base["figures"]["wer_scoring"]["value"])
    assert adapter["differences"]["stop_rate"]["value"] == 1.0 - base["figures"]["stop_rate"]["value"]
    assert base["differences"] == {}
    assert report["scales"]["wer_scoring"]["recordings through the codec"]["value"] == 0.0
    own = report["scales"]["sim_reference"]
    assert own["true recordings"]["value"] > own["other speakers"]["value"]
    decoded = report["scales"]["sim_recording"]["recordings through the codec"]["value"]
    assert adapter["figures"]["sim_recording"]["value"] == decoded, "its clips are the codes of the recordings"


def test_the_report_has_the_promised_form(evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, report = evaluated
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == report
    assert report["set"] == {"name": "four.json", "kind": "chatml", "sentences": 4, "speakers": 4}
    assert (report["recogniser"], report["speaker_model"], report["mos"]) == ("knows-clips", "loudness", "loudness")
    assert (report["format"], report["seeds"], report["confidence"], report["retention"]) == (1, [0], 0.95, None)
    names = {"stop_rate", "length_ratio", "length_ratio_p5", "length_ratio_p95", "repeated_share", "silent_share"}
    names |= {"characters_per_second", "wer_scoring", "cer_scoring", "wer_published", "cer_published"}
    names |= {"sim_reference", "sim_recording", "mos"}
    for system in report["systems"]:
        assert system["figures"].keys() == names
        assert all(interval.keys() == FIGURES for interval in system["figures"].values())
        assert system["groups"]["speaker"].keys() == {"amal", "badr", "dina", "faris"}
        assert system["groups"]["speaker"]["amal"]["stop_rate"]["n"] == 1
        assert system["groups"]["dialect"] == {} and system["groups"]["length"].keys() == {"short"}
        assert system["cost"].keys() == {"real_time_factor", "peak_memory_gb"}
    item = report["items"][0]
    assert item["clips"].keys() == {"base", "checkpoint-000080"}
    (clip,) = item["clips"]["checkpoint-000080"]
    assert clip["recognised"] == item["text"] and clip["errors"]["scoring"]["word_errors"] == 0
    for path in (item["reference"], item["recording"], clip["audio"]):
        assert soundfile.info(folder / path).frames > 0
    assert clip["seconds"] == pytest.approx(soundfile.info(folder / clip["audio"]).duration, abs=1e-3)


def test_the_same_call_makes_and_judges_nothing_again(
    demo: Path, adapter: str, recogniser: KnowsClips, evaluated: tuple[Path, dict[str, Any]], no_weights: None
) -> None:
    folder, report = evaluated
    judge, heard = Loudness(), recogniser.heard
    settings = settings_of(demo, folder, adapters=(adapter,), batch_size=3)
    again = evaluate(settings, recogniser=recogniser, speaker_model=judge, mos=judge)
    assert again == report
    assert (recogniser.heard, judge.heard) == (heard, 0)


def test_only_what_is_missing_changed_or_new_is_made(
    demo: Path, adapter: str, recogniser: KnowsClips, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(evaluated[0], folder)
    one, other = sorted((folder / "audio/base").iterdir())[:2]
    one.write_bytes(one.read_bytes()[:-10])
    (folder / "codes/base" / f"{other.stem}.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("codes/*/*.npy")}
    heard = recogniser.heard
    report = evaluate(settings_of(demo, folder, adapters=(adapter,)), recogniser=recogniser)
    made = {path.relative_to(folder).as_posix() for path, then in kept.items() if path.stat().st_mtime_ns != then}
    assert made == {f"codes/base/{one.stem}.npy", f"codes/base/{other.stem}.npy"}
    assert recogniser.heard == heard, "the clips are the same as before, so they were judged before"
    assert [s["figures"]["wer_scoring"] for s in report["systems"]] == [
        s["figures"]["wer_scoring"] for s in evaluated[1]["systems"]
    ]
    assert "mos" not in report["systems"][0]["figures"]


def test_another_set_or_other_settings_need_another_folder(
    demo: Path, evaluated: tuple[Path, dict[str, Any]], tmp_path: Path, no_weights: None
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(evaluated[0], folder)
    with pytest.raises(
        InputError, match="(?s)holds another evaluation.*sampling.do_sample: was False, is True"
    ) as raised:
        evaluate(settings_of(demo, folder, greedy=False))
    assert "test_set" not in str(raised.value)
    with pytest.raises(InputError, match="(?s)holds another evaluation.*test_set.name: was 'four.json'"):
        evaluate(settings_of(demo, folder, test_set=demo / "val_chatml_samples.json"))
    (folder / "evaluation.json").unlink()
    with pytest.raises(InputError, match="holds another report"):
        evaluate(settings_of(demo, folder))


def test_codes_alone_are_judged_by_a_recogniser_of_codes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_cloner.VoiceCloner, "most_columns", lambda *_: 20)
    test_set, path = coded_set(demo, tmp_path)
    true = {name: codes.long() for name, codes in load_file(path).items()}
    recogniser = KnowsClips({"كيف حالك": true["0_target.wav"]})
    fields = {"codes": (str(path),), "audio_tokenizer_path": "no_codec", "prompt_style": "as_written"}
    settings = settings_of(demo, tmp_path / "out", test_set=test_set, seeds=(0, 1), greedy=False, **fields)
    report = evaluate(settings, recogniser=recogniser)
    figures = report["systems"][0]["figures"]
    assert figures["stop_rate"]["n"] == 2 and figures["wer_scoring"]["n"] == 2
    assert not figures.keys() & {"silent_share", "sim_reference", "mos"}
    assert report["scales"]["wer_scoring"]["recordings through the codec"]["value"] > 0
    assert "true recordings" not in report["scales"]["wer_scoring"]
    for item in report["items"]:
        assert (item["reference"], item["recording"]) == (None, None)
        assert [(clip["seed"], clip["audio"]) for clip in item["clips"]["base"]] == [(0, None), (1, None)]
        assert item["clips"]["base"][0]["recognised"] == WRONG_WORDS
    assert report["items"][0]["scales"]["recordings through the codec"]["recognised"] == "كيف حالك"
    assert any("speech stays codes" in warning for warning in report["warnings"])
    assert not (tmp_path / "out/audio").exists()


@needs_speaks
def test_the_small_model_speaks_words_that_its_recogniser_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SPEAKS_DIR))
    recognise = importlib.import_module("recognise")
    known = recognise.Recogniser()

    class Words:
        name = "words"

        def transcribe(self, clips: Sequence[Heard]) -> list[str]:
            return [recognise.WORDS[known.word(clip.codes_KT)] for clip in clips]

    records = json.loads((SPEAKS_DIR / "dev_ask_old.json").read_text(encoding="utf-8"))[::8]
    test_set = tmp_path / "old.json"
    test_set.write_text(json.dumps(records), encoding="utf-8")
    codes = str(SPEAKS_DIR / "dev_ask_old.safetensors")
    sampling = SamplingConfig(temperature=0.7, top_k=30, top_p=1.0, ras_win_len=None)
    paths = {"model_path": str(SPEAKS_DIR / "base_model"), "audio_tokenizer_path": "no_codec", "codes": (codes,)}
    settings = settings_of(
        tmp_path, tmp_path / "out", test_set=test_set, sampling=sampling, prompt_style="as_written", **paths
    )
    report = evaluate(settings, recogniser=Words())
    figures = report["systems"][0]["figures"]
    assert figures["stop_rate"]["value"] > 0.6 and 0.7 < figures["length_ratio"]["value"] < 1.5
    assert figures["wer_scoring"]["value"] < 0.85, "the base understands 42 % of these words"
    assert report["scales"]["wer_scoring"]["recordings through the codec"]["value"] < 0.25
