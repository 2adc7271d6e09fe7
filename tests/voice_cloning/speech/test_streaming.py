"""Speech as it is generated: the codes of the whole, its sound within a bound, and the first sound soon."""

import gc
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.model.higgs_audio.key_value_cache import KeyValueCache
from tests.voice_cloning.speech.cloners import GREEDY, checkpoint_of, make_cloner, targets
from tests.voice_cloning.speech.random_models import RandomModel
from voice_cloning.speech.requests import SpeechRequest, read_manifest
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.speech import Speech, SpeechSettings
from voice_cloning.speech.streaming import StreamedSound, StreamSettings, WindowDecoder, stream_speech
from voice_cloning.speech.voice_cloner import VoiceCloner

BOS, EOS, K = 1024, 1025, 8
FIRST_COLUMNS = 12
TEXTS = ["كيف حالك؟", "أنا بخير.", "شكرا جزيلا."]


def difference_db(sounds: list[Tensor], whole: Tensor) -> float:
    """Return the mean square of the difference to the whole, relative to the whole's, in dB."""
    joined = torch.cat(sounds)
    assert joined.shape == whole.shape
    return 10 * math.log10(float((joined - whole).square().mean() / whole.square().mean()) + 1e-20)


def windows(codec: HiggsAudioTokenizer, codes_KT: Tensor, settings: StreamSettings) -> tuple[list[Tensor], int]:
    """Decode a clip as if its columns were generated. Return the sounds, and the columns before the first of them."""
    columns_KC, frames = build_audio_columns(codes_KT, BOS, EOS, True), codes_KT.shape[1]
    decoder, sounds, first = WindowDecoder(codec, 1000, settings), [], 0
    for count in range(1, columns_KC.shape[1]):
        if decoder.is_due(count):
            first = first or count
            sounds.append(decoder.sound(columns_KC[:, :count], frames if count > frames + 1 else None))
    return [*sounds, decoder.rest(codes_KT)], first


@pytest.fixture(scope="module")
def spoken_codes(demo: Path, codec: HiggsAudioTokenizer) -> Tensor:
    """The (K, T) codes of some clips of the demo, one after the other."""
    paths = sorted((demo / "clips").glob("*/*.wav"))[:5]
    waves = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths]
    return codec.encode(torch.cat(waves)[None])[0]


@pytest.mark.parametrize(
    ("settings", "columns", "most_db"),
    [
        ({}, FIRST_COLUMNS, -50),
        ({"lookahead_growth": 0.0}, FIRST_COLUMNS, -50),
        ({"lookahead_frames": 1, "first_frames": 3, "lookahead_growth": 0.0}, FIRST_COLUMNS, -40),
        ({"lookahead_frames": 6, "lookahead_growth": 0.0}, 15, -75),
        ({"lookahead_frames": 10}, 19, -120),
        ({"lookahead_frames": 10, "growth": 1.0, "first_frames": 4, "fade_seconds": 0.0}, 22, -120),
        ({"lookahead_frames": 10, "first_frames": 40, "most_frames": 40, "fade_seconds": 9.0}, 58, -120),
    ],
)
def test_windows_are_the_whole_within_a_bound(
    spoken_codes: Tensor, codec: HiggsAudioTokenizer, settings: dict[str, float], columns: int, most_db: float
) -> None:
    """With ten frames after a piece, all that the decoder hears is there; then only rounding differs."""
    sounds, first = windows(codec, spoken_codes, StreamSettings(**settings))
    assert first == columns and len(sounds) > 4
    assert difference_db(sounds, codec.decode(spoken_codes)) <= most_db


