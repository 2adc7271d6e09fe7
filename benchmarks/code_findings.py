"""Counts what the findings on codes report in real codes of speech, with and without planted defects.

    python -m benchmarks.code_findings

It needs ../shared/speaks and ../shared/samples. The first has clips of one or two words, in codes of a codec of 8
codebooks of 64 codes. A cut of the codes is not quite a cut of the recording: the last frame of a clip also shows that
the codec saw the end. Without the last frame of all clips, what is found is found by the sound alone. The second has
clips of real speech, which the demo's codec encodes: whole, cut, and with digital silence.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.higgs_audio_tokenizer import load_higgs_audio_tokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from tools.demo.build import build_demo
from voice_cloning.data_check.code_measures import END_CODEBOOKS, measure_codes, rarer_at_the_end
from voice_cloning.data_check.code_rules import FEWEST_ENDS, RARER_AT_THE_END, repeats

SPEAKS_DIR = Path(__file__).resolve().parents[2] / "shared" / "speaks"
FRAMES_PER_SECOND = 25.0
SAMPLES_DIR = SPEAKS_DIR.parent / "samples" / "arabic_speech_commands" / "clips"
SHARES_CUT = (0.0, 0.05, 0.3)
SIZES = (1000, 4000, 13000)
LEAST_CUT_FRAMES, KEPT_FRAMES = 5, 10
"""A planted cut takes at least 5 frames away and leaves at least 10."""
PLANTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda codes: codes,
    "one frame 15 times in a row": lambda codes: np.insert(
        codes, [len(codes[0]) // 2] * 14, codes[:, [len(codes[0]) // 2]], 1
    ),
    "every frame twice": lambda codes: np.repeat(codes, 2, axis=1),
    "6 frames repeated": lambda codes: np.concatenate([codes[:, :10], codes[:, 4:]], axis=1),
    "the whole clip twice": lambda codes: np.concatenate([codes, codes], axis=1),
}


def main() -> None:
    """Print the figures."""
    every = [codes for name in ("base", "new", "new_val", "dev_ask_new", "dev_ask_old") for codes in distinct(name)]
    measured = [measure_codes(codes) for codes in every]
    print(f"{len(every)} different clips, {sum(m.frames for m in measured) / FRAMES_PER_SECOND / 3600:.1f} h")
    print("longest run of equal frames:", max(m.longest_still for m in measured))
    print("largest share of frames equal to the frame before:", round(max(m.still_share for m in measured), 3))
    print("most frames of a repeated passage:", max(m.longest_loop for m in measured))
    for title, change in PLANTED.items():
        found = [
            bool(repeats(measure_codes(change(codes)), FRAMES_PER_SECOND)) for codes in every if len(codes[0]) > 12
        ]
        print(f"repeated_codes with {title}: {sum(found)} of {len(found)}")
    forms = {
        "as they are": every,
        "all clips without their last frame": [codes[:, :-1] for codes in every],
        "1024 codes for each codebook": [joined(codes) for codes in every],
    }
    for title, clips in forms.items():
        print(f"cut_end, {title}: clips, share that is cut: false findings, found")
        for size in SIZES:
            for share in SHARES_CUT:
                print(f"  {size}, {share:g}: {ends(clips, size, share)}")
    print_encoded_again()


def print_encoded_again() -> None:
    """Print how clips change that are cut or get digital silence before the demo's codec encodes them."""
    kept, still = [], []
    with tempfile.TemporaryDirectory() as folder:
        build_demo(Path(folder))
        codec = load_higgs_audio_tokenizer(Path(folder) / "audio_tokenizer")
        for path in sorted(SAMPLES_DIR.glob("*/*.flac")):
            wave = read_waveform(Clip(path, 0.0, None)).resampled(codec.sampling_rate)
            middle = 2 * codec.sampling_rate
            whole, head = (codec.encode(samples[None])[0].numpy() for samples in (wave, wave[:middle]))
            kept.append(float((whole[:, : head.shape[1]] == head).all(axis=0).mean()))
            silent = torch.cat([wave[:middle], torch.zeros(codec.sampling_rate), wave[middle:]])
            still.append(measure_codes(codec.encode(silent[None])[0].numpy()).longest_still)
    print(f"{len(kept)} clips, first 2 s alone: share of frames equal to the whole clip: {max(kept):.2f} at most")
    print(f"with 1 s of digital silence inside: {min(still)} to {max(still)} equal frames in a row")


def distinct(name: str) -> list[np.ndarray]:
    """Return the different clips of a file as (K, T) codes, in the order of their names."""
    found = load_file(SPEAKS_DIR / f"{name}.safetensors")
    return list({found[key].tobytes(): found[key] for key in sorted(found)}.values())


def joined(codes: np.ndarray) -> np.ndarray:
    """Return (2, T) codes up to 1023, each made of one codebook of 64 codes and the upper bits of the next."""
    return codes[[0, 2]] * 16 + codes[[1, 3]] // 4


def ends(clips: list[np.ndarray], size: int, share: float) -> str:
    """Cut a share of ``size`` clips at a random frame and return which clips are reported."""
    assert size >= FEWEST_ENDS
    rng = np.random.default_rng(0)
    long = [codes for codes in clips if codes.shape[1] > KEPT_FRAMES + LEAST_CUT_FRAMES]
    chosen = [long[i] for i in rng.permutation(len(long))[:size]]
    is_cut = rng.random(size) < share
    shown = [
        codes[:END_CODEBOOKS, : rng.integers(KEPT_FRAMES, codes.shape[1] - LEAST_CUT_FRAMES + 1)] if cut else codes
        for codes, cut in zip(chosen, is_cut, strict=True)
    ]
    is_found = rarer_at_the_end(shown) > math.log(RARER_AT_THE_END)
    return f"{is_found[~is_cut].sum()} of {(~is_cut).sum()}, {is_found[is_cut].sum()} of {is_cut.sum()}"


if __name__ == "__main__":
    main()
