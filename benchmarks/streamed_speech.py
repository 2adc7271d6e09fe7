"""Measures streamed speech: the seams against the whole, the time to the first sound, and the time of each piece.

    OMP_NUM_THREADS=1 python -m benchmarks.streamed_speech --codec FOLDER [FOLDER] --clips FOLDER   seams
    OMP_NUM_THREADS=1 python -m benchmarks.streamed_speech --demo demo                              time
    OMP_NUM_THREADS=1 python -m benchmarks.streamed_speech --released                               time of the codec

Seams: clips are encoded, and decoded as if their columns were generated one by one. Levels are those of the difference
to the whole, relative to the speech, in dB: within 10 ms of a seam, at the worst seam, and elsewhere; "step" is the
jump of the difference at a seam, from one sample to the next. "alone" decodes pieces of 25 frames without a window.

Time is that of the processor, so a busy machine changes it little. The demo's model speaks to its limit. --released is
a codec of the released sizes with random weights.
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

from benchmarks.fitted_codec import RATIOS, read_clips
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, load_higgs_audio_tokenizer
from boson_multimodal.model.higgs_audio.delay_pattern import build_audio_columns
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from voice_cloning.speech.speech import SpeechSettings
from voice_cloning.speech.streaming import StreamSettings, WindowDecoder, stream_speech
from voice_cloning.speech.voice_cloner import VoiceCloner

SETTINGS = {
    "3 ahead": StreamSettings(lookahead_growth=0),
    "3 ahead, no fade": StreamSettings(lookahead_growth=0, fade_seconds=0.0),
    "2 ahead": StreamSettings(lookahead_growth=0, first_frames=2, lookahead_frames=2),
    "1 ahead": StreamSettings(lookahead_growth=0, first_frames=3, lookahead_frames=1),
    "6 ahead": StreamSettings(lookahead_growth=0, lookahead_frames=6),
    "10 ahead": StreamSettings(lookahead_growth=0, lookahead_frames=10),
    "3 to 10 ahead (default)": StreamSettings(),
}
LEAST_FRAMES, BLOCK = 40, 25
SEAM_SECONDS = 0.010
BOS, EOS = -1, -2
"""They are no codes of any codec, and no frame of the whole has them."""
TEXT = "مرحبا بكم في هذا اليوم الجميل"
RELEASED_PIECES = (1, 2, 3, 5, 8, 12, 18, 25)


def streamed(codec: HiggsAudioTokenizer, codes_KT: Tensor, settings: StreamSettings) -> list[Tensor]:
    """Decode a clip as if its columns were generated."""
    columns_KC, frames = build_audio_columns(codes_KT, BOS, EOS, True), codes_KT.shape[1]
    decoder, sounds = WindowDecoder(codec, columns_KC.shape[1], settings), []
    for count in range(1, columns_KC.shape[1]):
        if decoder.is_due(count):
            sounds.append(decoder.sound(columns_KC[:, :count], frames if count > frames + 1 else None))
    return [*sounds, decoder.rest(codes_KT)]


def blocks(codec: HiggsAudioTokenizer, codes_KT: Tensor) -> list[Tensor]:
    """Decode a clip in blocks that know nothing of each other."""
    return [codec.decode(codes) for codes in codes_KT.split(BLOCK, dim=1)]


def first_columns(codec: HiggsAudioTokenizer, settings: StreamSettings) -> int:
    """Return the columns after which the first sound comes."""
    decoder = WindowDecoder(codec, 1000, settings)
    return next(count for count in range(1000) if decoder.is_due(count))


def seams_of(
    codec: HiggsAudioTokenizer, clips: list[Tensor], decode: Callable[[HiggsAudioTokenizer, Tensor], list[Tensor]]
) -> dict[str, float]:
    """Return the levels in dB over all clips."""
    reach = round(SEAM_SECONDS * codec.sampling_rate)
    near, far, steps, worst = [], [], [], 0.0
    for codes in clips:
        whole, sounds = codec.decode(codes), decode(codec, codes)
        error = (torch.cat(sounds) - whole) / whole.square().mean().sqrt()
        places = torch.tensor([sound.numel() for sound in sounds]).cumsum(0)[:-1]
        is_near = torch.zeros(len(error), dtype=torch.bool)
        for place in places.tolist():
            is_near[place - reach : place + reach] = True
            worst = max(worst, float(error[place - reach : place + reach].square().mean()))
        near.append(error[is_near])
        far.append(error[~is_near])
        steps.append(error[places] - error[places - 1])
    levels = {
        name: float(torch.cat(x).square().mean()) for name, x in (("seams", near), ("else", far), ("step", steps))
    }
    return {name: 10 * math.log10(level + 1e-20) for name, level in {**levels, "worst": worst}.items()}


def measure_seams(folder: Path, clips_folder: Path, most_clips: int) -> None:
    """Print a row for each setting."""
    codec = load_higgs_audio_tokenizer(folder)
    clips = [codec.encode(wave[None])[0] for wave in read_clips(clips_folder)[::-1]]
    clips = [codes for codes in clips if codes.shape[1] >= LEAST_FRAMES][:most_clips]
    seconds = sum(codes.shape[1] for codes in clips) * codec.samples_per_frame / codec.sampling_rate
    reach = f"{codec.frames_before} frames before, {codec.frames_after} after"
    print(f"{folder.name}: {len(clips)} clips, {seconds:.0f} s; a frame depends on {reach}")
    print(f"{'':24} {'columns':>8} {'seams':>7} {'worst':>7} {'step':>7} {'else':>7}")
    rows = {"alone": (0, blocks)}
    for name, chosen in SETTINGS.items():
        rows[name] = first_columns(codec, chosen), lambda codec, codes, chosen=chosen: streamed(codec, codes, chosen)
    for name, (columns, decode) in rows.items():
        found = seams_of(codec, clips, decode)
        levels = " ".join(f"{found[kind]:7.1f}" for kind in ("seams", "worst", "step", "else"))
        print(f"{name:24} {columns or '':>8} {levels}", flush=True)


def measure_time(demo: Path) -> None:
    """Print the time to the first sound and of each piece, of the demo's model without an adapter."""
    cloner = VoiceCloner(
        model_path=str(demo / "model"),
        audio_tokenizer_path=str(demo / "audio_tokenizer"),
        device="cpu",
        settings=SpeechSettings(sampling=SamplingConfig(do_sample=False)),
    )
    request = cloner.request(TEXT, demo / "clips/amal/train_01.wav", "كيف حالك اليوم")
    list(stream_speech(cloner, request))  # loads, and warms up
    began = before = time.process_time()
    played = 0.0
    print(f"{'columns':>8} {'sound s':>8} {'time s':>8} {'share':>7}")
    for sound in stream_speech(cloner, request):
        now, seconds = time.process_time(), sound.samples.numel() / sound.sampling_rate
        print(f"{sound.columns:8} {seconds:8.2f} {now - before:8.3f} {(now - before) / seconds:7.2f}")
        before, played = now, played + seconds
    print(f"{played:.2f} s of speech, real-time factor {(before - began) / played:.2f}")
    began = time.process_time()
    next(iter(cloner.speak_all([request])))
    print(f"the whole without a stream: {time.process_time() - began:.2f} s before its first sound")


