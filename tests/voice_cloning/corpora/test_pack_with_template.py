"""Prepared data know the prompt template that they were made with, and references are drawn with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.errors import InputError
from boson_multimodal.prepared_data.drawn_references import DrawnReferences
from boson_multimodal.prepared_data.prepared_folder import read_manifest
from tests.chatml_files import audio, load, text
from tests.training_runs import trainer
from tests.voice_cloning.corpora.packed_data import assert_same_data, same_sample
from tests.voice_cloning.corpora.spoken_corpus import SpokenCorpus
from tools.prepare_data.__main__ import main

ALONE = {"reference_text": "{reference_text}", "target_text": "{target_text}"}
FIXED = json.dumps({"system": "Speak.", "scene": "A quiet room.", **ALONE})
BY_RECORD = json.dumps({"system": "Speak {dialect}.", **ALONE, "defaults": {"dialect": "Gulf"}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> SpokenCorpus:
    """Eight clips of one speaker: any of them may draw any other one."""
    made = SpokenCorpus(tmp_path_factory.mktemp("corpus"))
    for frames in (75, 80, 90, 100, 110, 120, 130, 140):
        made.add("amal", frames)
    return made


@pytest.fixture(scope="module")
def packed(demo: Path, corpus: SpokenCorpus) -> Path:
    return corpus.pack(demo, "fixed", prompt_template=FIXED)


def test_a_folder_of_another_template_or_of_none_is_refused(
    demo: Path, corpus: SpokenCorpus, packed: Path, tmp_path: Path
) -> None:
    plain = corpus.pack(demo, "plain")
    assert "prompt_template" not in read_manifest(plain)["settings"], "as in folders of earlier releases"
    how = {"eval_data_path": None, "num_scored_samples": 0}
    for folder, given, was in ((packed, None, FIXED), (plain, FIXED, "none"), (packed, BY_RECORD, FIXED)):
        with pytest.raises(InputError) as caught:
            trainer(demo, tmp_path / "run", data_path=folder, prompt_template=given, **how)
        said = f"prompt_template is {was!r} in the folder and {given or 'none'!r} by --prompt_template"
        assert said in str(caught.value)
    trained = trainer(demo, tmp_path / "run", data_path=packed, prompt_template=FIXED, **how)
    file, codes = corpus.write(read_manifest(packed)["settings"]["codec"])
    of_file = trainer(
        demo, tmp_path / "file", data_path=file, codes=codes, code_cache_dir=tmp_path, prompt_template=FIXED, **how
    )
    data = [run.components.data for run in (trained, of_file)]
    assert_same_data(data[0].train_dataset, data[1].train_dataset)
    again = trainer(
        demo, tmp_path / "other", data_path=file, codes=codes, code_cache_dir=tmp_path, prompt_template=BY_RECORD, **how
    )
    own = of_file, again
    fingerprints = {run.components.data.train_dataset.fingerprint() for run in own}
    assert len(fingerprints) == 2, "what the program packed by itself is not taken for another template"


def test_the_command_packs_with_a_template(
    demo: Path, corpus: SpokenCorpus, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.json"
    path.write_text(FIXED, encoding="utf-8")
    file, codes = corpus.write(read_manifest(packed)["settings"]["codec"])
    words = ["pack", file, "--output_dir", packed, "--model_path", demo / "model", "--codec", "no", "--codes", codes]
    words += ["--prompt_template", path, "--num_workers", "1"]
    assert main(list(map(str, words))) == 1, "another way to find the same speech"
    assert main([*map(str, words), "--same_speech", "codes"]) == 0
    assert "these data were there already: 8 samples" in capsys.readouterr().out
    assert main([*map(str, words), "--prompt_style", "as_written"]) == 1
    assert "prompt_template is given, and prompt_style is as_written" in capsys.readouterr().err


def test_a_drawn_reference_gives_the_sample_of_a_record_with_it(
    packed: Path, corpus: SpokenCorpus, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    limits = {"use_delay_pattern": True, "max_positions": 2048, "drop_invalid": False}
    data = DrawnReferences(packed, {}, seed=0, **limits)
    found, named = data.of_epoch(0), SpokenCorpus(tmp_path)
    named.tensors = dict(corpus.tensors)
    for index, made in enumerate(corpus.records):
        parts = found.draws.parts(index)
        assert parts
        named.tensors[f"drawn{index}.wav"] = np.concatenate([corpus.tensors[corpus.names[i]] for i in parts], axis=1)
        user, assistant = made["messages"][1:]
        content = [text(" ".join(corpus.texts[i] for i in parts)), audio(f"drawn{index}.wav"), user["content"][2]]
        named.records.append({**made, "messages": [made["messages"][0], {**user, "content": content}, assistant]})
    path, codes = named.write("codec")
    how = {"prompt_style": "voice_clone", "prompt_template": FIXED}
    wanted = load(path, tokenizer, CodesFiles([codes], 8, 1024), **how)
    wanted.encode_missing(lambda: pytest.fail("no codec is needed"))
    assert all(same_sample(found[index], wanted[index]) for index in range(len(data)))


def test_references_are_not_drawn_where_prompts_differ_around_the_texts(demo: Path, corpus: SpokenCorpus) -> None:
    folder = corpus.pack(demo, "by_record", prompt_template=BY_RECORD)
    assert "references" not in read_manifest(folder)
    with pytest.raises(InputError, match="reference is random, and the prompt template has fields of the record"):
        ArabicVoiceCloningDatasetConfig(reference="random", prompt_template=BY_RECORD)
    words = json.dumps({**ALONE, "target_text": "Say: {target_text}"})
    with pytest.raises(InputError, match="or words beside {reference_text} or {target_text}"):
        ArabicVoiceCloningDatasetConfig(reference="random", prompt_template=words)
    assert ArabicVoiceCloningDatasetConfig(reference="random", prompt_template=FIXED).prompt_template == FIXED
