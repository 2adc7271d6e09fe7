"""Training packs a ChatML file by itself and finds it again; nothing that has changed is missed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal import circumstances
from boson_multimodal.audio_processing import content_hashes
from boson_multimodal.audio_processing.codes_file import write_codes_file
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from tests.chatml_files import audio, record, write_clip, write_records
from tests.voice_cloning.corpora.encoded_clips import make_old
from tests.voice_cloning.corpora.packed_data import assert_same_data, from_file
from tests.voice_cloning.run.packed_starts import again, folders
from voice_cloning.corpora import packed_files
from voice_cloning.training import data as training_data


def test_the_second_start_reads_neither_file_nor_clips(
    demo: Path, files: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = from_file(demo, files / "data.json", files / "prepared", tokenizer)
    first = again(demo, files)
    assert not first.was_found and isinstance(first.dataset, PreparedDataset)
    assert_same_data(first.dataset, wanted)
    assert first.dataset.data_path == files / "data.json" and first.dataset.summary()["file"] == "data.json"
    assert first.dataset.notes() == wanted.notes() and first.fingerprint == wanted.fingerprint()
    monkeypatch.setattr(training_data, "ArabicVoiceCloningDataset", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(content_hashes, "content_hash", lambda _: 1 / 0)
    second = again(demo, files)
    assert second.was_found
    assert_same_data(second.dataset, wanted)
    folder = folders(files / "cache")[0]
    assert f"3 samples found as prepared in {folder} ({files / 'data.json'} has not changed)" in second.lines


def test_what_else_decides_the_samples_is_packed_anew(demo: Path, files: Path) -> None:
    again(demo, files)
    for settings in ({"text_normalisation": "speech"}, {"prompt_style": "voice_clone"}, {"drop_invalid": True}):
        assert not again(demo, files, **settings).was_found
        assert again(demo, files, **settings).was_found
    assert not again(demo, files, max_positions_per_sample=300).was_found
    records = json.loads((files / "data.json").read_text(encoding="utf-8"))
    write_records(files / "data.json", records[:2])
    assert again(demo, files).ids == ["s0", "s1"]
    write_records(files / "data.json", records)
    assert again(demo, files).was_found, "the folder of the file before is still there"
    shutil.copytree(files, files.parent / "moved")
    assert not again(demo, files.parent / "moved").was_found, "clips are named relative to the file"


def test_a_later_release_packs_anew(demo: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again(demo, files)
    monkeypatch.setattr(packed_files, "program_digest", lambda: "later")
    assert not again(demo, files).was_found


def test_another_recording_under_the_same_name_is_noticed(demo: Path, files: Path) -> None:
    """Also if it has the same size; and the first one, if it comes back."""
    clip, first = files / "1.wav", again(demo, files)
    old, when = clip.read_bytes(), clip.stat().st_mtime
    write_clip(clip, 0.32, seed=99)
    make_old(clip)
    changed = again(demo, files)
    assert len(clip.read_bytes()) == len(old) and not changed.was_found
    assert changed.fingerprint != first.fingerprint and again(demo, files).was_found
    clip.write_bytes(old)
    os.utime(clip, (when - 100, when - 100))
    found = again(demo, files)
    assert found.was_found and found.fingerprint == first.fingerprint and len(folders(files / "cache")) == 2


def test_a_clip_with_another_time_is_read_once(demo: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again(demo, files)
    os.utime(files / "1.wav", (1e9, 1e9))
    assert again(demo, files).was_found
    shutil.rmtree(files / "cache" / "content_hashes")
    monkeypatch.setattr(content_hashes, "content_hash", lambda _: 1 / 0)
    assert again(demo, files).was_found


def test_a_clip_that_was_just_written_may_change_and_keep_its_time(demo: Path, files: Path) -> None:
    clip = files / "1.wav"
    os.utime(clip)
    found, first = clip.stat(), again(demo, files)
    write_clip(clip, 0.32, seed=99)
    os.utime(clip, ns=(found.st_mtime_ns, found.st_mtime_ns))
    assert clip.stat().st_size == found.st_size
    assert again(demo, files).fingerprint != first.fingerprint


def test_a_clip_that_is_gone_is_no_error_but_its_last_version_counts(demo: Path, files: Path) -> None:
    first = again(demo, files)
    write_clip(files / "1.wav", 0.32, seed=99)
    make_old(files / "1.wav")
    changed = again(demo, files)
    for name in ("1.wav", "ref.wav"):
        (files / name).unlink()
    found = again(demo, files)
    assert found.was_found and found.fingerprint == changed.fingerprint != first.fingerprint
    assert f"{files / 'data.json'}: 2 clips are missing; their codes are in the folder" in found.lines
    shutil.rmtree(files / "cache" / "prepared")
    assert again(demo, files).fingerprint == changed.fingerprint, "the file gives the same"


def test_a_sample_that_has_become_valid_is_not_left_out(demo: Path, files: Path) -> None:
    """It was left out because its clip was missing, no sound, or too long."""
    records = json.loads((files / "data.json").read_text(encoding="utf-8"))
    records += [record(name, audio("ref.wav"), audio(f"{name}.wav")) for name in ("none", "noise", "long")]
    write_records(files / "data.json", records)
    (files / "noise.wav").write_bytes(b"no sound at all")
    write_clip(files / "long.wav", 9.0)
    make_old(files / "noise.wav", files / "long.wav")
    how = {"drop_invalid": True, "max_positions_per_sample": 200}
    assert again(demo, files, **how).ids == ["s0", "s1", "s2"]
    found = again(demo, files, **how)
    assert found.was_found and found.dataset.num_dropped == 3
    for name in ("none", "noise", "long"):
        write_clip(files / f"{name}.wav", 0.3, seed=50)
        make_old(files / f"{name}.wav")
        found = again(demo, files, **how)
        assert name in found.ids and not found.was_found
    assert again(demo, files, **how).was_found


@pytest.mark.parametrize("name", ["manifest.json", "shards-*/samples-00000.safetensors", "*.clips.safetensors"])
def test_damaged_files_are_made_again(demo: Path, files: Path, name: str) -> None:
    first = again(demo, files)
    folder = folders(files / "cache")[0]
    path = next((folder.parent if name.startswith("*") else folder).glob(name))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if name == "manifest.json" else 700] ^= 1
    path.write_bytes(content)
    made = again(demo, files)
    assert not made.was_found and made.fingerprint == first.fingerprint
    assert again(demo, files).was_found and len(folders(files / "cache")) == 1


def test_codes_from_files_are_packed_too(demo: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips play no part then; a file of codes that has changed does."""
    generator = torch.Generator().manual_seed(0)
    names = [f"{name}.wav" for name in ("ref", "0", "1", "2")]
    codes = {name: torch.randint(0, 1024, (8, 10), generator=generator) for name in names}

    def write() -> None:
        shapes = {name: tuple(found.shape) for name, found in codes.items()}
        write_codes_file(files / "codes.safetensors", shapes, codes.values(), "made", 25.0)

    write()
    how = {"codes": files / "codes.safetensors", "audio_tokenizer_path": "nowhere/at-all"}
    first = again(demo, files, **how)
    for clip in files.glob("*.wav"):
        clip.unlink()
    with monkeypatch.context() as patch:
        patch.delenv("HOME")
        patch.setattr(circumstances.os.path, "expanduser", str)
        homeless = again(demo, files, **how, cache="~/nowhere")
    assert isinstance(homeless.dataset, ArabicVoiceCloningDataset) and homeless.fingerprint == first.fingerprint
    found = again(demo, files, **how)
    assert found.was_found and any("made by codec made" in line for line in found.lines)
    assert_same_data(found.dataset, first.dataset)
    codes["1.wav"] = codes["1.wav"].flip(0)
    write()
    found = again(demo, files, **how)
    assert not found.was_found and found.fingerprint != first.fingerprint
