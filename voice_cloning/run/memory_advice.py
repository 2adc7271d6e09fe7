"""What helps when memory is used up in a training run. The program accepts every flag that is named, and goes on.

Flags that change no result resume the run. Others make another run: in another folder, from the newest adapter; or, if
nothing of the run can be lost yet, in the same folder.
"""

import importlib.util
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.cards import GB, has_bfloat16
from boson_multimodal.memory_remedies import NO_GPU, Remedy, naming_lack_of_memory
from boson_multimodal.model.higgs_audio.checkpoint_files import stored_tensors
from voice_cloning.run.components import OpenedDirectory, Placement, TrainingComponents
from voice_cloning.run.data import RunData
from voice_cloning.training.batch_planning import fullest_evaluation_batch
from voice_cloning.training.checkpoints import checkpoint_name, checkpoint_step
from voice_cloning.training.config import DistributedTrainingConfig
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.run_directory import holds_steps

LEAST_MEMORY = "layer"
"""The level of ``--recompute`` that needs the least memory."""
MUCH = 0.75
"""A remedy that leaves more than this share of a micro-batch's positions may not be enough."""


# -- how the same command goes on -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextStart:
    """How a run can be started again after an error.

    Attributes:
        config: the flags of the run.
        checkpoint: the newest checkpoint, or None.
    """

    config: DistributedTrainingConfig
    checkpoint: Path | None

    @classmethod
    def of_run(cls, config: DistributedTrainingConfig, run: TrainingComponents) -> "NextStart":
        """Return how a run that has begun can be started again.

        The answer is the same on all processes, unless the disk did not take the newest checkpoint, which only the main
        process knows until the next one is due.
        """
        if run.opened.directory is not None:
            return cls(config, run.opened.directory.newest)
        resumed, saved = run.opened.checkpoint, run.state.saved_step
        if not saved or (resumed is not None and checkpoint_step(resumed) == saved):
            return cls(config, resumed)
        return cls(config, Path(config.output_dir) / checkpoint_name(saved))

    @property
    def is_in_folder(self) -> bool:
        """Whether the checkpoint lies in the run's own folder."""
        folder = Path(self.config.output_dir)
        return self.checkpoint is not None and self.checkpoint.resolve().parent == folder.resolve()

    @property
    def resumes(self) -> str:
        """How the same run goes on, in words."""
        return "begin at step 0 again" if self.checkpoint is None else f"resume from {self.checkpoint}"

    def words_of_same_run(self) -> tuple[str, ...]:
        """Return what the same command needs to go on in the same folder, besides a flag that changes no result."""
        words: list[str] = []
        if self.config.overwrite and self.is_in_folder:
            words += ["--overwrite", "false"]
        # A named checkpoint that is not the newest one would cost the steps since then.
        other = self.config.resume not in ("auto", "none") and self.is_in_folder
        if (self.config.resume == "none" and (self.is_in_folder or not self.config.overwrite)) or other:
            words += ["--resume", "auto"]
        return tuple(words)

    def another_run(self, text: str, *words: str) -> Remedy:
        """Return a remedy whose flags make another run. It starts from the newest adapter, if there is one."""
        config, folder = self.config, Path(self.config.output_dir)
        if self.checkpoint is not None:
            resume = () if config.resume in ("auto", "none") else ("--resume", "auto")
            start = ("--init_adapter", str(self.checkpoint), "--output_dir", str(_unused(folder)), *resume)
            return Remedy(
                f"{text}. That is another run: it starts from the newest adapter, and its schedule begins anew",
                (*words, *start),
            )
        if holds_steps(folder) and not config.overwrite:
            return Remedy(f"{text}. No checkpoint was written yet: begin at step 0", (*words, "--overwrite"))
        return Remedy(f"{text}. No step is lost: there is no checkpoint yet", (*words, *self.words_of_same_run()))


