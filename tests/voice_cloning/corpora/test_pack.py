"""Prepared data hold what training reads from the ChatML file, bit for bit, and refuse what does not fit."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.audio_processing.higgs_audio_tokenizer import codec_identity
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.prepared_dataset import PreparedDataset
from tests.chatml_files import audio, load, make_cache, record, text, write_clip, write_records
from tests.training_runs import assert_same_adapter, metrics, trainer
from tests.voice_cloning.corpora.encoded_clips import clips_and_records, make_old
from tests.voice_cloning.corpora.packed_data import assert_same_data, contents, from_file, pack, prepared
from tools.prepare_data.__main__ import main
from voice_cloning.corpora import packing
from voice_cloning.corpora.encode import encode_files
from voice_cloning.run.own_packing import OwnPacking


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 records and shards of 4 clips, so that small files have several."""
    monkeypatch.setattr(packing, "RECORDS_OF_BLOCK", 3)
    monkeypatch.setattr(packing, "CLIPS_OF_SHARD", 4)


def test_a_run_from_prepared_data_is_that_from_the_file_and_needs_nothing_else(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file, clips, codec nor cache; also where a run that began with the file goes on from the folder.

    The same holds for a run that packs the file by itself. It keeps nothing of the file in memory.
    """
    for part in ("train", "val"):
        how = {"prompt_style": "voice_clone", "code_cache_dir": str(demo / "code_cache")}
        pack(demo, demo / f"{part}_chatml_samples.json", tmp_path / part, **how)
    with monkeypatch.context() as patch:
        patch.setattr(OwnPacking, "find", lambda *_: None)
        patch.setattr(OwnPacking, "pack", lambda _, dataset: dataset)
        file = trainer(demo, tmp_path / "file")
        assert isinstance(file.components.data.train_dataset, ArabicVoiceCloningDataset)
        file.train()
    del file
    own = trainer(demo, tmp_path / "own")
    gc.collect()
    kept = [found for found in gc.get_objects() if type(found) is ArabicVoiceCloningDataset]
    assert not [found for found in kept if found.data_path == demo / "train_chatml_samples.json"]
    own.train()
    assert metrics(tmp_path / "own") == metrics(tmp_path / "file")
    assert_same_adapter(tmp_path / "own" / "checkpoint-000006", tmp_path / "file" / "checkpoint-000006")
    bare = tmp_path / "bare"
    shutil.copytree(demo / "model", bare / "model")
    where = {"data_path": tmp_path / "train", "eval_data_path": tmp_path / "val"}
    whole = trainer(bare, tmp_path / "whole", **where)
    assert isinstance(whole.components.data.train_dataset, PreparedDataset)
    whole.train()
    assert not (bare / "code_cache").exists()
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "file")
    assert_same_adapter(tmp_path / "whole" / "checkpoint-000006", tmp_path / "file" / "checkpoint-000006")
    shutil.copytree(tmp_path / "file", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-000006")
    resumed = trainer(bare, tmp_path / "resumed", **where)
    assert resumed.components.state.step == 4, "the identity of the data is that of the file"
    resumed.train()
    assert_same_adapter(tmp_path / "resumed" / "checkpoint-000006", tmp_path / "file" / "checkpoint-000006")


def conversations(folder: Path) -> list[dict[str, Any]]:
    """Cuts, raw bytes of none, more turns, speakers, a shared reference, ids that are not unique, an odd character."""
    clips = [write_clip(folder / f"{i}.wav", 0.4 + 0.04 * i, seed=i) for i in range(5)]
    make_old(*clips)
    found = [record(f"s{i}", audio("0.wav"), audio(f"{1 + i % 4}.wav"), speaker=f"v{i % 2}") for i in range(6)]
    found.append(record("cut", audio("1.wav", offset=0.1, duration=0.2), audio("2.wav", duration=9.0)))
    turns = record("s0", audio("3.wav"), audio("4.wav"), speaker="")
    turns["messages"][2:2] = [{"role": "assistant", "content": [text("نعم")]}, {"role": "user", "content": "وبعد؟"}]
    odd = record("a\u2028\ud800b", audio("4.wav"), audio("3.wav"))
    unnamed = record("unused", audio("2.wav"), audio("1.wav"))
    del unnamed["misc"]
    return [*found, turns, odd, unnamed]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("style", ["as_written", "voice_clone"])
def test_a_folder_gives_what_the_file_gives(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, name: str, style: str
) -> None:
    records = conversations(tmp_path)
    if name.endswith("l"):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, records)) + "\n\n", encoding="utf-8-sig")
    else:
        path = write_records(tmp_path / name, records)
    how = {"prompt_style": style, "text_normalisation": "speech", "drop_invalid": True}
    summary = pack(demo, path, tmp_path / "packed", **how)
    wanted = from_file(demo, path, tmp_path / "packed", tokenizer, **how)
    found = prepared(tmp_path / "packed")
    assert_same_data(found, wanted)
    assert (summary.samples, summary.dropped) == (len(wanted), wanted.num_dropped)
    assert {**found.summary(), "file": name, "hours": 0} == {**wanted.summary(), "hours": 0}
    assert list(summary.notes) == found.notes() == wanted.notes()
    if style == "as_written":
        assert summary.samples == 10 and summary.clips == 7 and "1 cuts end after their files" in summary.notes[0]


def test_problems_are_those_of_training_and_all_at_once(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    records = conversations(tmp_path)
    records[1] = record("no file", audio("0.wav"), audio("none.wav"))
    records[4] = record("no text", audio("0.wav"), audio("1.wav"))
    records[4]["messages"][2]["content"][0]["text"] = " "
    records[9] = "no record"
    path = write_records(tmp_path / "data.json", records)
    cache = make_cache(tmp_path / "cache", codec_identity(demo / "audio_tokenizer"))
    with pytest.raises(InputError) as wanted:
        load(path, tokenizer, cache, max_positions=70)
    with pytest.raises(InputError) as found:
        pack(demo, path, tmp_path / "packed", max_positions_per_sample=70)
    assert str(found.value) == str(wanted.value)
    assert all(part in str(found.value) for part in ("no file", "no text", "record 9", "positions long"))
    assert not list((tmp_path / "cache").glob("*/*.pack")), "nothing is encoded"
    summary = pack(demo, path, tmp_path / "packed", drop_invalid=True)
    assert_same_data(
        prepared(tmp_path / "packed"), from_file(demo, path, tmp_path / "packed", tokenizer, drop_invalid=True)
    )
    assert summary.dropped == 3


@pytest.mark.parametrize(
    "content",
    ['{"a": 1}\n{"b": \n[1,,2]\n', "", "\n\n", "\ud800".encode("utf-8", "surrogatepass"), "[]", "{", '{"a": 1}'],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_file_that_is_no_chatml_is_refused_as_in_training(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase, content: str | bytes, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as wanted:
        load(path, tokenizer, make_cache(tmp_path / "other"))
    with pytest.raises(InputError) as found:
        pack(demo, path, tmp_path / "packed")
    assert str(found.value) == str(wanted.value)


def test_codes_from_files_take_the_place_of_clips_and_codec(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = clips_and_records(tmp_path, 7)
    codes = tmp_path / "codes.safetensors"
    encode_files([path], str(demo / "audio_tokenizer"), str(tmp_path / "cache"), export=codes)
    for clip in tmp_path.glob("*.wav"):
        clip.unlink()
    pack(demo, path, tmp_path / "packed", codes=[str(codes)], code_cache_dir=str(tmp_path / "none"))
    wanted = load(path, tokenizer, CodesFiles([codes], num_codebooks=8, codebook_size=1024))
    wanted.encode_missing(lambda: pytest.fail("no codec is needed"))
    assert_same_data(prepared(tmp_path / "packed"), wanted)
    assert not (tmp_path / "none").exists()


def test_the_same_command_again_does_nothing_and_other_data_are_refused(demo: Path, tmp_path: Path) -> None:
    path, folder = clips_and_records(tmp_path, 4), tmp_path / "packed"
    assert not pack(demo, path, folder).was_there
    before = contents(folder)
    assert pack(demo, path, folder).was_there and contents(folder) == before
    assert sorted(p.name.split("-")[0] for p in folder.iterdir()) == ["manifest.json", "shards"]
    with pytest.raises(InputError, match="packed: holds data.json as prepared before, from another file or with other"):
        pack(demo, path, folder, prompt_style="voice_clone")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"mine: holds other files; give a new folder \(1\):\n  thesis.txt"):
        pack(demo, path, tmp_path / "mine")
    with pytest.raises(InputError, match="thesis.txt: is a file; give a folder"):
        pack(demo, path, tmp_path / "mine" / "thesis.txt")


def test_a_folder_of_other_settings_is_refused_with_each_difference(demo: Path, tmp_path: Path) -> None:
    pack(demo, clips_and_records(tmp_path, 2), tmp_path / "packed")
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "out", data_path=tmp_path / "packed", text_normalisation="speech")
    assert "packed: was prepared for another run" in str(caught.value)
    assert "prompt_style is 'as_written' in the folder and 'voice_clone' by --prompt_style" in str(caught.value)
    assert "text_normalisation is 'none' in the folder and 'speech' by --text_normalisation" in str(caught.value)
    other = tmp_path / "other"
    shutil.copytree(demo / "model", other / "model")
    tokenizer = other / "model" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    shutil.copytree(demo / "audio_tokenizer", other / "audio_tokenizer")
    config = other / "audio_tokenizer" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("{", '{"note": 1,', 1), encoding="utf-8")
    where = {"data_path": tmp_path / "packed", "eval_data_path": tmp_path / "packed", "prompt_style": "as_written"}
    with pytest.raises(InputError) as caught:
        trainer(other, tmp_path / "out", **where)
    differences = [line for line in str(caught.value).splitlines() if line.startswith("  ")]
    assert len(differences) in (2, 4) and f"by {tokenizer}" in str(caught.value)


def test_a_folder_and_a_file_may_be_used_together_and_a_folder_that_is_not_whole_is_named(
    demo: Path, tmp_path: Path
) -> None:
    path = clips_and_records(tmp_path, 3)
    pack(demo, path, tmp_path / "packed")
    where = {"code_cache_dir": tmp_path / "cache", "prompt_style": "as_written"}
    run = trainer(demo, tmp_path / "out", data_path=tmp_path / "packed", eval_data_path=path, **where)
    data = run.components.data
    assert data.train_dataset.fingerprint() == data.eval_dataset.fingerprint() and data.codec.is_whole
    (tmp_path / "packed" / "manifest.json").unlink()
    with pytest.raises(InputError) as caught:
        trainer(demo, tmp_path / "out", data_path=tmp_path / "packed", eval_data_path=tmp_path / "none")
    assert f"--data_path {tmp_path / 'packed'}: a folder without manifest.json: no prepared data, or" in str(
        caught.value
    )
    assert f"--eval_data_path {tmp_path / 'none'}: no such file" in str(caught.value)


def test_the_command_says_what_it_packed(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = clips_and_records(tmp_path, 3)
    words = ["pack", str(path), "--output_dir", str(tmp_path / "packed"), "--model_path", str(demo / "model")]
    words += ["--codec", str(demo / "audio_tokenizer"), "--code_cache_dir", str(tmp_path / "cache")]
    assert main([*words, "--num_workers", "0"]) == 1
    assert "--num_workers 0: must be at least 1" in capsys.readouterr().err
    for said in ("data.json is packed: 3 samples", "these data were there already: 3 samples"):
        assert main([*words, "--num_workers", "1"]) == 0
        out = capsys.readouterr().out
        assert said in out and f"train with --data_path {tmp_path / 'packed'}" in out


def test_a_damaged_folder_is_named(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    pack(demo, clips_and_records(tmp_path, 4), folder)
    whole = contents(folder)
    data = prepared(folder)
    for table, column, row in ((data._samples, "input_ids", 3), (data._clips, "codes", 2)):
        shard, own_row = table.place(row)
        name, ending = str(shard.path.relative_to(folder)), f"row {own_row}, {column}: damaged"
        place = whole[name].index(table.read(column, row).tobytes()) + 5
        damaged = whole[name][:place] + bytes([whole[name][place] ^ 16]) + whole[name][place + 1 :]
        (folder / name).write_bytes(damaged)
        found, wrong = prepared(folder), []
        for index in range(len(found)):
            try:
                found[index]
            except InputError as error:
                wrong.append(index)
                assert f"packed: sample {index} of data.json: {folder / name}: {ending}" in str(error)
        assert wrong, "every sample that holds the damage is refused"
        (folder / name).write_bytes(whole[name])
    for name in whole:
        (folder / name).unlink()
        with pytest.raises(InputError, match=str(folder / name) if name != "manifest.json" else "no manifest.json"):
            prepared(folder)
        (folder / name).write_bytes(whole[name])
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"dropped": 0', b'"dropped": 1'))
    with pytest.raises(InputError, match="manifest.json: damaged"):
        prepared(folder)


def test_samples_over_the_limit_of_a_run_are_refused_or_dropped_as_from_the_file(
    demo: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path, folder = clips_and_records(tmp_path, 7), tmp_path / "packed"
    pack(demo, path, folder)
    lengths = prepared(folder).lengths
    limit = int(sorted(lengths)[4])
    with pytest.raises(InputError) as wanted:
        from_file(demo, path, folder, tokenizer, max_positions=limit)
    with pytest.raises(InputError) as found:
        prepared(folder, limit)
    assert str(found.value).replace(str(folder), str(path)) == str(wanted.value)
    assert_same_data(
        prepared(folder, limit, drop_invalid=True),
        from_file(demo, path, folder, tokenizer, max_positions=limit, drop_invalid=True),
    )
    assert prepared(folder, limit, drop_invalid=True).num_dropped == sum(lengths > limit) > 0
    with pytest.raises(InputError, match="none of its 7 samples is valid"):
        prepared(folder, 3, drop_invalid=True)
