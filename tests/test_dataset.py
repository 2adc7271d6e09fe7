"""The dataset: which audio becomes which codes, when it is encoded, and how long samples are."""

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, read_json_records
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator
from boson_multimodal.audio_processing import clip_encoding
from boson_multimodal.audio_processing.clip_encoding import ENCODE_BATCH_SECONDS
from boson_multimodal.audio_processing.clips import frames_of
from boson_multimodal.audio_processing.code_cache import SHAPE, CodeCache
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer, codec_identity
from boson_multimodal.audio_processing.packed_store import ABANDONED_AFTER_SECONDS
from boson_multimodal.constants import FRAMES_PER_SECOND
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.packing import pack_batch, segment_lengths
from boson_multimodal.process_group import interleave
from tests.chatml_files import audio, load, make_cache, noise, record, write_clip, write_records
from tests.goldens import SAMPLES_DIR, needs_samples

Load = Callable[..., ArabicVoiceCloningDataset]


class CountingCodec:
    """The demo's codec; ``calls`` holds how many clips each call took."""

    def __init__(self, codec: HiggsAudioTokenizer) -> None:
        self.codec = codec
        self.sampling_rate = codec.sampling_rate
        self.device = codec.device
        self.calls: list[int] = []

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        self.calls.append(waveforms_BS.shape[0])
        return self.codec.encode(waveforms_BS)


class SumCodec:
    """A fast codec whose codes differ between clips: 25 frames a second."""

    sampling_rate = 24_000
    device = torch.device("cpu")

    def encode(self, waveforms_BS: Tensor) -> Tensor:
        frames = frames_of(waveforms_BS.shape[1], self.sampling_rate, FRAMES_PER_SECOND)
        mark = (waveforms_BS.abs().sum(dim=1) * 1000).long() % 1024
        return mark[:, None, None].expand(-1, 8, frames).contiguous()


def no_codec() -> HiggsAudioTokenizer:
    raise AssertionError("the codec is not needed")


def encoded(dataset: ArabicVoiceCloningDataset, codec: Any) -> ArabicVoiceCloningDataset:
    dataset.encode_missing(lambda: codec)
    return dataset


def codes_of(dataset: ArabicVoiceCloningDataset, index: int) -> list[Tensor]:
    """The codes of each clip of a sample."""
    sample = dataset[index]
    lengths = segment_lengths(sample.audio_ids_concat.shape[1], sample.audio_ids_start)
    return list(sample.audio_ids_concat.split(lengths.tolist(), dim=1))


