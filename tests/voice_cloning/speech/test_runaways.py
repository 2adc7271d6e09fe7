"""Speech that does not end is tried again, and pieces of a text are joined."""

from pathlib import Path
from typing import Any

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.data_types import AudioContent
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from tests.voice_cloning.speech.cloners import SAMPLES_PER_FRAME, Script, make_cloner, seed_of
from voice_cloning.speech.requests import SpeechRequest, request_of_text
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner


def scripted(demo: Path, codec: HiggsAudioTokenizer, frames: dict[int, int | None], **settings: Any) -> VoiceCloner:
    subject = make_cloner(demo, settings=SpeechSettings(**settings))
    subject.codec = codec
    script = Script(subject.config, frames)
    subject._load_base = lambda: script
    return subject


def ask_for(demo: Path, name: str, text: str, letters_per_piece: int = 12) -> SpeechRequest:
    reference = AudioContent(audio_url="clips/amal/train_01.wav")
    return request_of_text(name, text, reference, "كيف حالك اليوم", "voice_clone", demo, letters_per_piece)


def test_a_run_away_is_tried_again_alone_with_another_seed(demo: Path, codec: HiggsAudioTokenizer) -> None:
    frames = {seed_of(0, 0): None, seed_of(1, 0): 0, seed_of(1, 1): None, seed_of(1, 2): 7}
    subject = scripted(demo, codec, frames)
    ((_, speech),) = subject.speak_all([ask_for(demo, "a", "كيف حالك؟ أنا بخير. شكرا جزيلا.")])
    assert [piece.text for piece in speech.pieces] == ["كيف حالك؟", "أنا بخير.", "شكرا جزيلا."]
    assert [piece.attempt for piece in speech.pieces] == [1, 2, 0]
    assert [piece.codes.shape[1] for piece in speech.pieces] == [20, 7, 20]
    assert speech.failures == []
    assert subject.model.seeds == [
        [seed_of(0, 0), seed_of(1, 0), seed_of(2, 0)],
        [seed_of(0, 1), seed_of(1, 1)],
        [seed_of(1, 2)],
    ]
    assert speech.samples.numel() == 47 * SAMPLES_PER_FRAME + 2 * 3600, "two pauses of 150 ms"


def test_the_bound_is_that_of_the_text_whoever_shares_the_batch(demo: Path, codec: HiggsAudioTokenizer) -> None:
    """In a batch with a longer text, the limit of a short text is the same as alone."""
    short, long = ask_for(demo, "short", "نعم"), ask_for(demo, "long", "كيف حالك اليوم", 150)
    limit = 25 * 2 + 25 * 3 // 2 + 1  # 2 s of silence, and 3 letters at 2 a second
    for batch in ([short], [short, long]):
        subject = scripted(demo, codec, {seed_of(0, 0): 100}, retries=0, slowest_letters_per_second=2.0)
        spoken = {request.name: speech for request, speech in subject.speak_all(batch)}
        assert spoken["short"].failures == ["runaway: no end within 3.5 s: 'نعم'"]
        assert spoken["short"].pieces[0].codes.shape == (8, limit)
        assert all(spoken[name].failures == [] for name in spoken if name != "short")
    for frames, ends in ((limit, True), (limit + 1, False)):
        subject = scripted(demo, codec, {seed_of(0, 0): frames}, retries=0, slowest_letters_per_second=2.0)
        ((_, speech),) = subject.speak_all([short])
        assert (speech.failures == []) == ends


def test_greedy_speech_is_not_repeated(demo: Path, codec: HiggsAudioTokenizer) -> None:
    subject = scripted(demo, codec, {seed_of(0, 0): None}, sampling=SamplingConfig(do_sample=False))
    ((_, speech),) = subject.speak_all([ask_for(demo, "a", "نعم")])
    assert len(speech.failures) == 1 and len(subject.model.seeds) == 1


def test_a_request_is_yielded_once_all_its_pieces_are_done(demo: Path, codec: HiggsAudioTokenizer) -> None:
    subject = scripted(demo, codec, {})
    asked = [ask_for(demo, "long", "كيف حالك؟ أنا بخير. شكرا جزيلا."), ask_for(demo, "short", "نعم")]
    spoken = subject.speak_all(asked, batch_size=2)
    request, speech = next(spoken)
    assert request.name == "short" and len(speech.pieces) == 1 and len(subject.model.seeds) == 1
    request, speech = next(spoken)
    assert request.name == "long" and len(speech.pieces) == 3
    assert [piece.codes[0, 0] for piece in speech.pieces] == [seed_of(i, 0) % 1024 for i in range(3)]
