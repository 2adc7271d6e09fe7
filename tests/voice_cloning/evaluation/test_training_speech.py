"""Speech during training leaves the run as it is, is the same for any number of processes, and is cut at its cap."""

import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.model.higgs_audio.generation import SamplingConfig, codes_of_columns
from boson_multimodal.process_group import Ranks
from tests.spoken_runs import SAMPLES, TINY, sample_lines, spoken_trainer
from tests.training_runs import assert_same_adapter, metrics
from voice_cloning.evaluation.asked_samples import LONGEST_IN_TRUE_CLIPS, ask_samples
from voice_cloning.evaluation.training_speech import SpokenCodes, TrainingSpeech
from voice_cloning.speech.sample_prompts import cut_at_target
from voice_cloning.training.fused_layers import FusedLayers


class HeardSounds:
    """Stands in the place of the codec: a sample of a wave for each frame. It remembers what it writes."""

    sampling_rate = 25

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, Tensor]]] = []
        self.originals: list[tuple[int, dict[str, Tensor], dict[str, Tensor]]] = []

    def decode(self, clips: dict[Any, Tensor]) -> dict[Any, Tensor]:
        return {sample: codes[0].float() for sample, codes in clips.items()}

    def write_step(self, writer: object, step: int, waves: dict[Any, Tensor]) -> None:
        self.steps.append((step, {sample.sample_id: wave for sample, wave in waves.items()}))

    def write_originals(self, writer: object, step: int, references: Any, targets: Any) -> None:
        named = [{sample.sample_id: codes for sample, codes in clips.items()} for clips in (references, targets)]
        self.originals.append((step, *named))


class Share(Ranks):
    """One of several processes, in this one. It keeps what it would send to the others."""

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: Any) -> list[Any]:
        return [value]


def speech_of(subject: ArabicVoiceCloningDistributedTrainer, **changes: Any) -> TrainingSpeech:
    """The speech of a trainer, with some of its parts exchanged."""
    made = subject.components.speech
    parts = {"ranks": made._ranks, "sounds": None, "num_heard": 0, "budget": 8192, "asked": made._asked, **changes}
    data = subject.components.data
    return TrainingSpeech(
        data.eval_dataset, data.collator, device=torch.device("cpu"), dtype=subject.placement.dtype, **parts
    )


def speak(speech: TrainingSpeech, subject: ArabicVoiceCloningDistributedTrainer) -> dict[int, SpokenCodes]:
    """The codes of each sample by its index."""
    subject.components.model.eval()
    return speech._speak_batches(subject.components.model.get_base_model(), lambda: False)


