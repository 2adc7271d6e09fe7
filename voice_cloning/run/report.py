"""The messages at the start and at the end of a run, and which messages are shown."""

import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from arabic_voice_cloning_dataset import ArabicVoiceCloningDataset, ArabicVoiceCloningDatasetConfig
from boson_multimodal.process_group import Ranks
from boson_multimodal.prompt_template import PromptForm
from boson_multimodal.sample_dataset import SampleDataset
from voice_cloning.adapters.prompt_record import form_of_flags
from voice_cloning.adapters.prompt_software import software_lines
from voice_cloning.adapters.run_record import read_record
from voice_cloning.adapters.serving import ONLY_HERE
from voice_cloning.run.components import FinishedRun, Placement, TrainingComponents
from voice_cloning.run.data import RunData
from voice_cloning.run.data_licences import commercial_use_lines
from voice_cloning.training.evaluation_config import BY_LOSS
from voice_cloning.training.evaluation_words import BEST_BY, without_better
from voice_cloning.training.joined_dataset import JoinedDataset
from voice_cloning.training.log import peak_memory_gb
from voice_cloning.training.run_directory import RUN_FILE, RunDirectory
from voice_cloning.training.state import EvaluationResult


@dataclass(frozen=True)
class TrainingSummary:
    """How a call of ``train`` ended.

    Attributes:
        step, total_steps: optimizer steps done, and optimizer steps of the whole run.
        finished: whether all steps and evaluations are done.
        stopped_by: number of the signal that ended the call early, or None.
        checkpoint: the newest checkpoint. It is None except on the main process.
        best_step: optimizer steps before the best evaluation, if any. It is None except on the main process.
        best_checkpoint: the checkpoint of that step, if the folder has it.
        keep_best_by: what chooses the best evaluation.
        ended_early: whether ``--patience`` ended the run before its planned last step.
    """

    step: int
    total_steps: int
    finished: bool
    stopped_by: int | None
    checkpoint: Path | None
    best_step: int | None
    best_checkpoint: Path | None
    keep_best_by: str = BY_LOSS
    ended_early: bool = False


def summary_of(run: TrainingComponents, received: int | None, keep_best_by: str, ranks: Ranks) -> TrainingSummary:
    """Return how a call of ``train`` ended.

    Args:
        run: the components of the run.
        received: the number of the signal that this process got, or None. A signal to one process stops all.
        keep_best_by: what chooses the best evaluation.
        ranks: the processes.
    """
    state, directory = run.state, run.opened.directory
    stopped_by = None if state.is_finished else next(filter(None, ranks.gather(received)), None)
    checkpoint = None
    if directory is not None:
        saved = directory.checkpoint_path(state.step)
        checkpoint = saved if saved.exists() else run.opened.checkpoint
    best = *_best(directory, state.best), keep_best_by, state.ended_early
    return TrainingSummary(state.step, state.total_steps, state.is_finished, stopped_by, checkpoint, *best)


def finished_summary(run: FinishedRun, keep_best_by: str) -> TrainingSummary:
    """Return the summary of a run that an earlier call finished."""
    best = *_best(run.opened.directory, run.best), keep_best_by, run.ended_early
    return TrainingSummary(run.step, run.step, True, None, run.opened.checkpoint, *best)


def _best(directory: RunDirectory | None, best: EvaluationResult | None) -> tuple[int | None, Path | None]:
    """Return the step of the best evaluation, and its checkpoint if the folder has it.

    A run that was resumed from another folder may have left it there, and somebody may have removed it.
    """
    if directory is None or best is None:
        return None, None
    path = directory.checkpoint_path(best.step)
    return best.step, path if path in directory.checkpoints() else None


def data_lines(
    data: RunData, dataset_config: ArabicVoiceCloningDatasetConfig, init_adapter: str | None = None
) -> list[str]:
    """Return one line for each of several data sets, and for each unusual property of the data and of the prompt.

    Raises:
        InputError: if the ``run.json`` beside the adapter that the run starts from is damaged.
    """
    lines = []
    if data.feature_extractor is not None:
        codes = ", and as codes" if data.model_config.encode_audio_in_tokens else ""
        bins, seconds = data.feature_extractor.feature_size, data.feature_extractor.chunk_length
        lines.append(f"references reach the model as features: {bins} mel bins, {seconds} s per chunk{codes}")
    if isinstance(data.train_dataset, JoinedDataset):
        for part, share in zip(data.train_dataset.parts, data.train_dataset.shares(), strict=True):
            lines.append(f"{part.data_path}: {_dataset_size(part, '')}; {share}")
    for dataset in data.datasets:
        lines += dataset.notes()
    lines += data.packing.lines
    from_files = [dataset for dataset in data.parts if not dataset.data_path.is_dir()]
    if dataset_config.codes and not from_files:
        lines.append("--codes is not read: prepared data hold their codes")
    elif dataset_config.codes:
        files, made_by = " ".join(dataset_config.codes), _codec_of(from_files[0])
        compared = "the same codec as" if data.codec.is_whole else "not compared with"
        lines.append(f"codes of {files}, made by codec {made_by}: {compared} --audio_tokenizer_path")
    lines += commercial_use_lines(data.train_dataset)
    lines += software_lines(dataset_config.prompt)
    if dataset_config.prompt_style == "as_written":
        lines.append(ONLY_HERE)
    if init_adapter is not None:
        lines += _lines_of_other_prompt(Path(init_adapter), dataset_config.prompt)
    if dataset_config.prompt_template is not None:
        lines.append(f"the first sample's prompt: {_first_prompt(data)}")
    return lines