def measure_released() -> None:
    """Print the time of the released codec's decoder for the window of each piece."""
    ratios = {"downsampling_ratios": RATIOS, "upsampling_ratios": RATIOS}
    config = HiggsAudioV2TokenizerConfig(
        target_bandwidths=[0.5, 1, 1.5, 2], acoustic_model_config={"model_type": "dac", **ratios}
    )
    codec = HiggsAudioTokenizer(HiggsAudioV2TokenizerModel(config))
    weights = sum(weight.numel() for weight in codec.model.acoustic_decoder.parameters())
    print(f"decoder of {weights / 1e6:.1f} M weights, {torch.get_num_threads()} thread(s)")
    for frames in RELEASED_PIECES:
        window = codec.frames_before + frames + codec.frames_after
        codes = torch.randint(0, codec.codebook_size, (codec.num_codebooks, window))
        took = []
        for _ in range(3):
            began = time.process_time()
            codec.decode_known(codes, torch.ones_like(codes, dtype=torch.bool))
            took.append(time.process_time() - began)
        sound = frames * codec.samples_per_frame / codec.sampling_rate
        print(f"piece of {frames:2} frames ({sound:.2f} s), window of {window}: {min(took):.3f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, nargs="+", default=[], help="Folders of codecs, for the seams.")
    parser.add_argument("--clips", type=Path, help="Folder with clips of speech, for the seams.")
    parser.add_argument("--most_clips", type=int, default=10)
    parser.add_argument("--demo", type=Path, help="The folder of make_demo, for the time.")
    parser.add_argument("--released", action="store_true", help="Measure a decoder of the released size.")
    args = parser.parse_args()
    if args.codec and not args.clips:
        parser.error("--codec needs --clips")
    torch.manual_seed(0)
    for folder in args.codec:
        measure_seams(folder, args.clips, args.most_clips)
    if args.demo:
        measure_time(args.demo)
    if args.released:
        measure_released()


if __name__ == "__main__":
    main()
