"""Test files of codes for --codes: writing, refusals, and a run that has no clips."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import arabic_voice_cloning_distributed_trainer as program
from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing import codes_file
from boson_multimodal.audio_processing.codes_file import CodesFiles, codes_name, write_codes_file
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from tests.chatml_files import audio, load, make_cache, record, write_clip, write_records
from tests.training_runs import adapter, trainer
from voice_cloning.corpora.encode import encode_files
from voice_cloning.run import data as run_data


def codes(frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1024, (8, frames), generator=generator).to(torch.int16)


def save(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata={"codec": "abc", **metadata})
    return path


def open_files(*paths: Path) -> CodesFiles:
    return CodesFiles(paths, num_codebooks=8, codebook_size=1024)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (AudioContent("clips/a.wav"), "clips/a.wav"),
        (AudioContent("clips/a.wav", offset=0.0), "clips/a.wav"),
        (AudioContent("clips/a.wav", offset=1.5, duration=2), "clips/a.wav#1.5,2.0"),
        (AudioContent("clips/a.wav", offset=1), "clips/a.wav#1.0,"),
        (AudioContent("clips/a.wav", duration=0.1), "clips/a.wav#0.0,0.1"),
        (
            AudioContent(raw_audio=b"x"),
            "raw_audio:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        ),
    ],
)
def test_the_name_of_a_clip_comes_from_its_record(content: AudioContent, name: str) -> None:
    assert codes_name(content) == name


def test_the_written_file_is_safetensors(tmp_path: Path) -> None:
    """The safetensors library reads the file."""
    wanted = {"clips/a.wav": codes(5), "كلام.wav#0.0,1.0": codes(1), 'b "quoted".wav': codes(700)}
    path = tmp_path / "codes.safetensors"
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    write_codes_file(path, shapes, (tensor.long() for tensor in wanted.values()), "abc", 25.0)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "codec": "abc", "frames_per_second": "25"}
        assert sorted(file.keys()) == sorted(wanted)
        for name, tensor in wanted.items():
            found = file.get_tensor(name)
            assert found.dtype == torch.int16 and torch.equal(found, tensor)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_more_clips_than_a_file_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_file, "LARGEST_HEADER_BYTES", 500)
    shapes = {f"{i}.wav": (8, 1) for i in range(20)}
    with pytest.raises(InputError, match="20 clips are too many for one file; export each data file to its own"):
        write_codes_file(tmp_path / "a.safetensors", shapes, [codes(1)] * 20, "abc", 25.0)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_codes_file(path, {"a.wav": (8, 5)}, [codes(5)], "abc", 25.0)
    before = path.read_bytes()

    def full() -> Iterator[Tensor]:
        yield codes(5)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"a.safetensors: cannot be written \(No space left on device\)"):
        write_codes_file(path, {"a.wav": (8, 5), "b.wav": (8, 5)}, full(), "abc", 25.0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == before
    write_codes_file(path, {"b.wav": (8, 6)}, [codes(6)], "abc", 25.0)
    assert list(open_files(path)._file_of) == ["b.wav"]


def test_files_that_do_not_go_together_are_listed_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"hello")
    paths = [
        save(tmp_path / "a.safetensors", {"a.wav": codes(3)}),
        save(tmp_path / "b.safetensors", {"a.wav": codes(3)}, codec="another"),
        save(tmp_path / "c.safetensors", {"c.wav": codes(3)}, frames_per_second="fast"),
        broken,
        tmp_path / "gone.safetensors",
    ]
    save_file({"d.wav": codes(3)}, tmp_path / "d.safetensors")
    with pytest.raises(InputError) as caught:
        open_files(*paths, tmp_path / "d.safetensors")
    message = str(caught.value)
    for wanted in (
        "broken.safetensors: cannot be read as safetensors",
        "gone.safetensors: cannot be read as safetensors",
        "d.safetensors: its metadata have no 'codec'",
        "b.safetensors: 'a.wav' is in another file too",
        "of different codecs",
        "frames_per_second is 'fast'; it must be a number above 0",
    ):
        assert wanted in message, wanted


WRONG: dict[str, tuple[Tensor | None, str]] = {
    "missing": (None, "'tgt.wav': not in"),
    "another type": (codes(5).int(), "is int32; codes are int16"),
    "seven codebooks": (codes(5)[:7].clone(), "has shape (7, 5); codes are (8, frames), with at least one frame"),
    "one dimension": (codes(5)[0].clone(), "has shape (5,)"),
    "no frame": (codes(0), "has shape (8, 0); codes are (8, frames), with at least one frame"),
    "too high": (codes(5).fill_(1024), "has codes from 1024 to 1024; they must be from 0 to 1023"),
    "negative": (codes(5).fill_(-1), "has codes from -1 to -1; they must be from 0 to 1023"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_codes_are_named_by_sample_and_field(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """No audio exists in this test."""
    wrong, expected = WRONG[name]
    tensors = {"ref.wav": codes(10), "sound.wav": codes(16)} | ({} if wrong is None else {"tgt.wav": wrong})
    files = open_files(save(tmp_path / "codes.safetensors", tensors))
    path = write_records(
        tmp_path / "data.json",
        [record("s1", audio("ref.wav"), audio("tgt.wav")), record("s2", audio("ref.wav"), audio("sound.wav"))],
    )
    with pytest.raises(InputError) as caught:
        load(path, tokenizer, files)
    (line,) = [line for line in str(caught.value).splitlines() if "s1" in line]
    assert line.startswith("  s1: messages[2].content[1].audio_url: 'tgt.wav'") and expected in line
    assert "s2" not in str(caught.value)
    assert [r.sample_id for r in load(path, tokenizer, files, drop_invalid=True).records] == ["s2"]


def test_a_sample_holds_the_codes_of_the_file(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tensors = {"ref.wav": codes(10), "long.wav#1.5,2.0": codes(16, seed=1)}
    files = open_files(save(tmp_path / "codes.safetensors", tensors))
    written = record("s", audio("ref.wav"), audio("long.wav", offset=1.5, duration=2))
    dataset = load(write_records(tmp_path / "data.json", [written]), tokenizer, files)
    assert dataset.encode_missing(lambda: pytest.fail("no codec is needed")) == 0
    item = dataset[0]
    assert torch.equal(item.audio_ids_concat, torch.cat(list(tensors.values()), dim=1).long())
    fingerprint = dataset.fingerprint()
    tensors["ref.wav"][0, 0] ^= 1
    other = open_files(save(tmp_path / "other.safetensors", tensors))
    assert load(tmp_path / "data.json", tokenizer, other).fingerprint() != fingerprint


@pytest.fixture
def exported(demo: Path, tmp_path: Path) -> Path:
    """Export codes of the demo with encode, and copy the demo without clips and codec."""
    files = [demo / f"{part}_chatml_samples.json" for part in ("train", "val")]
    path = tmp_path / "codes.safetensors"
    encode_files(files, str(demo / "audio_tokenizer"), str(tmp_path / "cache"), export=path)
    ignored = shutil.ignore_patterns("clips", "audio_tokenizer", "code_cache")
    shutil.copytree(demo, tmp_path / "bare", ignore=ignored)
    return path


def test_a_run_from_codes_equals_the_run_from_clips(demo: Path, tmp_path: Path, exported: Path) -> None:
    settings = {"max_steps": 2, "logging_steps": 1}
    whole = trainer(demo, tmp_path / "whole", code_cache_dir=tmp_path / "cache", **settings).train()
    bare = trainer(tmp_path / "bare", tmp_path / "out", codes=exported, **settings).train()
    first, second = adapter(whole.checkpoint), adapter(bare.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [path.name for path in (tmp_path / "bare" / "code_cache").iterdir()] == ["prepared"], "no codes are cached"


def test_every_problem_with_codes_is_listed_before_a_weight_is_loaded(
    demo: Path, tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(program, "load_base_model", touched)
    monkeypatch.setattr(run_data, "load_higgs_audio_tokenizer", touched)
    monkeypatch.setattr(ArabicVoiceCloningDataset, "encode_missing", touched)
    with safe_open(exported, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    gone, short = sorted(tensors)[:2]
    del tensors[gone]
    tensors[short] = tensors[short][:7].clone()
    wrong = save(tmp_path / "wrong.safetensors", tensors)
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "out", codes=wrong)
    message, identity = str(caught.value), codec_identity(demo / "audio_tokenizer")
    assert f"--codes: made by the codec abc, and --audio_tokenizer_path is {identity}" in message
    assert f"{gone!r}: not in {wrong}" in message and f"{short!r} in {wrong}: has shape (7, " in message
    assert not (tmp_path / "out").exists()


def test_two_clips_with_one_name_are_not_exported(demo: Path, tmp_path: Path) -> None:
    paths = []
    for seed in range(2):
        folder = tmp_path / str(seed)
        write_clip(folder / "a.wav", 0.4, seed=seed)
        paths.append(write_records(folder / "data.json", [record("s", audio("a.wav"), audio("a.wav"))]))
    call: dict[str, Any] = {"codec_path": str(demo / "audio_tokenizer"), "code_cache_dir": str(tmp_path / "cache")}
    with pytest.raises(InputError, match="names of two different clips; export each data file to its own"):
        encode_files(paths, **call, export=tmp_path / "both.safetensors")
    for path in paths:
        encode_files([path], **call, export=path.with_suffix(".safetensors"))
        assert len(open_files(path.with_suffix(".safetensors"))._file_of) == 1
    assert json.loads((tmp_path / "cache" / codec_identity(demo / "audio_tokenizer") / "config.json").read_text())


def test_the_code_in_the_documentation_writes_a_valid_file(demo: Path, tmp_path: Path) -> None:
    """Run the code of docs/codes.md."""
    text = (Path(program.__file__).parent / "docs" / "codes.md").read_text(encoding="utf-8")
    listing = text.split("```python\n")[1].split("```")[0]
    place: dict[str, Callable[..., Any]] = {}
    exec(compile(listing, "codes.md", "exec"), place)
    place["write_codes"](tmp_path / "a.safetensors", {"a.wav": codes(9).numpy()}, demo / "audio_tokenizer")
    files = open_files(tmp_path / "a.safetensors")
    assert files.codec == codec_identity(demo / "audio_tokenizer")
    assert torch.equal(files.find(None, "a.wav").codes_KT, codes(9).long())
    assert make_cache(tmp_path).store.sizes() == (0, 0, 0)