def _lines_of_other_prompt(adapter: Path, prompt: PromptForm) -> list[str]:
    """Return a warning if the adapter that a run starts from was trained on another prompt."""
    path = adapter / RUN_FILE
    trained = form_of_flags(read_record(path)["flags"], str(path)) if path.is_file() else None
    if trained in (None, prompt):
        return []
    return [
        f"warning: --init_adapter {adapter} was trained on the prompt of {trained}, and this run trains that of "
        f"{prompt}; give the same --prompt_style and --prompt_template to keep what it has learnt"
    ]


def _first_prompt(data: RunData) -> str:
    """Return the prompt of the first sample in one line, with its tokens."""
    dataset, tokenizer = data.parts[0], AutoTokenizer.from_pretrained(data.model_folder)
    if isinstance(dataset, ArabicVoiceCloningDataset):
        ids, labels = dataset.records[0].input_ids, dataset.records[0].label_ids
    else:
        ids, labels = (found.tolist() for found in dataset.read_arrays(0)[:2])
    prompt = ids[: labels.index(data.model_config.audio_out_token_idx)]
    return tokenizer.decode(prompt, clean_up_tokenization_spaces=False).replace("\n", "\\n")


def _codec_of(dataset: SampleDataset) -> str:
    """Return the identity of the codec of files of codes. The codes may be in a folder that was packed from them."""
    return dataset.cache.codec if isinstance(dataset, ArabicVoiceCloningDataset) else dataset.codec


def start_line(components: TrainingComponents, ranks: Ranks, placement: Placement) -> str:
    """Return one line about the size of a run."""
    data, plan = components.data, components.plan
    parts = [_dataset_size(data.train_dataset, "")]
    if data.eval_dataset is not None:
        parts.append(_dataset_size(data.eval_dataset, "for evaluation "))
    trainable, total = components.model.get_nb_trainable_parameters()
    processes = "1 process" if ranks.world_size == 1 else f"{ranks.world_size} processes"
    parts += [
        f"{plan.total_steps} optimizer steps of {plan.positions_per_step:,.0f} positions on average",
        f"{processes} on {placement.device.type} in {str(placement.dtype).removeprefix('torch.')}",
        f"{trainable:,} of {total:,} parameters are trained",
        f"{peak_memory_gb(placement.device):.1f} GB of memory so far",
    ]
    return "; ".join(parts)


def _dataset_size(dataset: SampleDataset, purpose: str) -> str:
    found = dataset.summary()
    return f"{purpose}{found['samples']} samples, {found['dropped']} dropped as invalid, {found['hours']:.2f} h"


def closing_lines(summary: TrainingSummary) -> list[str]:
    """Return the last lines of output: how far the run got, and its checkpoints."""
    if summary.finished:
        lines = [f"finished: {summary.step} steps"]
        if summary.ended_early:
            lines.append(f"ended by --patience: {without_better(summary.best_step)}; more of it goes on from there")
    else:
        lines = [
            f"stopped at step {summary.step} of {summary.total_steps}; run the same command again to resume from there"
        ]
    if summary.checkpoint is not None:
        lines.append(f"adapter: {summary.checkpoint}")
    title = f"best by {BEST_BY[summary.keep_best_by]}"
    if summary.best_checkpoint is not None:
        lines.append(f"{title}: {summary.best_checkpoint}")
    elif summary.best_step is not None:
        lines.append(f"{title}: step {summary.best_step}, whose checkpoint is not in this folder")
    return lines


def set_up_messages(program: logging.Logger) -> None:
    """Show this project's messages. Hide library messages that repeat them or that a user cannot act on."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    for own in (program, logging.getLogger("voice_cloning")):
        own.setLevel(logging.INFO)
    logging.getLogger("huggingface_hub").propagate = False  # it prints its messages itself
