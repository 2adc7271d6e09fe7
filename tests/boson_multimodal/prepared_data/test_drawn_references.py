"""In each epoch a sample has another recording of its speaker as reference, as if its record had named it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.candidate_pool import KEPT
from tests.chatml_files import audio, load, text
from tests.voice_cloning.corpora.packed_data import same_sample
from tests.voice_cloning.corpora.spoken_corpus import SpokenCorpus, drawn, mixed_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SpokenCorpus:
    return mixed_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def packed(demo: Path, corpus: SpokenCorpus) -> Path:
    return corpus.pack(demo)


def test_a_sample_is_that_of_a_record_which_has_the_drawn_reference(
    corpus: SpokenCorpus, packed: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Ids, labels, codes and lengths, for clips and for joins of short ones."""
    data, joins = drawn(packed), 0
    for epoch in range(3):
        found = data.of_epoch(epoch)
        named = SpokenCorpus(tmp_path)
        named.tensors = dict(corpus.tensors)
        for index, made in enumerate(corpus.records):
            user, assistant = made["messages"][1:]
            parts = found.draws.parts(index)
            joins += len(parts) > 1
            if parts:
                name = f"drawn{index}.wav"
                named.tensors[name] = np.concatenate([corpus.tensors[corpus.names[part]] for part in parts], axis=1)
                words = " ".join(corpus.texts[part] for part in parts)
                user = {**user, "content": [text(words), audio(name), user["content"][2]]}
            named.records.append({**made, "messages": [made["messages"][0], user, assistant]})
        path, codes = named.write("codec")
        wanted = load(path, tokenizer, CodesFiles([codes], 8, 1024), prompt_style="voice_clone")
        wanted.encode_missing(lambda: pytest.fail("no codec is needed"))
        assert found.lengths.tolist() == wanted.lengths.tolist()
        for name in ("text_positions", "text_labels"):
            assert getattr(found.sizes, name).tolist() == getattr(wanted.sizes, name).tolist()
        for index in range(len(data)):
            assert same_sample(found[index], wanted[index])
    assert joins > 10


def test_no_sample_draws_its_own_speech_or_another_speaker(corpus: SpokenCorpus, packed: Path) -> None:
    data = drawn(packed)
    frames = [corpus.tensors[name].shape[1] for name in corpus.names]
    drawing, keeping = set(), set()
    for epoch in range(20):
        found = data.of_epoch(epoch)
        for index in range(len(data)):
            parts = found.draws.parts(index)
            (drawing if parts else keeping).add(index)
            if not parts:
                continue
            assert {corpus.speakers[part] for part in parts} == {corpus.speakers[index]}
            speech = [corpus.speech[part] for part in parts]
            assert corpus.speech[index] not in speech
            assert len(set(speech)) == len(speech), "a join holds no recording twice"
            assert 75 <= sum(frames[part] for part in parts) <= 250
            assert len(parts) == 1 or max(frames[part] for part in parts) < 75
    by_speaker = {s: {i for i, found in enumerate(corpus.speakers) if found == s} for s in set(corpus.speakers)}
    assert by_speaker["many"] | by_speaker["short"] | by_speaker["one long"] <= drawing
    assert keeping >= by_speaker["alone"] | by_speaker["all long"] | by_speaker[None] | by_speaker[" "]
    assert not drawing & (by_speaker["alone"] | by_speaker["all long"] | by_speaker[None] | by_speaker[" "])
    assert not keeping & by_speaker["many"]


def test_draws_differ_by_epoch_and_seed_alone(packed: Path) -> None:
    def draws(seed: int, *epochs: int) -> list[list[list[int]]]:
        data = drawn(packed, seed=seed)
        made = {epoch: data.of_epoch(epoch) for epoch in epochs}
        return [[made[epoch].draws.parts(index) for index in range(len(data))] for epoch in sorted({*epochs})]

    one = draws(0, 0, 1, 2, 3)
    assert draws(0, 3, 0, 2, 1, 3) == one, "whatever was asked for before"
    assert one[0] != one[1] != one[2] and draws(1, 0)[0] != one[0]
    data = drawn(packed)
    assert data.of_epoch(1) is data.of_epoch(1) and data.of_epoch(0).fingerprint() == drawn(packed).fingerprint()
    assert data.fingerprint() != drawn(packed).of_epoch(0)._data._manifest["fingerprint"]


def test_no_draw_exceeds_the_limit(packed: Path) -> None:
    free = drawn(packed)
    longest = int(free.lengths.max())
    assert max(int(free.of_epoch(epoch).lengths.max()) for epoch in range(20)) > longest + 50
    tight = drawn(packed, max_positions=longest + 50)
    most = max(int(tight.of_epoch(epoch).lengths.max()) for epoch in range(20))
    assert longest < most <= tight.longest <= longest + 50
    assert (tight.of_epoch(0).draws.drawn == KEPT).sum() >= (free.of_epoch(0).draws.drawn == KEPT).sum()
    assert tight.fingerprint() != free.fingerprint(), "the limit decides what may be drawn"
    assert drawn(packed, max_positions=4000).fingerprint() == free.fingerprint(), "everything fits in both"
    assert all(int(free.of_epoch(epoch).lengths.max()) <= free.longest for epoch in range(20))
    dropping = drawn(packed, max_positions=int(np.median(free.lengths)), drop_invalid=True)
    assert dropping.num_dropped and int(dropping.of_epoch(4).lengths.max()) <= int(np.median(free.lengths))


def test_who_keeps_the_reference_of_the_file_is_said(packed: Path) -> None:
    lines = "\n".join(drawn(packed).notes())
    assert "samples draw one in the first epoch. Never drawn is the target's own speech" in lines
    assert "found as: the same clip; cuts of one file that overlap; the same codes" in lines
    assert "4 samples have no speaker, and keep the file's reference" in lines
    assert "2 samples keep the file's reference, because their speaker has only one recording (1: alone)" in lines
    assert "2 samples keep the file's reference in the first epoch: no other recording of their speaker" in lines


@pytest.mark.parametrize(("table", "column"), [("_samples", "input_ids"), ("_references", "joined_ids")])
def test_a_damaged_reference_is_named(packed: Path, tmp_path: Path, table: str, column: str) -> None:
    folder = tmp_path / "packed"
    shutil.copytree(packed, folder)
    data = drawn(folder)
    epoch = data.of_epoch(0)
    index, part = next(
        (i, parts[-1])
        for i in range(len(data))
        if len(parts := epoch.draws.parts(i)) > 1 and len(getattr(data, table).read(column, parts[-1]))
    )
    if column == "input_ids":
        part = epoch.draws.parts(index)[0]
    shard, row = getattr(data, table).place(part)
    whole = shard.path.read_bytes()
    first, found = np.frombuffer(shard._mapped, np.uint8), shard.read(column, row)
    place = found.__array_interface__["data"][0] - first.__array_interface__["data"][0]
    shard.path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
    with pytest.raises(InputError, match=f"packed: sample {index} of corpus.jsonl: .*row {row}, {column}: damaged"):
        drawn(folder).of_epoch(0)[index]
    shard.path.unlink()
    with pytest.raises(InputError, match=str(shard.path)):
        drawn(folder)
