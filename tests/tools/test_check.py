"""Tests of prepare_data check: it finds planted defects and nothing else; its figures are those of training."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, record, text, write_records
from tests.chromium import Browser, needs_chromium
from tests.goldens import SAMPLES_DIR, needs_samples
from tests.planted_defects import PLANTS, compared
from tests.report_pages import PLAY
from tests.sample_copies import found_kinds
from tests.terminals import open_terminal, read_terminal
from tests.training_runs import PROJECT
from voice_cloning.data_check.check import check_files
from voice_cloning.data_check.samples import side_of
from voice_cloning.data_check.summary import PlannedRun, memory_class
from voice_cloning.training.batch_planning import plan_epoch

RATE = 24_000
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}


def speech(seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """Return (samples,) with the measures of speech: voiced and hissing sounds of random length, in the whole band."""
    rng, parts = np.random.default_rng(seed), []
    while sum(map(len, parts)) < seconds * rate:
        size = int(rng.uniform(0.08, 0.25) * rate)
        time_axis = np.arange(size) / rate
        pitch = rng.uniform(100, 200)
        voiced = sum(np.sin(2 * np.pi * k * pitch * time_axis + rng.uniform(0, 6)) / k for k in range(1, 30))
        sound = voiced if rng.random() < 0.6 else rng.normal(0, 0.7, size)
        parts.append(0.12 * sound * np.hanning(size))
    return (np.concatenate(parts)[: round(seconds * rate)] + rng.normal(0, 1e-4, round(seconds * rate))).astype("f4")


def clip(folder: Path, name: str, seconds: float = 4.0, seed: int = 0, rate: int = RATE) -> str:
    soundfile.write(folder / name, speech(seconds, seed, rate), rate)
    return name


def write_pairs(folder: Path, count: int, name: str = "train.json", speaker: str = "a") -> list[dict[str, Any]]:
    """Return records of ``count`` pairs of faultless clips by three speakers, with texts of a plausible length."""
    words = "واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية".split()
    records = []
    for number in range(count):
        prefix = f"{Path(name).stem}{number}"
        made = record(
            prefix,
            audio(clip(folder, f"{prefix}r.wav", seed=hash_of(prefix) + 1)),
            audio(clip(folder, f"{prefix}t.wav", seed=hash_of(prefix) + 2)),
            speaker=f"{speaker}{number % 3}",
        )
        say(made, " ".join(words[number % 3 :]), " ".join(words[: 6 + number % 2]))
        records.append(made)
    return records


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode()[-6:], "big") * 3 % 2**31


def say(made: dict[str, Any], target: str, reference: str) -> None:
    user, assistant = made["messages"][1]["content"], made["messages"][2]["content"]
    user[0], user[2], assistant[0] = text(reference), text(target), text(target)


def run_check(folder: Path, records: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    path = write_records(folder / "train.json", records)
    return check_files([path], folder / "report", num_workers=1, **settings)


def command(*arguments: Any) -> list[str]:
    return [sys.executable, "-m", "tools.prepare_data", "check", *map(str, arguments)]


# -- on real speech --------------------------------------------------------------------------------------------------


@needs_samples
def test_real_data_have_no_error_and_one_warning(tmp_path: Path) -> None:
    """In eight records, reference and target share the recording of one word; that does not make them equal."""
    files = [SAMPLES_DIR / f"{side}_chatml_samples.json" for side in ("train", "val")]
    report = check_files(files, tmp_path / "report")
    assert report["errors"] == []
    assert [(warning["kind"], warning["count"]) for warning in report["warnings"]] == [("low_native_rate", 128)]
    assert [file["side"] for file in report["summary"]["files"]] == ["train", "eval"]
    assert report["summary"]["native_rates"] == {"16000": 128}
    assert len(report["summary"]["speakers"]) == 20
    assert json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8")) == report


@needs_samples
@pytest.mark.parametrize("title", PLANTS)
def test_a_planted_defect_is_found_and_nothing_else_is(title: str, tmp_path: Path) -> None:
    expected, found = compared(tmp_path, title, speakers=6)
    assert found == expected


# -- on synthetic sounds ---------------------------------------------------------------------------------------------


def test_faultless_data_have_no_findings(tmp_path: Path) -> None:
    report = run_check(tmp_path, write_pairs(tmp_path, 6))
    assert found_kinds(report) == {}
    assert (tmp_path / "report" / "report.html").read_text(encoding="utf-8").count("No errors and no warnings.") == 1


@pytest.mark.parametrize("old", [8_000, 11_025, 16_000])
def test_upsampled_clips_are_found(old: int, tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    wave = torch.from_numpy(speech(4.0, 99))
    narrow = torchaudio.functional.resample(torchaudio.functional.resample(wave, RATE, old), old, RATE)
    soundfile.write(tmp_path / "narrow.wav", narrow.numpy(), RATE)
    records[2]["messages"][2]["content"][1]["audio_url"] = "narrow.wav"
    (warning,) = run_check(tmp_path, records)["warnings"]
    assert (warning["kind"], warning["sample_ids"]) == ("low_native_rate", ["train2"])
    assert "24000 Hz, but its energy stops near" in warning["details"]["train2"]


def test_cuts_of_one_recording_are_the_same_only_if_they_overlap(tmp_path: Path) -> None:
    clip(tmp_path, "long.wav", seconds=12.0, seed=5)
    records = write_pairs(tmp_path, 6)
    for made, (offset, duration) in zip(records, [(0.0, 4.0), (1.0, 4.0), (4.0, 4.0), (7.5, 4.0)], strict=False):
        made["messages"][1]["content"][1] = audio("long.wav", offset=0.0, duration=4.0)
        made["messages"][2]["content"][1] = audio("long.wav", offset=offset, duration=duration)
    report = run_check(tmp_path, records)
    (error,) = report["errors"]
    assert error["kind"] == "reference_equals_target" and error["sample_ids"] == ["train0", "train1"]
    assert "the same clip" in error["details"]["train0"] and "which share 3.0 s" in error["details"]["train1"]


def test_several_references_of_one_target_are_no_duplicates(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    again = json.loads(json.dumps(records[0]))
    again["misc"]["sample_id"] = "train0_ref2"
    again["messages"][1]["content"][:2] = records[2]["messages"][1]["content"][:2]
    assert found_kinds(run_check(tmp_path, [*records, again])) == {}


def test_records_with_the_same_id_get_different_names(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    records[1]["misc"]["sample_id"] = "train0"
    records[1]["messages"][2]["content"][1]["audio_url"] = "none.wav"
    (error,) = run_check(tmp_path, records)["errors"]
    assert error["sample_ids"] == ["train0 (train.json, record 1)"]


def test_texts_are_checked_after_the_normalisation_of_training(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    say(records[0], "عندي 3 كتـــب جديدة في البيت", "صباح الخير يا جماعة كيف الحال")
    assert found_kinds(run_check(tmp_path, records)) == {"digits": {"train0"}, "tatweel": {"train0"}}
    run = PlannedRun(text_normalisation="speech")
    assert found_kinds(run_check(tmp_path, records, run=run)) == {}


def test_a_record_that_the_prompt_style_cannot_take_is_named(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    records[0]["messages"][1]["content"].insert(1, audio("train1r.wav"))
    (error,) = run_check(tmp_path, records, run=PlannedRun(prompt_style="voice_clone"))["errors"]
    assert (error["kind"], error["sample_ids"]) == ("malformed_record", ["train0"])
    assert error["details"]["train0"] == (
        "messages: 2 clips outside the trained turns; prompt_style voice_clone needs exactly 1, the reference; "
        "--prompt_style as_written trains on the turns of the file as they are"
    )


def test_an_earlier_assistant_turn_may_hold_the_reference(tmp_path: Path) -> None:
    """The released model was shown to clone with these turns, and voice_clone makes them too."""
    (made, *others) = write_pairs(tmp_path, 6)
    reference, target = made["messages"][1]["content"][1], made["messages"][2]["content"][1]
    words = "واحد اثنان ثلاثة أربعة خمسة ستة"
    turns = [("user", text(words)), ("assistant", reference), ("user", text(words + " سبعة")), ("assistant", target)]
    made["messages"][1:] = [{"role": role, "content": [part]} for role, part in turns]
    made["start_index"] = len(made["messages"]) - 1
    made["messages"][4]["content"][0]["audio_url"] = "none.wav"
    report = run_check(tmp_path, [made, *others])
    assert found_kinds(report) == {"unreadable_audio": {"train0"}}
    facts = report["samples"]["train0"]
    assert (facts["text"], facts["reference_text"]) == (words + " سبعة", words)


def test_audio_in_a_record_is_checked_and_plays_from_the_page_alone(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    content = base64.b64encode((tmp_path / "train0t.wav").read_bytes()).decode()
    records[0]["messages"][2]["content"][1] = {"type": "audio", "raw_audio": content}
    say(records[0], "قال ok ثم ذهب الولد إلى البيت", "صباح الخير يا جماعة كيف الحال")
    report = run_check(tmp_path, records)
    assert found_kinds(report) == {"latin_letters": {"train0"}}
    assert content[:100] not in (tmp_path / "report" / "report.json").read_text(encoding="utf-8")
    assert f"data:audio/wav;base64,{content}" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_lone_surrogate_is_reported_and_raises_no_error(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    say(records[0], "نعم \ud800 نعم نعم نعم نعم", "صباح الخير يا جماعة كيف الحال")
    (error,) = run_check(tmp_path, records)["errors"]
    assert error["kind"] == "malformed_record" and "half a surrogate pair" in error["details"]["train0"]


@pytest.mark.parametrize(
    ("name", "side"),
    [("train.json", "train"), ("val_chatml_samples.json", "eval"), ("my-dev.jsonl", "eval"), ("latest.json", "train")],
)
def test_a_file_s_name_decides_its_side(name: str, side: str) -> None:
    assert side_of(Path(name), []) == side
    assert side_of(Path(name), [Path(name)]) == "eval"


@needs_chromium
def test_the_page_of_a_check_plays_its_clips(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 6)
    for made in records[:2]:
        say(made, "عندي 3 كتب جديدة في البيت الكبير", "صباح الخير يا جماعة كيف الحال")
    records[2]["messages"][2]["content"][1] |= {"offset": 1.0, "duration": 2.0}
    say(records[2], "عندي 3 كتب", "صباح الخير يا جماعة كيف الحال")
    assert found_kinds(run_check(tmp_path, records)) == {"digits": {"train0", "train1", "train2"}}
    with Browser(tmp_path / "profile") as browser:
        browser.open(tmp_path / "report" / "report.html", 1000)
        assert browser.ask("document.querySelectorAll('audio').length") == 6
        assert browser.ask(PLAY) == []


# -- figures ---------------------------------------------------------------------------------------------------------


def test_positions_and_steps_are_those_of_training(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, codec: HiggsAudioTokenizer
) -> None:
    data = demo / "train_chatml_samples.json"
    run = PlannedRun(max_tokens_per_batch=512, max_positions_per_sample=512, num_train_epochs=2, num_processes=2)
    summary = check_files([data], tmp_path, run=run, model_path=str(demo / "model"), num_workers=1)["summary"]
    dataset = load(data, tokenizer, make_cache(tmp_path / "cache"), prompt_style=run.prompt_style)
    dataset.encode_missing(lambda: codec)
    mean = sum(dataset.lengths) / len(dataset.lengths)
    assert summary["positions"] == {"max": max(dataset.lengths), "mean": round(mean, 1)}
    assert summary["tokens"] == sum(len(r.input_ids) - len(r.clips) for r in dataset.records)
    how = {"batch_size": None, "gradient_accumulation_steps": 1, "seed": 42, "epoch": 0}
    steps = plan_epoch(dataset.lengths, max_tokens_per_batch=512, world_size=2, **how)
    assert summary["expected_steps"] == 2 * len(steps)
    assert summary["tokens_are_counted"]
    estimate = check_files([data], tmp_path, run=run, num_workers=1)["summary"]
    assert not estimate["tokens_are_counted"] and estimate["tokens"] > 0


def test_memory_grows_with_positions_and_shrinks_with_recompute() -> None:
    many = [512] * 4
    assert memory_class(many, "none").startswith("24 GB (needs 19.3) with --recompute none (2048 positions")
    assert memory_class(many, "layer").startswith("16 GB (needs 14.9) with --recompute layer")
    assert memory_class(many, "auto").startswith(
        "24 GB (needs 19.3) with --recompute none; 24 GB (needs 16.3) with --recompute ffn; 16 GB (needs 14.9) with "
    )
    assert memory_class([2000] * 50, "none").startswith("more than 141 GB")


# -- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_its_findings(tmp_path: Path) -> None:
    records = write_pairs(tmp_path, 12)
    records[1]["messages"][2]["content"][1]["audio_url"] = "none.wav"
    path = write_records(tmp_path / "train.json", records)
    result = subprocess.run(
        command(path, "--output_dir", tmp_path / "out"), env=ENVIRONMENT, cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 1, result.stderr
    assert "error: unreadable_audio: 1 sample(s)" in result.stdout
    assert "  - train1: messages[2].content[1].audio_url: " in result.stdout
    assert "none.wav: no such file" in result.stdout
    assert "1 kind(s) of error, 0 kind(s) of warning" in result.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]
    first = (tmp_path / "out" / "report.json").read_bytes()
    assert check_files([path], tmp_path / "out", num_workers=1, speaker_model="auto") == json.loads(first)
    assert (tmp_path / "out" / "report.json").read_bytes() == first, "with one process and with two"


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "train.json", write_pairs(tmp_path, 1))
    with pytest.raises(InputError, match=r"none.json: no such file; give a ChatML(.|\n)*gone.json: no such file"):
        check_files([tmp_path / "none.json", path], tmp_path / "out", eval_files=[tmp_path / "gone.json"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="--output_dir .*: cannot be created"):
        check_files([path], path / "out")
    with pytest.raises(InputError, match="--model_path .*: no such folder"):
        check_files([path], tmp_path / "out", model_path=str(tmp_path / "none"))
    with pytest.raises(InputError, match="--model_path .*: no tokenizer"):
        (tmp_path / "model").mkdir()
        check_files([path], tmp_path / "out", model_path=str(tmp_path / "model"))
    result = subprocess.run(
        command(path, "--output_dir", tmp_path / "out", "--num_processes", 0, "--num_workers", 0),
        env=ENVIRONMENT,
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "(2):" in result.stderr
    assert "--num_processes 0: must be at least 1" in result.stderr


def test_ctrl_c_stops_the_check_and_leaves_no_partial_report(tmp_path: Path) -> None:
    made = write_pairs(tmp_path, 2)
    records = []
    for number in range(300):
        copied = json.loads(json.dumps(made[number % 2]))
        shutil.copyfile(tmp_path / f"train{number % 2}t.wav", tmp_path / f"{number}.wav")
        copied["messages"][2]["content"][1]["audio_url"] = f"{number}.wav"
        copied["misc"]["sample_id"] = str(number)
        records.append(copied)
    path = write_records(tmp_path / "train.json", records)
    terminal, theirs = open_terminal()  # a pipe gets no bar, by which the test knows where the process is
    process = subprocess.Popen(
        command(path, "--output_dir", tmp_path / "out", "--num_workers", 2),
        env=ENVIRONMENT,
        cwd=PROJECT,
        stderr=theirs,
        start_new_session=True,
        # A background job may ignore the signal, and its child processes would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    seen = ""
    while not re.search(r"measuring clips: [^\r]* [1-9]\d*/302 ", seen):  # the workers have started
        seen += os.read(terminal, 1).decode(errors="replace")
    os.killpg(process.pid, signal.SIGINT)
    rest = read_terminal(terminal)
    assert process.wait(timeout=60) == 130, rest
    assert rest.rstrip().endswith("interrupted") and "Traceback" not in rest
    assert list((tmp_path / "out").iterdir()) == []


def test_worker_processes_import_no_torch(tmp_path: Path) -> None:
    """And librosa's parts not before the first clip: the parent process of several workers measures none."""
    code = (
        "import sys; from pathlib import Path; "
        "from voice_cloning.data_check import clip_measures, same_clips; "
        "assert not {'torch', 'transformers', 'numba', 'scipy'} & sys.modules.keys(); "
        "from boson_multimodal.audio_processing.sound_files import Clip; "
        "clip = Clip(Path(sys.argv[1]), 0.0, None); "
        "assert clip_measures.measure_file([clip])[0].pitch_hz and same_clips.compare((clip, clip)) == 1.0; "
        "assert not {'torch', 'transformers', 'sklearn'} & sys.modules.keys()"
    )
    path = tmp_path / clip(tmp_path, "a.wav")
    subprocess.run([sys.executable, "-c", code, str(path)], env=ENVIRONMENT, cwd=PROJECT, check=True)
