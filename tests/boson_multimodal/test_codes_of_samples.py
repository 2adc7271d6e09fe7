"""The codes of real speech stay what they were: soundfile reads what the codec hears, torchaudio resamples it."""

import hashlib
import json

import torch
import torchaudio

from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.sound_files import Clip, read_samples
from tests.goldens import SAMPLES_DIR, needs_samples

CODES_SHA256 = "12522eb77fabf7565d959065e9cc27039a9d91fb30e3e6c7a904a56a2ecb1562"
"""Of the codes, as int16, of four samples by the demo's codec. They are the same with one and two threads and with any
vector instructions. They change with the demo's seed, its codec and its speech, and with nothing else of the project;
librosa's resampling would change 762 of the 3400."""


@needs_samples
def test_the_codes_of_the_samples_are_unchanged(codec: HiggsAudioTokenizer) -> None:
    records = json.loads((SAMPLES_DIR / "train_chatml_samples.json").read_text(encoding="utf-8"))
    digest, count = hashlib.sha256(), 0
    for record in records[::28]:
        name = record["messages"][2]["content"][1]["audio_url"]
        clip = Clip(SAMPLES_DIR / name, 0.0, None)
        wave = read_waveform(clip).resampled(codec.sampling_rate)
        samples, rate = read_samples(clip)
        expected = torchaudio.functional.resample(torch.from_numpy(samples[:, 0]), rate, codec.sampling_rate)
        assert rate == 16_000 and torch.equal(wave, expected)
        codes = codec.encode(wave[None])[0]
        digest.update(codes.to(torch.int16).numpy().tobytes())
        count += codes.numel()
    assert (count, digest.hexdigest()) == (3400, CODES_SHA256)
