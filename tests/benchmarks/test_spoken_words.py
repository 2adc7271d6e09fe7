"""The benchmark of single words, on four of them."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.spoken_words import BASE, Spoken, judge, load_recogniser, main, parse_arguments, read_requests
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from tests.goldens import SHARED_DIR

DATA = SHARED_DIR / "speaks"
SET = "dev_ask_old"
FOUR_WORDS = ["--data", str(DATA), "--sets", SET, "--words", "4"]
needs_words = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/speaks is absent")


@needs_words
def test_prints_a_line_for_each_adapter_and_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FOUR_WORDS, "--adapter", BASE]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["set", "adapter", "words", "understood", "ended", "stopped", "length", "ratio"]
    assert row.split()[:3] == [SET, BASE, "4"]
    *shares, ratio = row.split()[3:]
    assert set(shares) <= {"0.0%", "25.0%", "50.0%", "75.0%", "100.0%"}
    assert float(ratio) > 0


@needs_words
def test_the_recordings_themselves_are_understood_and_end_in_time() -> None:
    """The recogniser is right for 94 % of real clips of voices that it does not know."""
    config, recogniser = HiggsAudioConfig.from_pretrained(DATA / "base_model"), load_recogniser(DATA)
    requests = read_requests(DATA / f"{SET}.json", config, parse_arguments(["--data", str(DATA)]))
    recordings = load_file(DATA / f"{SET}.safetensors")
    understood = 0
    for number, request in enumerate(requests):
        assert request.prompt.input_ids[-1] == config.audio_out_bos_token_id
        reference, target = (recordings[f"{SET}/{number}_{part}.wav"].long() for part in "rt")
        assert request.prompt.audio_ids_concat.equal(reference)
        columns = build_audio_columns(target, config.audio_stream_bos_id, config.audio_stream_eos_id, True)
        answer = judge(request, Spoken(columns, True), config, recogniser)
        assert answer.ended and answer.stopped and answer.length_ratio == 1.0
        understood += answer.understood
        cut = judge(request, Spoken(columns[:, : -config.audio_num_codebooks], False), config, recogniser)
        assert not cut.ended and not cut.stopped and cut.length_ratio < 1.0
    assert understood >= 0.9 * len(requests)


@needs_words
def test_voices_are_chosen_and_keep_their_seeds() -> None:
    config = HiggsAudioConfig.from_pretrained(DATA / "base_model")
    every = read_requests(DATA / f"{SET}.json", config, parse_arguments(["--data", str(DATA)]))
    some = read_requests(DATA / f"{SET}.json", config, parse_arguments(["--data", str(DATA), "--voices", "13", "19"]))
    assert 0 < len(some) < len(every) == 100
    by_seed = {request.seed: request.word for request in every}
    assert all(by_seed[request.seed] == request.word for request in some)


@needs_words
def test_a_voice_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FOUR_WORDS, "--voices", "99"]) == 1
    assert "no sample has its 'speaker' among --voices 99" in capsys.readouterr().err


def test_a_folder_without_words_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert f"--data {tmp_path}: no recognise.py in it" in capsys.readouterr().err