def test_frames_that_are_known_in_part_are_better_than_none(
    spoken_codes: Tensor, codec: HiggsAudioTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = codec.decode(spoken_codes)
    with_part = difference_db(windows(codec, spoken_codes, StreamSettings())[0], whole)
    decode = codec.decode_known
    monkeypatch.setattr(codec, "decode_known", lambda codes, known: decode(codes, known & known.all(0)))
    assert difference_db(windows(codec, spoken_codes, StreamSettings())[0], whole) > with_part + 10


@pytest.mark.parametrize("is_drawn", [True, False], ids=["an end is drawn", "the limit is near"])
def test_a_window_hears_nothing_that_the_whole_does_not_have(
    spoken_codes: Tensor, codec: HiggsAudioTokenizer, is_drawn: bool
) -> None:
    """Columns go on after the last frame. All frames of the whole are complete, so only rounding may differ."""
    frames, per_frame = 30, codec.samples_per_frame
    columns_KC = build_audio_columns(spoken_codes[:, : 2 * frames], BOS, EOS, True)[:, : frames + K]
    decoder = WindowDecoder(codec, 1000 if is_drawn else frames, StreamSettings(growth=0.0, lookahead_growth=0.0))
    decoder.next_frame = frames - 4
    assert decoder.is_due(frames + K) and not decoder.is_due(frames + K - 1)
    sound = decoder.sound(columns_KC, frames if is_drawn else None)
    whole = codec.decode(spoken_codes[:, :frames])
    assert difference_db([sound], whole[(frames - 4) * per_frame : (frames - 3) * per_frame]) <= -100


def test_a_player_never_waits_where_columns_come_in_two_thirds_of_their_time(codec: HiggsAudioTokenizer) -> None:
    """Times are in frames. The player begins with the first piece of sound."""
    decoder, began, sent = WindowDecoder(codec, 10_000, StreamSettings()), 0.0, []
    for column in range(1, 2000):
        if decoder.is_due(column):
            now = 2 / 3 * column
            began = began or now
            assert now - began <= decoder.next_frame + 1e-9
            sent.append((decoder.size, decoder.lookahead))
            decoder.next_frame += decoder.size
    assert sent[0] == (1, 3) and sent[-1] == (25, codec.frames_after) and sent == sorted(sent)


def cloner_of(demo: Path, codec: HiggsAudioTokenizer, settings: SpeechSettings, **further: Any) -> VoiceCloner:
    subject = make_cloner(demo, settings=settings, **further)
    subject.codec = codec
    return subject


def ask(demo: Path, cloner: VoiceCloner, texts: list[str]) -> SpeechRequest:
    request = cloner.request(" ".join(texts), demo / "clips/amal/train_01.wav", "كيف حالك اليوم", letters_per_piece=12)
    assert [piece.text for piece in request.pieces] == texts
    return request


def checked_stream(cloner: VoiceCloner, request: SpeechRequest, whole: Speech) -> list[StreamedSound]:
    """Stream a request. Check everything but the sound against the whole, which had one attempt."""
    sounds = list(stream_speech(cloner, request))
    spoken = [sound.spoken for sound in sounds if sound.spoken is not None]
    for found, wanted in zip(spoken, whole.pieces, strict=True):
        assert (found.text, found.failure, found.attempt) == (wanted.text, wanted.failure, 0)
        assert torch.equal(found.codes, wanted.codes)
    lengths = [sound.samples.numel() for sound in sounds]
    assert [sound.start for sound in sounds] == [sum(lengths[:place]) for place in range(len(lengths))]
    assert all(sound.sampling_rate == whole.sampling_rate for sound in sounds)
    for index in range(len(request.pieces)):
        own = [sound for sound in sounds if sound.piece == index]
        assert [sound.spoken is not None for sound in own] == [False] * (len(own) - 1) + [True]
        assert own[0].columns <= FIRST_COLUMNS or len(own) == 1
    return sounds


@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampled"])
def test_the_codes_of_a_stream_are_those_of_the_whole(demo: Path, codec: HiggsAudioTokenizer, do_sample: bool) -> None:
    """The demo's base is random, so that it speaks on to its limit. The whole is one batch, the stream is not."""
    settings = SpeechSettings(sampling=SamplingConfig(do_sample=do_sample), retries=0, slowest_letters_per_second=9.0)
    cloner = cloner_of(demo, codec, settings)
    request = ask(demo, cloner, TEXTS[:2])
    ((_, whole),) = cloner.speak_all([request])
    sounds = checked_stream(cloner, request, whole)
    assert any(piece.codes.unique().numel() > 20 for piece in whole.pieces)
    assert difference_db([sound.samples for sound in sounds], whole.samples) <= -40


def test_a_memorised_clip_is_streamed_to_its_end(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, codec: HiggsAudioTokenizer
) -> None:
    cloner = cloner_of(demo, codec, GREEDY, adapter=checkpoint_of(memorised))
    request = read_manifest(demo / "four.json", cloner.prompt_style)[0][0]
    ((_, whole),) = cloner.speak_all([request])
    sounds = checked_stream(cloner, request, whole)
    assert whole.failures == [] and torch.equal(whole.pieces[0].codes, targets(memorised)[0])
    assert len(sounds) > 5 and sounds[0].columns == FIRST_COLUMNS
    assert difference_db([sound.samples for sound in sounds], whole.samples) <= -50


@pytest.mark.parametrize("eos_chance", [0.0, 0.001, 0.01, 0.1, 1.0])
def test_wherever_speech_ends_the_stream_has_the_sound_of_the_whole(
    demo: Path, codec: HiggsAudioTokenizer, eos_chance: float
) -> None:
    """Ends begin in any codebook, at once, near the limit, or not at all; pieces may be empty."""
    cloner = cloner_of(demo, codec, SpeechSettings(retries=0, sampling=SamplingConfig(do_sample=False)))
    request, lengths = ask(demo, cloner, TEXTS), set()
    for seed in range(1 if eos_chance == 0.0 else 3):
        cloner.held_model = HeldModel()
        cloner._load_base = partial(RandomModel, cloner.config, eos_chance, seed)
        ((_, whole),) = cloner.speak_all([request], batch_size=1)
        sounds = checked_stream(cloner, request, whole)
        lengths |= {piece.codes.shape[1] for piece in whole.pieces}
        if whole.samples.numel():
            assert difference_db([sound.samples for sound in sounds], whole.samples) <= -45
        else:
            assert all(sound.samples.numel() == 0 for sound in sounds)
        assert bool(whole.failures) == any(sound.spoken.failure for sound in sounds if sound.spoken)
    assert (lengths == {0}) == (eos_chance == 1.0)


def test_whoever_stops_early_frees_the_generation(demo: Path, codec: HiggsAudioTokenizer) -> None:
    cloner = cloner_of(demo, codec, GREEDY)
    steps: list[int] = []
    cloner.model.layers[0].register_forward_pre_hook(lambda *_: steps.append(1))
    sounds = stream_speech(cloner, ask(demo, cloner, TEXTS))
    next(sounds)
    assert len(steps) == FIRST_COLUMNS
    assert _caches() == 1
    sounds.close()
    assert _caches() == 0 and len(steps) == FIRST_COLUMNS


def _caches() -> int:
    return sum(type(thing) is KeyValueCache for thing in gc.get_objects())


def test_wrong_settings_of_a_stream() -> None:
    with pytest.raises(InputError) as caught:
        StreamSettings(first_frames=0, growth=math.nan, most_frames=0, lookahead_frames=0, lookahead_growth=-1.0)
    names = ("first_frames", "growth", "most_frames", "lookahead_frames", "lookahead_growth")
    assert all(f"{name} is" in str(caught.value) for name in names)
    with pytest.raises(InputError, match="growth is inf"):
        StreamSettings(growth=math.inf)
    with pytest.raises(InputError, match="most_frames is 25; it must be at least first_frames, 26"):
        StreamSettings(first_frames=26)