def assert_same_speech(one: dict[int, SpokenCodes], other: dict[int, SpokenCodes]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for index, spoken in one.items():
        assert torch.equal(spoken.codes_KT, other[index].codes_KT) and spoken.ended == other[index].ended


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ArabicVoiceCloningDistributedTrainer:
    """A trainer that has not trained: its adapter changes nothing yet."""
    return spoken_trainer(tmp_path_factory.mktemp("subject") / "run", num_scored_samples=64)


# -- the run is as without speech -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.2], ids=["fused layers", "plain layers with dropout"])
def test_the_weights_are_those_of_a_run_without_speech(tmp_path: Path, dropout: float) -> None:
    settings = {"lora_dropout": dropout, "max_steps": 4, "logging_steps": 1}
    spoken = spoken_trainer(tmp_path / "spoken", sample_every=1, **settings)
    layers = spoken.components.model.get_base_model().label_layers
    assert isinstance(layers, FusedLayers) == (dropout == 0.0)
    spoken.train()
    assert spoken.components.model.training and spoken.components.model.get_base_model().label_layers is layers
    spoken_trainer(tmp_path / "silent", num_scored_samples=0, **settings).train()
    for step in (3, 4):
        assert_same_adapter(*(tmp_path / name / f"checkpoint-{step:06d}" for name in ("spoken", "silent")))
    assert len(sample_lines(tmp_path / "spoken")) == 5 * 4 and sample_lines(tmp_path / "silent") == []
    silent = metrics(tmp_path / "silent")
    heard = [line for line in metrics(tmp_path / "spoken") if "sample" not in line]
    heard = [{k: v for k, v in line.items() if "spoken_" not in k and not k.startswith("true_")} for line in heard]
    assert [line for line in heard if line.keys() > {"step"}] == silent


def test_samples_are_spoken_at_each_evaluation_or_at_their_own_steps(tmp_path: Path) -> None:
    spoken_trainer(tmp_path / "default").train()
    assert sorted({line["step"] for line in sample_lines(tmp_path / "default")}) == [4, 6]
    spoken_trainer(tmp_path / "own", sample_every=5, eval_steps=3).train()
    lines = metrics(tmp_path / "own")
    assert sorted({line["step"] for line in lines if "sample" in line}) == [5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6]
    assert [line["step"] for line in lines if "spoken_stop_rate" in line] == [5, 6]
    assert [line["spoken_clips"] for line in lines if "spoken_clips" in line] == [5, 5]


def test_the_same_samples_are_spoken_each_time_with_the_same_seeds(tmp_path: Path) -> None:
    spoken_trainer(tmp_path / "run", learning_rate=1e-30).train()
    first, second = ([line for line in sample_lines(tmp_path / "run") if line["step"] == step] for step in (4, 6))
    assert [{**line, "step": 6} for line in first] == second, "an adapter that does not change speaks the same"
    assert len({line["sample"] for line in first}) == len({line["seed"] for line in first}) == 5
    assert all(
        {"text", "ended", "frames", "true_frames", "characters", "repeated_frames"} <= line.keys() for line in first
    )


# -- what is spoken ---------------------------------------------------------------------------------------------------


def test_each_clip_is_what_the_model_speaks_alone(subject: ArabicVoiceCloningDistributedTrainer) -> None:
    """With its own prompt, seed and cap, and the sampling settings of the release."""
    found, run = speak(subject.components.speech, subject), subject.components
    model, dataset = run.model.get_base_model(), run.data.eval_dataset
    assert len(found) == SAMPLES and sum(spoken.codes_KT.shape[1] for spoken in found.values()) > 10
    for sample in run.speech._asked:
        cut = cut_at_target(dataset[sample.index], model.config)
        assert sample.true_frames == cut.target_KT.shape[1] and sample.text in _texts(dataset.data_path)
        assert dataset.sample_id(sample.index) == sample.sample_id
        output = model.generate(
            **run.data.collator([cut.prompt]).prompts(),
            max_new_tokens=LONGEST_IN_TRUE_CLIPS * sample.true_frames + 9,
            seed=sample.seed,
            **vars(SamplingConfig()),
        )
        codes = codes_of_columns(output.audio_sequences[0], model.config.audio_codebook_size)
        assert torch.equal(found[sample.index].codes_KT, codes) and found[sample.index].ended == output.ended[0]


def _texts(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_text_is_that_of_its_own_record_where_invalid_ones_were_dropped(tmp_path: Path) -> None:
    data = Path(shutil.copytree(TINY, tmp_path / "data"))
    raw = json.loads((data / "train.json").read_text(encoding="utf-8"))
    (data / "val.json").write_text(json.dumps([{**raw[0], "messages": []}, raw[3], {}, raw[5], raw[5]]))
    files = {"data_path": data / "train.json", "eval_data_path": data / "val.json", "drop_invalid": True}
    asked = spoken_trainer(tmp_path / "run", **files).components.speech._asked
    found = sorted((sample.file_name, sample.text) for sample in asked)
    texts = [raw[number]["messages"][-1]["content"][0]["text"] for number in (3, 5)]
    assert found == [("sample_3", texts[0]), ("sample_5", texts[1]), ("sample_5-2", texts[1])]


def test_a_clip_that_does_not_end_is_cut_and_counts_as_not_ended(subject: ArabicVoiceCloningDistributedTrainer) -> None:
    model = subject.components.model.get_base_model()
    rows, end = model.config.codebook_rows, model.config.audio_stream_eos_id

    def never_end(module: object, inputs: object, logits: Tensor) -> Tensor:
        return logits.view(-1, 8, rows).index_fill(2, torch.tensor(end), -1e9).view_as(logits)

    hook = model.audio_decoder_proj.audio_lm_head.register_forward_hook(never_end)
    try:
        found = speak(subject.components.speech, subject)
    finally:
        hook.remove()
    for sample in subject.components.speech._asked:
        spoken = found[sample.index]
        assert not spoken.ended and spoken.codes_KT.shape[1] == 3 * sample.true_frames


def test_a_cap_stays_within_the_positions_of_the_model(tmp_path: Path) -> None:
    subject = spoken_trainer(tmp_path / "run")
    asked = subject.components.speech._asked
    longest = max(sample.prompt_positions + sample.most_columns for sample in asked)
    subject.components.data.model_config.text_config.max_position_embeddings = longest - 5
    run = subject.components.data
    found = ask_samples(run.eval_dataset, run.model_config, 5, subject.config.seed)
    assert max(sample.prompt_positions + sample.most_columns for sample in found) == longest - 5
    assert [s.index for s in found] == [s.index for s in asked]


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [2, 8])
def test_the_shares_of_all_processes_make_the_speech_of_one(
    subject: ArabicVoiceCloningDistributedTrainer, world_size: int
) -> None:
    small = {"budget": 300}  # several batches
    whole, together = speak(speech_of(subject, **small), subject), {}
    for rank in range(world_size):
        speech = speech_of(subject, ranks=Share(rank, rank, world_size), **small)
        assert len(speech.batches) > 2
        mine = speak(speech, subject)
        assert bool(mine) == (rank < len(speech.batches)) and not mine.keys() & together.keys()
        together |= mine
    assert_same_speech(whole, together)


# -- what is written --------------------------------------------------------------------------------------------------


class Lines:
    """A writer that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write_sample(self, record: dict[str, Any]) -> None:
        self.lines.append(record)


def test_heard_clips_are_the_first_and_come_with_their_originals_once(
    subject: ArabicVoiceCloningDistributedTrainer,
) -> None:
    sounds, writer = HeardSounds(), Lines()
    speech = speech_of(subject, sounds=sounds, num_heard=2)
    speech.open(writer)
    subject.components.model.eval()
    for step in (3, 6):
        speech.speak(subject.components.model.get_base_model(), step, lambda: False)
    heard = [sample.sample_id for sample in speech._asked[:2]]
    assert [(step, list(waves)) for step, waves in sounds.steps] == [(3, heard), (6, heard)]
    ((step, references, targets),) = sounds.originals
    assert (step, list(references), list(targets)) == (3, heard, heard)
    frames = {line["sample"]: line["frames"] for line in writer.lines}
    assert all(len(wave) == frames[name] for name, wave in sounds.steps[0][1].items())
    assert [line["step"] for line in writer.lines] == [3] * SAMPLES + [6] * SAMPLES
    assert {line["sample"] for line in writer.lines if "silent_frames" in line} == set(heard)


def test_a_stop_before_a_batch_writes_nothing(subject: ArabicVoiceCloningDistributedTrainer) -> None:
    sounds, writer, asked = HeardSounds(), Lines(), []
    speech = speech_of(subject, sounds=sounds, num_heard=2, budget=300)
    speech.open(writer)
    subject.components.model.eval()
    answers = iter([False, True])
    assert speech.speak(subject.components.model.get_base_model(), 3, lambda: asked.append(1) or next(answers)) is None
    assert (len(asked), writer.lines, sounds.steps) == (2, [], []) and not speech.is_speaking


# -- stopped and killed -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    spoken_trainer(folder, sample_every=2).train()
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    assert_same_adapter(folder / "checkpoint-000006", whole / "checkpoint-000006")
    assert metrics(folder) == metrics(whole)


@pytest.mark.parametrize("step", [2, 6], ids=["speech alone", "with the last evaluation"])
def test_speech_that_a_stop_signal_interrupted_is_repeated_on_resume(tmp_path: Path, whole: Path, step: int) -> None:
    stopped = spoken_trainer(tmp_path / "run", sample_every=2)
    run = stopped.components
    speak_batch = run.speech._speak_batch
    run.speech.batches = [[sample] for sample in run.speech._asked]

    def interrupted(model: object, batch: Sequence[object]) -> object:
        if run.state.step == step:
            signal.raise_signal(signal.SIGINT)
        return speak_batch(model, batch)

    run.speech._speak_batch = interrupted
    summary = stopped.train()
    assert (summary.step, summary.finished, summary.stopped_by) == (step, False, signal.SIGINT)
    assert step not in {line["step"] for line in sample_lines(tmp_path / "run")}
    assert not any("eval_loss" in line for line in metrics(tmp_path / "run") if line["step"] == step)
    assert spoken_trainer(tmp_path / "run", sample_every=2).train().finished
    assert_same_run(tmp_path / "run", whole)


class KilledError(Exception):
    """Stands for the end of a killed process."""


def kill_before_the_save_of_step_4(subject: ArabicVoiceCloningDistributedTrainer) -> None:
    """Train until the speech of step 4 is written, but not the checkpoint of step 4."""
    save = subject._save

    def killed(log: object) -> None:
        if subject.components.state.step == 4:
            raise KilledError
        save(log)

    subject._save = killed
    with pytest.raises(KilledError):
        subject.train()


def test_the_samples_of_a_killed_run_are_not_doubled(tmp_path: Path, whole: Path) -> None:
    settings = {"sample_every": 2, "save_steps": 3}
    kill_before_the_save_of_step_4(spoken_trainer(tmp_path / "run", **settings))
    assert {line["step"] for line in sample_lines(tmp_path / "run")} == {2, 4}
    assert spoken_trainer(tmp_path / "run", **settings).train().finished
    assert_same_run(tmp_path / "run", whole)


def test_speech_that_was_owed_and_killed_is_not_doubled(tmp_path: Path, whole: Path) -> None:
    """The checkpoint of step 4 is there, from a stop; what is killed is the repetition of its speech."""
    stopped = spoken_trainer(tmp_path / "run", sample_every=2)
    stopped.components.evaluator.evaluate = lambda *_: signal.raise_signal(signal.SIGINT)
    assert stopped.train().step == 4
    kill_before_the_save_of_step_4(spoken_trainer(tmp_path / "run", sample_every=2))
    assert {line["step"] for line in sample_lines(tmp_path / "run")} == {2, 4}
    assert spoken_trainer(tmp_path / "run", sample_every=2).train().finished
    assert_same_run(tmp_path / "run", whole)


# -- the time ---------------------------------------------------------------------------------------------------------


def test_speech_that_takes_long_is_warned_of_once(
    subject: ArabicVoiceCloningDistributedTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    speech = speech_of(subject)
    subject.components.model.eval()
    with caplog.at_level("INFO"):
        speech._since -= 1e6
        figures = speech.speak(subject.components.model.get_base_model(), 1, lambda: False).figures
        assert 0 < figures["spoken_seconds"] and figures["spoken_share"] < 0.001
        assert "0 % of the time since the last" in caplog.text and "makes it cheaper" not in caplog.text
        for step in (2, 3):
            figures = speech.speak(subject.components.model.get_base_model(), step, lambda: False).figures
            assert 0.9 < figures["spoken_share"] <= 1.0
    assert caplog.text.count("a larger --sample_every or a lower --num_scored_samples makes it cheaper") == 1


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("trained", "spoken", "too_expensive"),
    [
        (100, 599, False),  # a short run speaks at each evaluation, whatever it costs
        (100, 601, True),
        (6000, 601, False),
        (5400, 600, False),
        (5399, 601, True),
        (90_000, 9_000, False),
        (80_000, 9_000, True),
    ],
)
def test_speech_is_too_expensive_above_ten_minutes_and_a_tenth_of_the_time(
    subject: ArabicVoiceCloningDistributedTrainer, trained: float, spoken: float, too_expensive: bool
) -> None:
    clock = Clock()
    speech = speech_of(subject, clock=clock)
    clock.seconds += 1e6  # before the run begins
    speech.open(None)
    assert not speech.is_too_expensive(1)
    clock.seconds += trained
    speech._speak_batches = lambda *_: (
        clock.__setattr__("seconds", clock.seconds + spoken / 2)
        or {sample.index: SpokenCodes(torch.zeros(8, 3), True) for sample in speech._asked}
    )
    for step in (1, 2):
        speech.speak(subject.components.model.get_base_model(), step, lambda: False)
    assert speech.is_too_expensive(3) == too_expensive


def test_the_main_process_decides_for_all_what_is_left_out(subject: ArabicVoiceCloningDistributedTrainer) -> None:
    class Follower(Share):
        def broadcast_object(self, value: Any) -> Any:
            sent.append(value)
            return True

    sent: list[bool] = []
    assert speech_of(subject, ranks=Follower(1, 1, 2)).is_too_expensive(1) and sent == [False]


def slow_speech(output_dir: Path, seconds: float, **settings: Any) -> ArabicVoiceCloningDistributedTrainer:
    """A trainer that seems to speak so long each time."""
    found = spoken_trainer(output_dir, **settings)
    speech, clock = found.components.speech, Clock()
    speech._clock, speak_batches = clock, speech._speak_batches

    def speak(*given: Any) -> Any:
        clock.seconds += seconds
        return speak_batches(*given)

    speech._speak_batches = speak
    return found


def test_speech_that_is_left_out_changes_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"sample_every": 1, "eval_steps": 3, "patience": 9}
    spoken_trainer(tmp_path / "whole", **settings).train()
    with caplog.at_level("INFO"):
        assert slow_speech(tmp_path / "run", 601.0, **settings).train().finished
    assert {line["step"] for line in sample_lines(tmp_path / "run")} == {1}
    whole, found = (
        [(line["step"], line["eval_loss"]) for line in metrics(tmp_path / name) if "eval_loss" in line]
        for name in ("whole", "run")
    )
    assert found == whole and [step for step, _ in found] == [3, 6]
    assert_same_adapter(*(tmp_path / name / "checkpoint-000006" for name in ("whole", "run")))
    assert (
        "step 2: speech is left out. It has taken 601 s, 100 % of the time since this start, and may take 10 %; a "
        "larger --sample_every or a lower --num_scored_samples makes it cheaper. The weights do not depend on them"
    ) in caplog.text
    assert caplog.text.count("speech is left out") == 5 and "step 2: \n" not in caplog.text
    assert all(len(line) > 1 for line in metrics(tmp_path / "run"))


def test_speech_that_chooses_the_best_checkpoint_is_never_left_out(tmp_path: Path) -> None:
    subject = slow_speech(tmp_path / "run", 601.0, sample_every=1, eval_steps=3)
    subject.config.keep_best_by = "stop_rate"  # such a run needs 32 samples; the rule does not
    subject.train()
    assert {line["step"] for line in sample_lines(tmp_path / "run")} == set(range(1, 7))
