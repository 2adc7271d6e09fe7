"""From each form of a corpus to speech: built, checked, packed, trained for two steps, and spoken with the adapter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.chatml_files import audio
from tests.training_runs import trainer
from tests.voice_cloning.corpora import source_forms
from tests.voice_cloning.corpora.corpus_stores import STORES
from tests.voice_cloning.corpora.corpus_tables import CORPORA as TABLES
from tests.voice_cloning.corpora.corpus_truth import CorpusTruth
from tests.voice_cloning.corpora.source_forms import clips_of, records_of
from tools import synthesize
from tools.prepare_data.__main__ import main as prepare_data
from voice_cloning.corpora.build import SUMMARY_FILE, TRAIN_FILE, VAL_FILE
from voice_cloning.data_check.check import REPORT_FILE

SPOKEN_SECONDS = {"clips": 3.3, "list": 3.3, "manifest": 4.8, "kaldi": 3.3, "kaldi_cuts": 4.8}
"""Forms of one's own data -> seconds of their 12 utterances of 3 speakers."""


def own_data(form: str) -> Callable[[Path], CorpusTruth]:
    """Return what writes data of one's own in a form, and says what is true of it."""
    make = getattr(source_forms, f"{form}_form")
    return lambda folder: CorpusTruth(make(folder), 12, 3, SPOKEN_SECONDS[form] / 3600)


CORPORA: dict[str, Callable[[Path], CorpusTruth]] = {
    **TABLES,
    **STORES,
    **{form: own_data(form) for form in SPOKEN_SECONDS},
}
RUNAWAY_STATUS = synthesize.RUNAWAY_STATUS
ARABIC_LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهوي"


def run(*words: str | Path) -> int:
    """Run a verb of ``prepare_data`` in this process and return its exit status."""
    return prepare_data([str(word) for word in words])


@pytest.mark.parametrize("form", CORPORA)
def test_a_corpus_as_it_lies_becomes_speech(form: str, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    truth = CORPORA[form](tmp_path / "corpus")
    built, packed, trained = tmp_path / "built", tmp_path / "packed", tmp_path / "trained"
    one_voice = truth.speakers == 1
    assert run("build", truth.source, "--output_dir", built, *truth.flags) == 0
    check_summary(built, truth)
    run("check", built / TRAIN_FILE, built / VAL_FILE, "--output_dir", tmp_path / "report", *CHEAP)
    report = json.loads((tmp_path / "report" / REPORT_FILE).read_text(encoding="utf-8"))
    assert [error["kind"] for error in report["errors"]] == (["speaker_in_train_and_eval"] if one_voice else [])
    models = ("--model_path", demo / "model", "--codec", demo / "audio_tokenizer", "--num_workers", "1")
    cache = ("--code_cache_dir", tmp_path / "codes")
    assert run("pack", built / TRAIN_FILE, "--output_dir", packed, *models, *cache) == 0
    trainer(demo, trained, data_path=packed, eval_data_path=None, max_steps=2, save_steps=2, lora_rank=2).train()
    checkpoint = trained / "checkpoint-000002"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    check_speech(demo, checkpoint, built, tmp_path)


CHEAP = ("--speaker_model", "none", "--num_workers", "1")
"""Voices are not compared: the clips are noise."""


def check_summary(built: Path, truth: CorpusTruth) -> None:
    """Compare what ``build`` says it found with the truth, and with the files that it wrote."""
    summary = json.loads((built / SUMMARY_FILE).read_text(encoding="utf-8"))
    assert (summary["utterances"], summary["speakers"]) == (truth.utterances, truth.speakers)
    assert summary["hours"] == pytest.approx(truth.hours, abs=1e-7)
    assert not any(summary["left_out"].values())
    records = [*records_of(built), *records_of(built, VAL_FILE)]
    assert len(records) == truth.utterances
    for record in records:
        part = clips_of(record)[1]
        length = soundfile.info(built / part["audio_url"]).duration
        assert part["duration"] <= length + 0.01
        assert any(letter in record["misc"]["target_transcript"] for letter in ARABIC_LETTERS)
    assert len({record["misc"]["target_transcript"] for record in records}) == truth.utterances


def check_speech(demo: Path, checkpoint: Path, built: Path, folder: Path) -> None:
    """Speak with the adapter, in the voice of a clip of the corpus. Two steps do not teach when to end."""
    reference, _ = clips_of(records_of(built)[0])
    clip = {**audio(reference["audio_url"]), **reference}
    entry = {
        "id": "spoken",
        "text": "نعم",
        "reference": str(built / clip["audio_url"]),
        "reference_text": records_of(built)[0]["misc"]["ref_transcript"],
    }
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps([entry]), encoding="utf-8")
    paths = ["--model_path", demo / "model", "--audio_tokenizer_path", demo / "audio_tokenizer", "--device", "cpu"]
    words = ["--adapter", checkpoint, "--manifest", manifest, "--output_dir", folder, "--retries", "0"]
    status = synthesize.main([str(word) for word in (*paths, *words, "--keep_runaways")])
    assert status in (0, RUNAWAY_STATUS)
    samples, rate = soundfile.read(folder / ("spoken.wav" if status == 0 else "spoken.runaway.wav"))
    assert rate == 24_000 and len(samples) >= 0.04 * rate
    assert np.isfinite(samples).all() and np.abs(samples).max() > 1e-4
