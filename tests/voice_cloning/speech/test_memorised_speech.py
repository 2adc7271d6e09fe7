"""Memorised clips are spoken exactly. Seeds, batches and number types have the effect that they should have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from tests.voice_cloning.speech.cloners import GREEDY, STYLES, checkpoint_of, entry_of, make_cloner, targets
from voice_cloning.speech.requests import SpeechRequest, read_manifest, request_of_text
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner


@pytest.fixture(scope="module")
def cloner(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> VoiceCloner:
    """Return a greedy cloner with the adapter that has memorised four clips."""
    return make_cloner(demo, adapter=checkpoint_of(memorised), settings=GREEDY)


def test_memorised_clips_are_spoken_exactly(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, cloner: VoiceCloner
) -> None:
    """The codes are equal and end at the last frame, for single clips and in batches."""
    requests = read_manifest(demo / "four.json", "voice_clone")[0]
    wanted = {r.name: codes for r, codes in zip(requests, targets(memorised), strict=True)}
    for batch_size in (1, 3):
        spoken = dict((r.name, speech) for r, speech in cloner.speak_all(requests, batch_size))
        assert spoken.keys() == wanted.keys()
        for name, speech in spoken.items():
            assert speech.failures == [] and len(speech.pieces) == 1
            assert torch.equal(speech.pieces[0].codes, wanted[name])
            assert torch.equal(speech.samples, cloner.codec.decode(wanted[name]))


def test_swapped_references_change_the_speech(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, cloner: VoiceCloner
) -> None:
    raw = json.loads((demo / "four.json").read_text(encoding="utf-8"))
    entries = [entry_of(record) for record in raw]

    def ask(text: dict[str, Any], voice: dict[str, Any]) -> SpeechRequest:
        reference = AudioContent(audio_url=voice["reference"])
        return request_of_text(text["id"], text["text"], reference, voice["reference_text"], "voice_clone", demo)

    own = cloner.speak_all([ask(e, e) for e in entries])
    swapped = cloner.speak_all([ask(e, entries[(i + 1) % 4]) for i, e in enumerate(entries)])
    codes = {r.name: speech.pieces[0].codes for r, speech in own}
    assert all(torch.equal(codes[e["id"]], t) for e, t in zip(entries, targets(memorised), strict=True))
    for request, speech in swapped:
        other, mine = speech.pieces[0].codes, codes[request.name]
        assert other.shape != mine.shape or (other != mine).float().mean() > 0.1


def test_one_call_speaks_and_a_seed_repeats_it(demo: Path, cloner: VoiceCloner) -> None:
    record = entry_of(json.loads((demo / "four.json").read_text(encoding="utf-8"))[0])
    texts_and_clip = record["text"], demo / record["reference"], record["reference_text"]
    drawn = []
    for seed in (3, 3, 4):
        # The model is untrained and the temperature high, so that the seed matters. It will not end before the limit.
        hot = SpeechSettings(sampling=SamplingConfig(temperature=9.0), seed=seed, retries=0)
        subject = make_cloner(demo, settings=replace(hot, slowest_letters_per_second=1000.0))
        drawn.append(subject.speak(*texts_and_clip).pieces[0].codes)
    assert torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or (drawn[0] != drawn[2]).any()
    spoken = cloner.speak(*texts_and_clip)
    assert spoken.failures == [] and spoken.seconds == pytest.approx(spoken.pieces[0].codes.shape[1] / 25)
    with pytest.raises(InputError, match="text: ' ' has no words"):
        cloner.speak(" ", *texts_and_clip[1:])


@pytest.mark.parametrize("style", STYLES)
def test_the_speech_of_a_request_is_independent_of_its_batch(
    demo: Path, codec: HiggsAudioTokenizer, style: str
) -> None:
    """References have different lengths, and are in the user turn or an earlier assistant turn. Limits differ too."""
    settings = SpeechSettings(sampling=SamplingConfig(temperature=9.0), retries=0, slowest_letters_per_second=20.0)
    subject = make_cloner(demo, prompt_style=style, settings=settings)
    subject.codec = codec
    requests, _ = read_manifest(demo / "val_chatml_samples.json", style)
    together = {request.name: speech for request, speech in subject.speak_all(requests, 4)}
    assert len({speech.pieces[0].codes.shape[1] for speech in together.values()}) > 1
    for request in requests:
        ((_, alone),) = subject.speak_all([request], 1)
        assert torch.equal(alone.pieces[0].codes, together[request.name].pieces[0].codes)


def test_bfloat16_on_cpu(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> None:
    """With bfloat16 and an adapter, most frames of a memorised clip equal those in float32."""
    subject = make_cloner(demo, adapter=checkpoint_of(memorised), settings=GREEDY, torch_dtype="bfloat16")
    request = read_manifest(demo / "four.json", "voice_clone")[0][0]
    ((_, speech),) = subject.speak_all([request])
    assert subject.model.dtype == torch.bfloat16
    codes, wanted = speech.pieces[0].codes, targets(memorised)[0]
    assert speech.samples.dtype == torch.float32 and speech.samples.isfinite().all()
    assert (codes[:, :10] == wanted[:, :10]).float().mean() > 0.5