def same_codes(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def encoded_alone(codec: HiggsAudioTokenizer, path: Path, offset: float = 0.0, duration: float | None = None) -> Tensor:
    """What the codec makes of a clip that it gets by itself, read here in the plainest way."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    first = round(offset * rate)
    last = len(samples) if duration is None else first + round(duration * rate)
    mono = torch.from_numpy(samples[first:last].mean(axis=1))
    return codec.encode(torchaudio.functional.resample(mono, rate, codec.sampling_rate)[None])[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ref.wav and tgt.wav, and room for a data file."""
    write_clip(tmp_path / "ref.wav", seconds=0.4, seed=1)
    write_clip(tmp_path / "tgt.wav", seconds=0.61, seed=2)
    return tmp_path


@pytest.fixture
def load_here(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Load:
    """Writes records beside the clips and constructs their dataset, with a cache beside them."""

    def load_records(records: list[dict[str, Any]], file: str = "data.json", **settings: Any) -> Any:
        path = write_records(folder / file, records)
        return load(path, tokenizer, make_cache(folder / "cache"), **settings)

    return load_records


def plain_record(sample_id: str = "a", **fields: Any) -> dict[str, Any]:
    return record(sample_id, audio("ref.wav"), audio("tgt.wav"), **fields)


# -- from audio to codes ---------------------------------------------------------------------------------------------


def test_relative_and_absolute_paths_and_base64_name_the_same_clip(
    load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    in_base64 = base64.b64encode((folder / "ref.wav").read_bytes()).decode()
    forms = [
        audio("ref.wav"),
        audio("./ref.wav", raw_audio=""),
        audio(folder / "ref.wav"),
        audio(None, raw_audio=in_base64),
        audio("placeholder", raw_audio=in_base64),
        audio("ref.wav", raw_audio="aGVsbG8="),  # audio_url goes before
    ]
    dataset = load_here([record(str(n), form, audio("tgt.wav")) for n, form in enumerate(forms)])
    assert dataset.encode_missing(lambda: codec) == 2, "one reference and one target"
    wanted = [encoded_alone(codec, folder / name) for name in ("ref.wav", "tgt.wav")]
    assert all(same_codes(codes_of(dataset, i), wanted) for i in range(len(forms)))


def test_paths_are_relative_to_the_file_and_not_to_the_working_folder(
    load_here: Load, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(load_here([plain_record()])) == 1


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", "mp3"])
def test_a_cut_is_encoded_as_if_it_were_a_file_of_its_own(
    ending: str, load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    long = write_clip(folder / f"long.{ending}", seconds=1.7, seed=3)
    cuts = [(0.0, None), (0.4, 0.5), (None, 0.33), (1.2, None), (1.5, 9.0)]
    records = [
        record(str(n), audio(long, offset=offset, duration=duration), audio("tgt.wav"))
        for n, (offset, duration) in enumerate(cuts)
    ]
    dataset = encoded(load_here(records), codec)
    for index, (offset, duration) in enumerate(cuts):
        assert torch.equal(codes_of(dataset, index)[0], encoded_alone(codec, long, offset or 0.0, duration))
    frames = [codes_of(dataset, index)[0].shape[1] for index in range(len(cuts))]
    assert frames == [43, 13, 9, 13, 5]


@pytest.mark.parametrize(
    ("file", "rate", "channels"),
    [
        ("a.wav", 8_000, 1),
        ("a.wav", 44_100, 2),
        ("a.wav", 48_000, 6),
        ("a.wav", 11_025, 1),
        ("a.flac", 16_000, 1),
        ("a.flac", 96_000, 2),
        ("a.ogg", 44_100, 2),
        ("a.mp3", 22_050, 1),
        ("a.mp3", 44_100, 2),
    ],
)
def test_any_rate_and_number_of_channels_is_read(
    file: str, rate: int, channels: int, load_here: Load, folder: Path, codec: HiggsAudioTokenizer
) -> None:
    path = write_clip(folder / file, seconds=0.83, rate=rate, channels=channels)
    dataset = encoded(load_here([record("a", audio(file), audio("tgt.wav"))]), codec)
    found = codes_of(dataset, 0)[0]
    assert torch.equal(found, encoded_alone(codec, path))
    samples = soundfile.info(path).frames
    assert found.shape == (8, frames_of(samples, rate, FRAMES_PER_SECOND))
    assert abs(found.shape[1] - 0.83 * FRAMES_PER_SECOND) < 2


def test_clips_of_equal_length_are_encoded_together_to_the_codes_they_have_alone(
    load_here: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, codec: HiggsAudioTokenizer
) -> None:
    monkeypatch.setattr(clip_encoding, "ENCODE_BATCH_SECONDS", {"cpu": ENCODE_BATCH_SECONDS["cuda"]})
    equal = [write_clip(folder / f"equal_{i}.wav", seconds=0.5, seed=10 + i) for i in range(5)]
    half_rate = [write_clip(folder / f"half_rate_{i}.wav", seconds=0.5, rate=12_000, seed=20 + i) for i in range(2)]
    other = [write_clip(folder / f"other_{i}.wav", seconds=0.5 + 0.01 * i, seed=30 + i) for i in range(1, 4)]
    clips = [*equal, *half_rate, *other]
    counting = CountingCodec(codec)
    dataset = load_here([record(p.name, audio(p), audio("tgt.wav")) for p in clips])
    assert dataset.encode_missing(lambda: counting) == len(clips) + 1
    assert sorted(counting.calls) == [1, 1, 1, 1, 2, 5]
    for index, path in enumerate(clips):
        assert torch.equal(codes_of(dataset, index)[0], encoded_alone(codec, path)), path.name


def test_one_call_of_the_codec_takes_a_minute_of_audio_at_most(
    load_here: Load, folder: Path, monkeypatch: pytest.MonkeyPatch, codec: HiggsAudioTokenizer
) -> None:
    monkeypatch.setattr(clip_encoding, "ENCODE_BATCH_SECONDS", {"cpu": 1.0})
    for i in range(7):
        write_clip(folder / f"{i}.wav", seconds=0.4, seed=i + 40)
    counting = CountingCodec(codec)
    encoded(load_here([record(str(i), audio(f"{i}.wav"), audio("tgt.wav")) for i in range(7)]), counting)
    assert sorted(counting.calls) == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100])
def test_the_frames_that_are_reckoned_are_those_that_the_codec_makes(rate: int, codec: HiggsAudioTokenizer) -> None:
    """So a sample is as long before it is encoded as after: a limit does not depend on what the cache holds."""
    frame, first_window = rate // FRAMES_PER_SECOND, rate // 200
    wave = torch.from_numpy(noise(1.2, rate)[:, 0])
    for samples in [
        frame * n + start + more for n in (1, 3, 10) for start in (0, first_window) for more in (-1, 0, 1, 2)
    ]:
        waveform = torchaudio.functional.resample(wave[:samples], rate, codec.sampling_rate)
        made = codec.encode(waveform[None]).shape[-1]
        assert made == frames_of(samples, rate, FRAMES_PER_SECOND), samples


# -- files of records ------------------------------------------------------------------------------------------------


def test_json_and_jsonl_of_equal_records_have_equal_fingerprints(load_here: Load) -> None:
    records = [plain_record("a"), {k: v for k, v in plain_record().items() if k != "misc"}, plain_record("c")]
    fingerprints = [load_here(records, file).fingerprint() for file in ("data.json", "data.jsonl")]
    assert fingerprints[0] == fingerprints[1]


def test_blank_lines_and_line_endings_do_not_count(folder: Path, load_here: Load) -> None:
    records = [plain_record("a"), plain_record("b")]
    wanted = load_here(records).fingerprint()
    lines = [json.dumps(r) for r in records]
    (folder / "windows.jsonl").write_bytes(("\ufeff" + "\r\n".join(["", lines[0], "", lines[1], ""])).encode())
    assert read_json_records(folder / "windows.jsonl") == read_json_records(folder / "data.json")
    assert load_here(records, "data.jsonl").fingerprint() == wanted


def test_only_a_newline_ends_a_line_of_a_jsonl(load_here: Load) -> None:
    """U+2028 and U+0085 are line ends to ``str.splitlines``, and may stand in a JSON string as they are."""
    written = plain_record()
    written["messages"][2]["content"][0]["text"] = "كيف\u2028حالك\u0085اليوم"
    assert len(load_here([written], "data.jsonl")) == 1


def test_the_fingerprint_tells_data_apart(load_here: Load, folder: Path) -> None:
    def changed(**fields: Any) -> dict[str, Any]:
        return record("a", audio("ref.wav"), {**audio("tgt.wav"), **fields})

    variants = [
        [plain_record("a"), plain_record("b")],
        [plain_record("b"), plain_record("a")],
        [plain_record("a")],
        [changed(offset=0.1)],
        [changed(duration=0.3)],
        [changed(audio_url="ref.wav")],
        [plain_record("a", start_index=2)],
        [plain_record("a", messages=plain_record()["messages"][1:])],
    ]
    fingerprints = [load_here(v).fingerprint() for v in variants]
    write_clip(folder / "tgt.wav", seconds=0.61, seed=99)
    fingerprints.append(load_here([plain_record("a")]).fingerprint())
    assert len(set(fingerprints)) == len(fingerprints) - 1
    assert fingerprints[2] == fingerprints[6], "start_index 2 trains the one assistant turn, as 0 does"


# -- the cache -------------------------------------------------------------------------------------------------------


def test_a_second_construction_encodes_nothing_and_needs_no_codec(load_here: Load, codec: HiggsAudioTokenizer) -> None:
    records = [plain_record("a"), record("b", audio("tgt.wav"), audio("ref.wav", offset=0.1))]
    first = load_here(records)
    assert first.encode_missing(lambda: codec) == 3
    second = load_here(records)
    assert second.encode_missing(no_codec) == 0
    assert second.lengths == first.lengths
    assert all(same_codes(codes_of(first, i), codes_of(second, i)) for i in range(2))


def test_a_limit_holds_alike_before_and_after_encoding(load_here: Load) -> None:
    dataset = encoded(load_here([plain_record()]), SumCodec())
    length = dataset.lengths[0]
    shutil.rmtree(dataset.cache.folder)
    for _ in range(2):
        assert len(load_here([plain_record()], max_positions=length)) == 1
        with pytest.raises(InputError, match=f"is {length} positions long"):
            load_here([plain_record()], max_positions=length - 1)
        encoded(load_here([plain_record()]), SumCodec())


def codes_as(array: np.ndarray, *shape: int) -> bytes:
    """A payload of the cache."""
    return SHAPE.pack(*(shape or array.shape)) + array.tobytes()


UNSOUND: dict[str, bytes] = {
    "empty": b"",
    "cut in the shape": codes_as(np.zeros((8, 10), np.int16))[:5],
    "cut in the codes": codes_as(np.zeros((8, 10), np.int16))[:-7],
    "too long": codes_as(np.zeros((8, 10), np.int16)) + b"xx",
    "another kind of content": b"hello" * 50,
    "zeros": bytes(300),
    "code too high": codes_as(np.full((8, 10), 1024, np.int16)),
    "code negative": codes_as(np.full((8, 10), -1, np.int16)),
    "wrong type": codes_as(np.zeros((8, 10), np.int64)),
    "floats": codes_as(np.full((8, 10), 0.5, np.float32)),
    "wrong number of codebooks": codes_as(np.zeros((7, 10), np.int16)),
    "a huge shape": codes_as(np.zeros((8, 10), np.int16), 8, 2**32 - 1),
    "no frames": codes_as(np.zeros((8, 0), np.int16)),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_entry_that_no_codec_wrote_is_encoded_anew(name: str, load_here: Load) -> None:
    """Whole, by its checksum, and yet no codes of this codec; also once it is packed with what replaced it."""
    first = load_here([plain_record()])
    key = first.records[0].keys[1]
    first.cache.store.write(bytes.fromhex(key), UNSOUND[name])
    first.cache.seal()
    second = load_here([plain_record()])
    assert second.encode_missing(SumCodec) == 2
    wanted = codes_of(second, 0)
    assert [codes.shape[1] for codes in wanted] == [10, 16]
    third = load_here([plain_record()])
    assert third.encode_missing(no_codec) == 0 and same_codes(codes_of(third, 0), wanted)


def flip(place: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    """The file with one byte changed."""

    def flipped(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place(content)] ^= 0x40
        return bytes(changed)

    return flipped


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "empty": (lambda content: b"", 2),
    "cut in the first header": (lambda content: content[:40], 2),
    "cut in the second codes": (lambda content: content[:400], 1),
    "cut in the index": (lambda content: content[:-40], 0),
    "another kind of file": (lambda content: b"hello" * 50, 2),
    "zeros": (lambda content: bytes(len(content)), 2),
    "a byte of the first header": (flip(lambda content: 20), 1),
    "a byte of the first codes": (flip(lambda content: 90), 1),
    "the last byte of the second codes": (flip(lambda content: content.index(b"HAindex1") - 2 * 44 - 1), 1),
    "a byte of a key in the index": (flip(lambda content: content.index(b"HAindex1") - 44), 1),
    "a byte of an offset in the index": (flip(lambda content: content.index(b"HAindex1") - 12), 1),
    "a byte of a length in the index": (flip(lambda content: content.index(b"HAindex1") - 4), 1),
    "a byte of the footer": (flip(lambda content: len(content) - 10), 0),
}
"""What happens to the only file of a cache with two entries, and how many clips are encoded again."""


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_entry_is_encoded_anew(name: str, load_here: Load) -> None:
    first = encoded(load_here([plain_record()]), SumCodec())
    wanted, lengths = codes_of(first, 0), first.lengths
    (path,) = first.cache.folder.glob("*.pack")
    whole = path.read_bytes()
    damage, encoded_again = DAMAGES[name]
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    second = load_here([plain_record()])
    assert second.encode_missing(SumCodec) == encoded_again
    assert same_codes(codes_of(second, 0), wanted) and second.lengths == lengths
    assert load_here([plain_record()]).encode_missing(no_codec) == 0


def test_codes_of_a_clip_are_one_read(load_here: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples in random order, from packs of which each holds some."""
    dataset = encoded(load_here([plain_record(f"s{i}") for i in range(3)]), SumCodec())
    for number in range(3):  # more packs, to be asked for what they do not hold
        other = make_cache(dataset.cache.folder.parent)
        other.write(f"{number:064x}", torch.zeros(8, 5, dtype=torch.int64))
        other.seal()
    dataset.cache.store.refresh()
    assert dataset.cache.store.sizes()[:2] == (4, 5)
    reads, pread = [], os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    for index in (2, 0, 1, 0):
        reads.clear()
        item = dataset[index]
        assert len(reads) == len(dataset.records[index].clips) == 2
        assert sum(reads) == item.audio_ids_concat.numel() * 2 + 2 * (48 + SHAPE.size), "and nothing but the entry"


def test_codes_that_vanish_in_a_run_are_named(load_here: Load) -> None:
    dataset = encoded(load_here([plain_record("sample_9")]), SumCodec())
    for path in dataset.cache.folder.iterdir():
        os.truncate(path, 0)
    place = dataset.cache.place(dataset.records[0].keys[0])
    with pytest.raises(InputError) as caught:
        dataset[0]
    assert str(caught.value) == f"sample_9: its codes are no longer in {place}; start again to encode the clip again"


def test_a_disk_that_keeps_nothing_is_named(load_here: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_here([plain_record()])
    monkeypatch.setattr(CodeCache, "write", lambda self, key, codes: None)
    with pytest.raises(InputError, match="not there after encoding; is the disk full or not shared?"):
        dataset.encode_missing(SumCodec)


def test_a_clip_that_changes_is_encoded_anew(load_here: Load, folder: Path) -> None:
    encoded(load_here([plain_record()]), SumCodec())
    write_clip(folder / "ref.wav", seconds=0.4, seed=77)
    assert load_here([plain_record()]).encode_missing(SumCodec) == 1


def test_a_clip_that_changes_before_it_is_encoded_is_named(load_here: Load, folder: Path) -> None:
    """Its codes would go by the key of what it was."""
    dataset = load_here([plain_record()])

    def load_codec() -> SumCodec:
        write_clip(folder / "tgt.wav", seconds=0.4, seed=77)
        return SumCodec()

    with pytest.raises(InputError, match="tgt.wav: has changed since this run checked it; start again"):
        dataset.encode_missing(load_codec)
    again = load_here([plain_record()])
    again.encode_missing(SumCodec)
    assert again.records[0].keys[0] == dataset.records[0].keys[0]
    assert dataset.cache.read(dataset.records[0].keys[1]) is None


def test_another_codec_has_another_folder(
    demo: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "other_codec")
    with (tmp_path / "other_codec" / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    identities = [codec_identity(demo / "audio_tokenizer"), codec_identity(tmp_path / "other_codec")]
    assert identities[0] == codec_identity(demo / "audio_tokenizer") != identities[1]
    path = write_records(folder / "data.json", [plain_record()])
    caches = [make_cache(folder / "cache", identity) for identity in identities]
    assert caches[0].folder.parent == caches[1].folder.parent and caches[0].folder != caches[1].folder
    assert [load(path, tokenizer, cache).encode_missing(SumCodec) for cache in caches] == [2, 2]
    assert [load(path, tokenizer, cache).encode_missing(no_codec) for cache in caches] == [0, 0]


def test_the_configuration_is_part_of_a_codecs_identity(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "audio_tokenizer", tmp_path / "codec")
    with (tmp_path / "codec" / "config.json").open("a") as file:
        file.write("\n")
    assert codec_identity(tmp_path / "codec") != codec_identity(demo / "audio_tokenizer")


def test_readers_see_whole_entries_while_two_writers_write(tmp_path: Path) -> None:
    """Each entry holds one number throughout, so a mixture of two would show. The writers pack now and then."""
    key, rounds = "ab" * 32, 60
    caches = [make_cache(tmp_path) for _ in range(3)]
    done = threading.Event()

    def write(cache: CodeCache, values: range) -> None:
        for value in values:
            cache.write(key, torch.full((8, 400 + value), value))
            if value % 7 == 0:
                cache.compact()

    def read() -> list[tuple[int, list[int]]]:
        seen = []
        while not done.is_set() or not seen:
            caches[2].store.refresh()
            codes = caches[2].read(key)
            if codes is not None:
                seen.append((codes.shape[1], codes.unique().tolist()))
        return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [
            pool.submit(write, caches[0], range(rounds)),
            pool.submit(write, caches[1], range(rounds, 2 * rounds)),
        ]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        seen = [entry for reader in readers for entry in reader.result()]
    assert seen and all(values == [columns - 400] for columns, values in seen)
    assert not list(caches[0].folder.glob("*.tmp")), "nothing temporary is left"


def test_two_runs_may_fill_one_cache_at_the_same_time(
    folder: Path, tokenizer: PreTrainedTokenizerBase, load_here: Load
) -> None:
    for i in range(20):
        write_clip(folder / f"{i}.wav", seconds=0.2 + 0.01 * i, seed=i)
    path = write_records(folder / "data.json", [record(str(i), audio(f"{i}.wav"), audio("tgt.wav")) for i in range(20)])
    runs = [load(path, tokenizer, make_cache(folder / "cache")) for _ in range(2)]
    start = threading.Barrier(2)

    def codec() -> SumCodec:
        start.wait()
        return SumCodec()

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda run: run.encode_missing(codec), runs))
    assert counts == [21, 21]
    assert runs[0].lengths == runs[1].lengths
    assert load(path, tokenizer, make_cache(folder / "cache")).encode_missing(no_codec) == 0
    assert all(same_codes(codes_of(runs[0], i), codes_of(runs[1], i)) for i in range(20))


def test_temporary_files_of_killed_runs_are_harmless_and_go_after_a_day(load_here: Load, folder: Path) -> None:
    dataset = load_here([plain_record()])
    fresh, old = (dataset.cache.folder / f"{name}.tmp" for name in ("fresh", "old"))
    for path in (fresh, old):
        path.write_bytes(b"half a file")
    long_ago = time.time() - ABANDONED_AFTER_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    again = load_here([plain_record()])
    assert again.encode_missing(SumCodec) == 2, "half a file is no entry"
    assert fresh.exists() and not old.exists(), "the other may be a live run's"


# -- lengths and items -----------------------------------------------------------------------------------------------


def packed_length(dataset: ArabicVoiceCloningDataset, index: int, model_folder: Path, delay: bool = True) -> int:
    """Positions that the model makes of a sample."""
    config = HiggsAudioConfig.from_pretrained(model_folder)
    config.use_delay_pattern = delay
    batch = ArabicVoiceCloningTrainingCollator.from_config(config)([dataset[index]])
    lengths_in, lengths_out = (
        segment_lengths(ids.shape[1], starts) if starts.numel() else starts
        for ids, starts in (
            (batch.audio_in_ids, batch.audio_in_ids_start),
            (batch.audio_out_ids, batch.audio_out_ids_start),
        )
    )
    packed = pack_batch(
        batch.input_ids,
        batch.attention_mask,
        lengths_in,
        lengths_out,
        batch.label_ids,
        config.audio_in_token_idx,
        config.audio_out_token_idx,
    )
    assert packed.sample_lengths == (packed.input_ids_N.numel(),)
    return packed.input_ids_N.numel()


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_lengths_are_the_positions_that_the_model_makes(style: str, delay: bool, load_here: Load, demo: Path) -> None:
    records = [plain_record("a"), record("b", audio("tgt.wav", duration=0.3), audio("ref.wav"))]
    if style == "as_written":
        no_reference = plain_record("c")
        no_reference["messages"][1]["content"] = "كيف حالك"
        two_references = plain_record("d")
        two_references["messages"][0]["content"] = ["a", audio("tgt.wav")]
        records += [no_reference, two_references]
    dataset = encoded(load_here(records, prompt_style=style, use_delay_pattern=delay), SumCodec())
    assert len(dataset.lengths) == len(records)
    assert dataset.lengths == [packed_length(dataset, i, demo / "model", delay) for i in range(len(records))]


def test_an_item_holds_its_clips_in_the_order_of_its_slots(load_here: Load, tokenizer: PreTrainedTokenizerBase) -> None:
    written = record("a", audio("tgt.wav"), audio("ref.wav"))
    item = encoded(load_here([written]), SumCodec())[0]
    slots = tokenizer.convert_tokens_to_ids(["<|AUDIO|>", "<|AUDIO_OUT|>"])
    assert [token for token in item.input_ids.tolist() if token in slots] == slots
    assert item.audio_ids_start.tolist() == [0, 16], "0.61 s are 16 frames"
    assert item.audio_ids_concat.shape == (8, 26) and item.audio_ids_concat.dtype == torch.long


def test_voice_clone_trains_the_target_alone(load_here: Load, tokenizer: PreTrainedTokenizerBase) -> None:
    item = encoded(load_here([plain_record()], prompt_style="voice_clone"), SumCodec())[0]
    out = tokenizer.convert_tokens_to_ids("<|AUDIO_OUT|>")
    assert (item.input_ids == out).sum() == 2
    trained = item.label_ids[item.label_ids != -100]
    assert tokenizer.decode(trained) == "<|audio_out_bos|><|AUDIO_OUT|><|audio_eos|><|eot_id|>"


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_what_the_ranks_found_comes_back_in_order(count: int, world: int) -> None:
    items = list(range(count))
    assert interleave([items[rank::world] for rank in range(world)]) == items


@needs_samples
def test_real_speech_loads_and_is_as_long_as_its_items(
    demo: Path, tokenizer: PreTrainedTokenizerBase, codec: HiggsAudioTokenizer, tmp_path: Path
) -> None:
    records = json.loads((SAMPLES_DIR / "train_chatml_samples.json").read_text(encoding="utf-8"))[::28]
    files = []
    for r in records:
        for part in (part for message in r["messages"] for part in message["content"] if isinstance(part, dict)):
            if part["type"] == "audio":
                part["audio_url"] = str(SAMPLES_DIR / part["audio_url"])
                files.append(Path(part["audio_url"]))
    path = write_records(tmp_path / "real.jsonl", records)
    dataset = load(path, tokenizer, make_cache(tmp_path / "cache"))
    assert len(dataset) == len(records) == 4 and dataset.num_dropped == 0
    assert dataset.encode_missing(lambda: codec) == len(set(files))
    assert dataset.lengths == [packed_length(dataset, i, demo / "model") for i in range(4)]
    for i, r in enumerate(records):
        assert dataset.records[i].sample_id == r["misc"]["sample_id"]
        reference, target = files[2 * i : 2 * i + 2]
        assert same_codes(codes_of(dataset, i), [encoded_alone(codec, p) for p in (reference, target)])
