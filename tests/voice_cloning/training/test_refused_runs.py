"""Another run is never continued or overwritten, and an adapter that does not fit is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

import arabic_voice_cloning_distributed_trainer as program
from arabic_text import sample_texts
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.errors import InputError
from tests.training_runs import flags, trainer
from voice_cloning.corpora import packed_files
from voice_cloning.corpora.normalise_files import normalise_file
from voice_cloning.run import components


@pytest.fixture(scope="module")
def finished(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "out"
    subject = trainer(demo, folder, max_steps=2)
    subject.train()
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rate": 1e-3}, "flags.learning_rate: was 0.003, is 0.001"),
        ({"max_steps": 9}, "flags.max_steps: was 2, is 9"),
        ({"gradient_accumulation_steps": 2}, "flags.gradient_accumulation_steps: was 1, is 2"),
        ({"prompt_style": "as_written"}, "train_data.fingerprint: was"),
        ({"resume": "none"}, "holds a run; --resume auto continues it, --overwrite removes it"),
    ],
)
def test_another_run_is_never_continued_or_overwritten(
    demo: Path, finished: Path, overrides: dict[str, object], message: str
) -> None:
    before = sorted(finished.rglob("*"))
    with pytest.raises(InputError, match=message):
        trainer(demo, finished, **{"max_steps": 2, **overrides})
    assert sorted(finished.rglob("*")) == before


def test_a_run_without_the_evaluation_data_is_another_run(demo: Path, finished: Path) -> None:
    """All flags are given here. On the command line a missing flag takes the value of the run."""
    training, *others = program.parse_arguments(flags(demo, finished, max_steps=2), "")
    with pytest.raises(InputError, match="eval_data: was .* is None"):
        ArabicVoiceCloningDistributedTrainer(dataclasses.replace(training, eval_data_path=None), *others)


def test_changed_data_is_refused_by_fingerprint_and_count(demo: Path, finished: Path, tmp_path: Path) -> None:
    records = json.loads((demo / "train_chatml_samples.json").read_text(encoding="utf-8"))
    fewer = demo / "fewer.json"
    fewer.write_text(json.dumps(records[1:]), encoding="utf-8")
    with pytest.raises(InputError, match=r"train_data.samples: was 16, is 15\n.*train_data.fingerprint"):
        trainer(demo, finished, max_steps=2, data_path=fewer)


def test_a_run_whose_numbers_are_read_in_other_words_is_refused_and_the_remedy_continues_it(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = {"max_steps": 2, "text_normalisation": "speech"}
    trainer(demo, tmp_path / "out", **spoken).train()
    files = [demo / f"{part}_chatml_samples.json" for part in ("train", "val")]
    for file in files:
        normalise_file(file, tmp_path / "normalised")
    monkeypatch.setattr(sample_texts, "normalise_text", lambda text, how: text.replace("ا", "أ"))
    monkeypatch.setattr(packed_files, "program_digest", lambda: "of another release")
    with pytest.raises(
        InputError, match=r"(?s)train_data.fingerprint: was .*reads some of their numbers in other words"
    ):
        trainer(demo, tmp_path / "out", **spoken)
    monkeypatch.undo()
    normalised = [tmp_path / "normalised" / file.name for file in files]
    resumed = trainer(demo, tmp_path / "out", **spoken, data_path=normalised[0], eval_data_path=normalised[1])
    resumed.train()


def test_another_world_size_is_refused(demo: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = components.run_identity
    monkeypatch.setattr(components, "run_identity", lambda *args: {**identity(*args), "world_size": 2})
    with pytest.raises(InputError, match="world_size: was 1, is 2"):
        trainer(demo, finished, max_steps=2)


def test_overwrite_starts_at_step_0_and_keeps_other_files(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    subject = trainer(demo, out, max_steps=3)
    subject.train()
    (out / "notes.txt").write_text("mine")
    subject = trainer(demo, out, max_steps=2, overwrite=True)
    assert subject.components.state.step == 0
    subject.train()
    assert [p.name for p in subject.components.opened.directory.checkpoints()] == ["checkpoint-000002"]
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_cannot_train_into_one_folder(demo: Path, tmp_path: Path) -> None:
    first = trainer(demo, tmp_path / "out")
    with pytest.raises(InputError, match="another process is training into it"):
        trainer(demo, tmp_path / "out")
    first.components.opened.directory.close()


def test_float16_is_refused_with_the_reason(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="float16, which overflows in this model; use bfloat16"):
        trainer(demo, tmp_path / "out", torch_dtype="float16")


def test_an_adapter_that_does_not_fit_is_refused_before_any_weight_is_loaded(
    demo: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "load_base_model", None)
    with pytest.raises(InputError, match="r is 16, the flags ask for 8"):
        trainer(demo, tmp_path / "out", init_adapter=finished / "checkpoint-000002", lora_rank=8)
    with pytest.raises(InputError, match="no adapter_config.json and no adapter_model.safetensors in it"):
        trainer(demo, tmp_path / "out", init_adapter=tmp_path)
