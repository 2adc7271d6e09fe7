"""Figures of judged clips, differences of pairs, groups, and the printed table."""

from dataclasses import replace

import pytest
import torch

from voice_cloning.evaluation.report import JudgedClip, cost, differences, figures, groups, scales, table
from voice_cloning.evaluation.word_errors import TextErrors
from voice_cloning.training.spoken_figures import measure_clip


def clip(
    item: str,
    wrong: int | None = None,
    *,
    seed: int = 0,
    ended: bool | None = True,
    frames: int = 50,
    true: int | None = 50,
    **fields: object,
) -> JudgedClip:
    """A clip of a text of ten letters in two words, of which ``wrong`` are wrong."""
    codes_KT = torch.arange(frames).repeat(8, 1)
    measured = measure_clip(item, "ابجدهوزحطي", codes_KT, ended=bool(ended), true_frames=true, seed=seed)
    errors = (
        {}
        if wrong is None
        else {"scoring": TextErrors(word_errors=wrong, words=2, character_errors=3 * wrong, characters=10)}
    )
    given = {
        "speaker": None,
        "dialect": None,
        "kind": None,
        "audio": None,
        "seconds": frames / 25,
        "true_seconds": None,
    }
    made = {"has_codes": True, "compute_seconds": 1.0, "peak_memory_gb": 2.0}
    return JudgedClip(
        **{
            **given,
            **made,
            "item": item,
            "seed": seed,
            "ended": ended,
            "errors": errors,
            "measured": measured,
            **fields,
        }
    )


def values(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: interval["value"] for name, interval in found.items()}


def test_figures_are_sums_over_sentences_and_shares_over_clips() -> None:
    clips = [clip("a", 1), clip("b", 0, ended=False, frames=200), clip("c", 2, frames=25)]
    found = figures(clips)
    assert values(found) == {
        "stop_rate": pytest.approx(2 / 3),
        "length_ratio": 1.0,
        "length_ratio_p5": pytest.approx(0.55, abs=0.06),
        "length_ratio_p95": pytest.approx(3.7, abs=0.4),
        "repeated_share": 0.0,
        "characters_per_second": pytest.approx(30 / (275 / 25)),
        "wer_scoring": 0.5,
        "cer_scoring": 0.3,
    }
    assert {interval["n"] for interval in found.values()} == {3}


def test_several_seeds_of_a_sentence_are_one_unit_of_the_stop_rate() -> None:
    """Ten sentences whose three clips end alike say no more than ten clips, so the interval is not narrower."""
    names = "abcdefghij"
    once = [clip(name, ended=name < "f") for name in names]
    thrice = [clip(name, ended=name < "f", seed=seed) for seed in range(3) for name in names]
    one, three = (figures(clips)["stop_rate"] for clips in (once, thrice))
    assert (one["value"], three["value"], three["n"]) == (0.5, 0.5, 10)
    assert three["high"] - three["low"] > 0.4
    none = [[replace(found, ended=False) for found in clips] for clips in (once, thrice)]
    single, several = (differences(a, b)["stop_rate"] for a, b in zip(none, (once, thrice), strict=True))
    assert (single["value"], several["value"], several["n"]) == (0.5, 0.5, 10)
    assert 0.0 < several["low"] < 0.3


def test_what_was_not_measured_is_absent() -> None:
    wavs = [clip(name, ended=None, true=None, has_codes=False) for name in "abc"]
    assert figures(wavs).keys() == {"characters_per_second"}
    half_known = [clip("a", ended=None, true=None), clip("b", true=None)]
    assert "stop_rate" not in figures(half_known), "a share of the clips that happen to be known would mislead"
    assert figures([clip("a", 0, frames=0)]).keys() >= {"stop_rate", "wer_scoring", "length_ratio"}
    assert figures([]) == {}


def test_seeds_are_averaged_before_sentences_are_counted() -> None:
    clips = [clip(item, wrong, seed=seed) for item, wrong, seed in [("a", 2, 0), ("a", 0, 1), ("b", 0, 0), ("b", 0, 1)]]
    found = figures(clips)
    assert (found["wer_scoring"]["value"], found["wer_scoring"]["n"]) == (0.25, 2)
    assert found["stop_rate"]["n"] == 2


def test_differences_are_those_of_the_same_sentences() -> None:
    base = [clip("a", 2), clip("b", 1, ended=False), clip("c", 2)]
    other = [clip("b", 0), clip("a", 1)]
    found = differences(base, other)
    assert values(found) == {"stop_rate": 0.5, "wer_scoring": -0.5, "cer_scoring": pytest.approx(-0.3)}
    assert {interval["n"] for interval in found.values()} == {2}
    with_voices = [
        [replace(c, sim_reference=s) for c, s in zip(cs, (0.5, 0.7), strict=True)] for cs in (base[:2], other)
    ]
    assert values(differences(*with_voices))["sim_reference"] == pytest.approx(0.0)
    assert differences(base, []) == {}


def test_a_finished_wav_is_paired_whatever_its_seed() -> None:
    base = [clip("a", 2, seed=0, ended=False), clip("a", 0, seed=1)]
    wav = [clip("a", 0, seed=7, compute_seconds=None, has_codes=False)]
    assert differences(base, wav)["stop_rate"]["value"] == 1.0
    assert differences(base, [clip("a", 0, seed=7)]).keys() == {"wer_scoring", "cer_scoring"}


def test_groups_hold_the_figures_of_their_clips() -> None:
    clips = [clip("a", 0, speaker="x", dialect="msa"), clip("b", 2, speaker="y"), clip("c", 1, speaker="x")]
    found = groups(clips)
    assert {name: of["wer_scoring"]["value"] for name, of in found["speaker"].items()} == {"x": 0.25, "y": 1.0}
    assert found["kind"] == {} and list(found["dialect"]) == ["msa"] and list(found["length"]) == ["short"]


def test_cost_and_scales() -> None:
    clips = [clip("a", 0, frames=25), clip("b", 1, frames=75, peak_memory_gb=3.0)]
    assert cost(clips) == {"real_time_factor": 0.5, "peak_memory_gb": 3.0}
    assert cost([clip("a", compute_seconds=None)]) == {}
    found = scales({"true recordings": clips})
    assert found.keys() == {"wer_scoring", "cer_scoring", "characters_per_second"}


def test_the_table_has_a_line_for_each_system_and_scale() -> None:
    of_base = figures([clip("a", 1), clip("b", 2)])
    systems = [{"name": "base", "figures": of_base}, {"name": "wavs", "figures": {}}]
    lines = table({"systems": systems, "scales": scales({"true recordings": [clip("a", 0)]})})
    assert [line.split()[0] for line in lines[1:]] == ["base", "wavs", "(true"]
    assert "ends %" in lines[0] and "WER %" in lines[0] and "MOS" not in lines[0]
    assert "75.0 (" in lines[1] and lines[2].split()[1:] == ["-"] * 4
    without_a_figure = {"characters_per_second": {"true recordings": {"value": 9.0, "low": 8.0, "high": 10.0}}}
    assert len(table({"systems": systems, "scales": without_a_figure})) == 3