def _unused(folder: Path) -> Path:
    """Return a name beside ``folder`` under which nothing exists."""
    number = 2
    while (path := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return path


# -- while clips are encoded, and while the weights are loaded ------------------------------------------------------


@contextmanager
def encoding_memory(
    config: DistributedTrainingConfig, dataset_config: ArabicVoiceCloningDatasetConfig, device: torch.device
) -> Iterator[None]:
    """Name a lack of memory in a block that encodes clips."""

    def remedies() -> list[Remedy]:
        if device.type != "cuda":
            return [Remedy("cut the longest clips: the codec takes a clip as a whole")]
        files = [path for path in (*config.data_path, config.eval_data_path) if path and not Path(path).is_dir()]
        words = ["python", "-m", "tools.prepare_data", "encode", *files]
        words += ["--codec", config.audio_tokenizer_path, "--code_cache_dir", dataset_config.code_cache_dir]
        if not Path(config.audio_tokenizer_path).is_dir():
            words += ["--audio_tokenizer_revision", config.audio_tokenizer_revision]
        words += ["--drop_invalid"] if dataset_config.drop_invalid else []
        encode = f"{NO_GPU} {shlex.join(words)}"
        text = "encode the other clips on the CPU, which is slower, then give the same command again"
        return [Remedy(text, command=encode)]

    place = f"while clips were encoded; those that are done stay in {dataset_config.code_cache_dir}"
    with naming_lack_of_memory(device, lambda: place, remedies):
        yield


@contextmanager
def loading_memory(
    config: DistributedTrainingConfig, opened: OpenedDirectory, data: RunData, placement: Placement
) -> Iterator[None]:
    """Name a lack of memory in a block that loads the weights of the model and the state of the run."""

    def where() -> str:
        if _is_quantised(config):
            return "while the weights were loaded"
        dtype = str(placement.dtype).removeprefix("torch.")
        return f"while the weights were loaded; in {dtype} they alone take {weights_gb(data, placement.dtype):.1f} GB"

    def remedies() -> list[Remedy]:
        start = NextStart(config, opened.checkpoint)
        found = _quantising(start, placement.device)
        if placement.dtype == torch.float32 and has_bfloat16(placement.device):
            found.append(start.another_run("hold the weights in half the memory", "--torch_dtype", "bfloat16"))
        return found

    with naming_lack_of_memory(placement.device, where, remedies):
        yield


def weights_gb(data: RunData, dtype: torch.dtype) -> float:
    """Return the size of the model's weights in a type, in 10^9 bytes. Only the headers of the files are read."""
    stored = stored_tensors(data.model_folder)
    return sum(math.prod(tensor.shape) for tensor in stored.values()) * dtype.itemsize / GB


def _is_quantised(config: DistributedTrainingConfig) -> bool:
    return getattr(config, "quantise", "none") != "none"


def _quantising(start: NextStart, device: torch.device) -> list[Remedy]:
    """Return the remedy of weights in 4 bits, if it works here and the run does not have them already."""
    if not hasattr(start.config, "quantise") or _is_quantised(start.config) or device.type != "cuda":
        return []
    if importlib.util.find_spec("bitsandbytes") is None:
        return []
    return [start.another_run("hold the weights in 4 bits, which is slower", "--quantise", "nf4")]


# -- in training and evaluation -------------------------------------------------------------------------------------


@contextmanager
def training_memory(config: DistributedTrainingConfig, run: TrainingComponents, device: torch.device) -> Iterator[None]:
    """Name a lack of memory in a block that trains and evaluates. The model is in training mode except to evaluate."""

    def where() -> str:
        if run.model.training:
            return f"in step {run.state.step + 1} of {run.state.total_steps}"
        if run.speech is not None and run.speech.is_speaking:
            return f"while evaluation samples were spoken after step {run.state.step}"
        return f"in the evaluation after step {run.state.step}"

    with naming_lack_of_memory(device, where, lambda: training_remedies(config, run, device)):
        yield


def training_remedies(config: DistributedTrainingConfig, run: TrainingComponents, device: torch.device) -> list[Remedy]:
    """Return what helps in training, or in the evaluation if the model is in inference mode, best first."""
    start = NextStart.of_run(config, run)
    if run.speech is not None and run.speech.is_speaking:
        return _cheaper_speech(start, run)
    found = []
    if run.model.training and config.recompute != LEAST_MEMORY:
        text = (
            f"{start.resumes}; compute each layer again in the backward pass, which is slower. The result is the same"
        )
        # The older name of the level too: a command or a file of flags that sets it to false contradicts the level.
        level = ("--recompute", LEAST_MEMORY, "--gradient_checkpointing", "true")
        found.append(Remedy(text, (*level, *start.words_of_same_run())))
    sizes = Sizes.of_run(config, run)
    smaller, shorter = _smaller_micro_batches(start, sizes), _without_longest_samples(start, sizes)
    recogniser = [_smaller_recogniser()] if run.speech is not None and run.speech.has_recogniser else []
    return [*found, *smaller, *recogniser, *_quantising(start, device), *shorter]


def _cheaper_speech(start: NextStart, run: TrainingComponents) -> list[Remedy]:
    """Return what helps while samples are spoken: fewer at once, no codec, or no speech. The weights are the same.

    If speech chooses the best checkpoint, it needs many samples, so the loss must choose. A recogniser needs at least
    one sample, and the codec.
    """
    largest = max(map(len, run.speech.batches))
    words, choice, found = start.words_of_same_run(), "", []
    if start.config.keep_best_by != BY_LOSS:
        words, choice = (*words, "--keep_best_by", BY_LOSS), ", and let the loss choose the best checkpoint"
    if largest > 1:
        fewer = str(largest // 2)
        text = f"{start.resumes}; speak {fewer} samples, in one smaller batch{choice}. The weights are the same"
        found.append(Remedy(text, ("--num_scored_samples", fewer, *words)))
    if run.speech.has_recogniser:
        return [*found, _smaller_recogniser()]
    if run.speech.writes_sound:
        text = f"{start.resumes}; write no clips, so that the codec is not needed. The weights are the same"
        found.append(Remedy(text, ("--num_samples", "0", *start.words_of_same_run())))
    text = f"{start.resumes}; speak nothing{choice}. The weights are the same"
    return [*found, Remedy(text, ("--num_scored_samples", "0", *words))]


def _smaller_recogniser() -> Remedy:
    return Remedy("give a smaller recogniser as --asr, which stays on the GPU. The weights are the same")


@dataclass(frozen=True)
class Sizes:
    """Numbers of positions, of the training data and the evaluation data.

    Attributes:
        lengths: of each sample; one list for each file.
        fullest: of the fullest micro-batch.
        budget: the most that a micro-batch may have; the fullest itself if the budget is so large that none fills it.
        longest: of a sample, at most.
    """

    lengths: tuple[list[int], ...]
    fullest: int
    budget: int
    longest: int

    @classmethod
    def of_run(cls, config: DistributedTrainingConfig, run: TrainingComponents) -> "Sizes":
        epoch, micro_batch = run.plan.fullest()
        fullest = [run.plan.positions_of(micro_batch, epoch)]
        if run.data.eval_dataset is not None:
            found = run.data.eval_dataset.lengths
            fullest.append(sum(int(found[i]) for i in fullest_evaluation_batch(found, config)))
        budget = config.max_tokens_per_batch
        is_filled = config.batch_size is None and isinstance(budget, int) and budget / 2 <= MUCH * max(fullest)
        # With other references in each epoch, those of the fullest micro-batch's epoch.
        of_epoch = (dataset.of_epoch(epoch).lengths for dataset in run.data.parts)
        lengths = tuple(list(map(int, found)) for found in of_epoch)
        longest = max(dataset.longest for dataset in run.data.parts)
        return cls(lengths, max(fullest), budget if is_filled else max(fullest), longest)

    @property
    def smaller(self) -> int:
        """Half the budget, or the longest sample if it is longer."""
        return max(self.budget // 2, self.longest)


def _smaller_micro_batches(start: NextStart, sizes: Sizes) -> list[Remedy]:
    """Return the remedy of smaller micro-batches that still hold every sample, unless a sample fills one alone."""
    config = start.config
    if config.batch_size is None:
        if sizes.smaller >= sizes.fullest:
            return []
        smaller, factor = ("--max_tokens_per_batch", str(sizes.smaller)), sizes.budget / sizes.smaller
    else:
        if config.batch_size == 1:
            return []
        size = config.batch_size // 2
        smaller, factor = ("--batch_size", str(size)), config.batch_size / size
    number = max(1, round(config.gradient_accumulation_steps * factor))
    text = f"take smaller micro-batches, and {number} of them a step"
    return [start.another_run(text, *smaller, "--gradient_accumulation_steps", str(number))]


def _without_longest_samples(start: NextStart, sizes: Sizes) -> list[Remedy]:
    """Return the remedy of dropping the longest samples, unless smaller micro-batches save enough, or none is left."""
    config = start.config
    if config.batch_size not in (None, 1) or sizes.smaller <= MUCH * sizes.fullest:
        return []
    kept = [length for lengths in sizes.lengths for length in lengths if length <= MUCH * sizes.fullest]
    limit = max(kept, default=0)  # as much of the data as possible stays
    if any(min(lengths) > limit for lengths in sizes.lengths):
        return []
    dropped = sum(map(len, sizes.lengths)) - len(kept)
    words = ["--max_positions_per_sample", str(limit), "--drop_invalid"]
    if config.batch_size is None:
        number = max(1, round(config.gradient_accumulation_steps * sizes.budget / limit))
        words += ["--max_tokens_per_batch", str(limit), "--gradient_accumulation_steps", str(number)]
    text = f"leave out the samples of more than {limit} positions ({dropped}; the longest has {sizes.longest})"
    return [start.another_run(text, *words)]
