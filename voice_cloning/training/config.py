"""The flags of the trainer: the settings of the training loop, and one command line for all four configurations."""

import argparse
import difflib
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from boson_multimodal.constants import AUDIO_TOKENIZER_ID, AUDIO_TOKENIZER_REVISION, MODEL_ID, MODEL_REVISION
from boson_multimodal.device import TORCH_DTYPES
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.flags import GIVEN, facts_of, flag, value_before
from boson_multimodal.model.higgs_audio.loss import LossConfig
from boson_multimodal.model.higgs_audio.quantised_weights import NOT_QUANTISED, QUANTISATIONS
from lora_config import HiggsAudioLoRATrainingConfig
from voice_cloning import __version__
from voice_cloning.training.checkpoints import RUN_FILE, read_run_flags
from voice_cloning.training.evaluation_config import EvaluationConfig
from voice_cloning.training.mixtures import weight_problems
from voice_cloning.training.schedule import SCHEDULES

logger = logging.getLogger(__name__)

REPORTERS = ("tensorboard", "wandb", "none")
AUTO = "auto"
"""The value of a flag that the program chooses by the memory of the card."""
BASE_KL_SHARE = 0.25
"""With a quarter of the micro-batches, a run has a sixth more operations."""
RECOMPUTE_LEVELS = ("none", "ffn", "layer")
"""What the backward pass computes again, from the fastest to the one that needs least memory."""

_source = partial(flag, in_identity=False, per_machine=True)
"""A flag that names data or a checkpoint. The identity of a run holds a fingerprint of the content instead."""
_setting = partial(flag, card="setting")
"""A flag that affects the result of training and is listed on the model card."""
_housekeeping = partial(flag, in_identity=False, card="private")
"""A flag that does not affect the result of training."""


def read_positions(word: str) -> int | str:
    """Return the value of ``--max_tokens_per_batch``: a number of positions, or ``auto``.

    Raises:
        argparse.ArgumentTypeError: for any other word. argparse shows it with the name of the flag.
    """
    if word == AUTO:
        return word
    try:
        return int(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word!r} is not a number of positions; give one, or {AUTO}") from error


@dataclass(kw_only=True)
class DistributedTrainingConfig(EvaluationConfig):
    """Paths and settings of the training loop. Each attribute is a flag of the same name, explained in its help text.

    ``data_path`` may be given as one path; it is a list afterwards.

    Raises:
        InputError: if values are out of range. It lists every one.
    """

    data_path: list[str] | str = _source(
        MISSING,
        "ChatML samples to train on: .json (a list) or .jsonl; or a folder of tools.prepare_data pack. Or several of "
        "them, in any combination.",
    )
    data_weights: list[float] | None = flag(
        None,
        "For several data_path, a number above 0 for each: its share of the samples of an epoch, on any scale (0.7 0.3 "
        "or 7 3). An epoch has as many samples as all paths together. By default it takes each sample once.",
        before=None,
    )
    output_dir: str = _housekeeping(
        MISSING, "Folder for checkpoints, metrics and the run's description.", per_call=True, per_machine=True
    )
    model_path: str = _source(
        MODEL_ID,
        "Folder or hub id of the model, in the original or the transformers layout.",
        revision_flag="model_revision",
    )
    model_revision: str = _source(MODEL_REVISION, "Commit of model_path, if it is a hub id.", per_machine=False)
    audio_tokenizer_path: str = _source(
        AUDIO_TOKENIZER_ID,
        "Folder or hub id of the codec, in transformers' format or Boson's original.",
        revision_flag="audio_tokenizer_revision",
    )
    audio_tokenizer_revision: str = _source(
        AUDIO_TOKENIZER_REVISION, "Commit of audio_tokenizer_path, if a hub id.", per_machine=False
    )
    whisper_processor_path: str | None = _source(
        None,
        "Folder or hub id of the Whisper processor that computes features of references, for a model with an audio "
        "tower. By default it is built from the model's number of mel bins.",
    )
    whisper_processor_revision: str | None = _source(
        None, "Commit of whisper_processor_path, if it is a hub id.", per_machine=False
    )

    num_train_epochs: int = flag(3, "Passes over the data, unless max_steps is given.")
    max_steps: int | None = flag(None, "Optimizer steps to run, instead of num_train_epochs.")
    max_tokens_per_batch: int | str = _setting(
        2048,
        "Maximum number of sequence positions of a micro-batch (text tokens and audio columns; there is no padding). "
        "Memory grows with it. auto takes the largest number that the GPU holds, and keeps it for the run.",
        read=read_positions,
    )
    batch_size: int | None = _setting(None, "Number of samples of a micro-batch, instead of max_tokens_per_batch.")
    gradient_accumulation_steps: int = _setting(1, "Micro-batches of each process per optimizer step.")
    learning_rate: float = _setting(2e-4, "Peak learning rate of AdamW.")
    lr_scheduler_type: str = _setting("cosine", "The learning rate after the warm-up.", SCHEDULES)
    warmup_steps: int | None = _setting(None, "Optimizer steps of linear warm-up; by default 3 % of all.")
    weight_decay: float = _setting(0.0, "Decoupled weight decay of AdamW.")
    adam_beta1: float = _setting(0.9, "AdamW's decay of the mean.")
    adam_beta2: float = _setting(0.95, "AdamW's decay of the squared mean.")
    adam_epsilon: float = _setting(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = _setting(1.0, "Gradients are clipped to this norm; 0 turns clipping off.")
    torch_dtype: str = flag(
        "auto",
        "Type of the frozen weights: auto is bfloat16 on a GPU and float32 on CPU. The adapter is always float32. "
        "float16 is refused: it overflows in this model.",
        list(TORCH_DTYPES),
    )
    quantise: str = _setting(
        NOT_QUANTISED,
        "nf4 holds the base's weights in 4 bits (QLoRA): a third of the memory, slower, slightly other losses. Needs "
        "bitsandbytes. The adapter, norms, embeddings and heads are as without it.",
        QUANTISATIONS,
        before=NOT_QUANTISED,
    )
    recompute: str = _housekeeping(
        AUTO,
        "What the backward pass computes again, to save memory: none, the FFN of each layer, or the whole layer, which "
        "is slowest. auto takes the first of these with which the fullest micro-batch fits the GPU; on a CPU, none. "
        "The result is the same.",
        [AUTO, *RECOMPUTE_LEVELS],
        before="none",
    )
    gradient_checkpointing: bool = _housekeeping(False, "The same as --recompute layer.", per_call=True)
    base_kl_weight: float = _setting(
        0.0,
        "Weight of the divergence from the base's own predictions, KL(base || model), in the loss: against forgetting. "
        "Needs a second forward pass, without any adapter. 0 leaves it out.",
        before=0.0,
    )
    base_kl_share: float = _setting(
        BASE_KL_SHARE,
        "The share of the micro-batches on which base_kl_weight acts; a smaller one takes less time.",
        before=BASE_KL_SHARE,
    )
    seed: int = _setting(42, "Seeds the adapter, the data order and dropout; the same seed gives the same run.")

    logging_steps: int = _housekeeping(10, "Optimizer steps between lines of metrics.jsonl.")
    save_steps: int = _housekeeping(200, "Optimizer steps between checkpoints; there is always one at the end.")
    save_total_limit: int = _housekeeping(3, "Checkpoints to keep, besides the best one; 0 keeps all.")
    resume: str = _housekeeping(
        "auto",
        "auto resumes from the newest sound checkpoint in output_dir; none stops if output_dir holds a run. Or give "
        "the folder of a checkpoint to resume from.",
        per_call=True,
        per_machine=True,
    )
    overwrite: bool = _housekeeping(False, "Remove the run in output_dir and start a new one.", per_call=True)
    allow_other_world_size: bool = _housekeeping(
        False,
        "Resume with another number of processes although processes times gradient_accumulation_steps differs from the "
        "run's: the steps are of another size from there on.",
        per_call=True,
        before=False,
    )
    dry_run: bool = _housekeeping(
        False,
        "Check the flags and the data, print the memory by part, the steps and a rough time, and end. No weight is "
        "loaded and output_dir is not touched.",
        per_call=True,
        before=False,
    )
    gpu: str | None = _housekeeping(
        None,
        "For dry_run: the card to reckon with, instead of the one in this machine. A name (RTX 4090, A100-80GB, T4) or "
        "the memory in GB (24).",
        per_call=True,
        before=None,
    )
    collective_timeout: float = _housekeeping(
        10.0,
        "Minutes that a process waits in a training step for another one that lives but does not come. Waiting for "
        "checks, encoding, speech and checkpoints has no limit.",
        per_call=True,
        before=10.0,
    )
    init_adapter: str | None = _source(None, "Folder of a trained adapter to start a new run from.")
    report_to: list[str] = _housekeeping(["tensorboard"], "Where metrics go besides metrics.jsonl.", REPORTERS)

    _argument_group_name = "run and loop"

    def __post_init__(self) -> None:
        one_path = isinstance(self.data_path, str | Path)
        self.data_path = [str(self.data_path)] if one_path else list(map(str, self.data_path or []))
        problems = []
        for name in ("num_train_epochs", "gradient_accumulation_steps", "logging_steps"):
            problems += self.below(name, 1)
        problems += self._memory_problems()
        for name in ("save_steps", "max_steps", "batch_size"):
            problems += self.below(name, 1)
        for name in ("warmup_steps", "weight_decay", "max_grad_norm", "seed", "save_total_limit"):
            problems += self.below(name, 0)
        if not 0.0 <= self.base_kl_weight < float("inf"):
            problems.append(f"base_kl_weight is {self.base_kl_weight}; it must be a finite number of at least 0")
        if not 0.0 < self.base_kl_share <= 1.0:
            problems.append(f"base_kl_share is {self.base_kl_share}; it must be above 0 and at most 1")
        elif self.base_kl_share != BASE_KL_SHARE and not self.base_kl_weight:
            problems.append(
                f"base_kl_share is {self.base_kl_share} and base_kl_weight is 0: the share has no effect; give a weight"
            )
        for name in ("learning_rate", "adam_epsilon", "collective_timeout"):
            if not 0.0 < getattr(self, name) < float("inf"):
                problems.append(f"{name} is {getattr(self, name)}; it must be a number above 0")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                problems.append(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        choices = {
            "lr_scheduler_type": SCHEDULES,
            "torch_dtype": TORCH_DTYPES,
            "recompute": (AUTO, *RECOMPUTE_LEVELS),
            "quantise": QUANTISATIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                problems.append(f"{name} is {getattr(self, name)!r}; it must be one of {list(allowed)}")
        if self.torch_dtype == "float16":
            problems.append("torch_dtype is float16, which overflows in this model; use bfloat16, or float32 on CPU")
        unknown = [reporter for reporter in self.report_to if reporter not in REPORTERS]
        if unknown:
            problems.append(f"report_to is {self.report_to}; it must name some of {list(REPORTERS)}")
        if "wandb" in self.report_to and importlib.util.find_spec("wandb") is None:
            problems.append("report_to is wandb, which is not installed; pip install wandb")
        if self.data_weights is not None:
            problems += weight_problems(self.data_weights, self.data_path)
        for name, paths in (("data_path", self.data_path), ("output_dir", [self.output_dir])):
            if not (paths and all(paths)):
                problems.append(f"{name} is empty; give a path")
        problems += self.problems_of_evaluation()
        raise_if_any("wrong settings", problems)
        if self.gradient_checkpointing:
            self.recompute = "layer"

    def _memory_problems(self) -> list[str]:
        """Return what is wrong with the flags that determine the memory."""
        problems, budget = [], self.max_tokens_per_batch
        if isinstance(budget, str) and budget != AUTO:
            problems.append(f"max_tokens_per_batch is {budget!r}; it must be a number of positions, or {AUTO}")
        elif not isinstance(budget, str):
            problems += self.below("max_tokens_per_batch", 1)
        elif self.batch_size is not None:
            problems.append(
                f"max_tokens_per_batch is {AUTO}, and batch_size is {self.batch_size}, which sets the size of "
                "micro-batches too; give one of them"
            )
        if self.gradient_checkpointing and self.recompute not in (AUTO, "layer"):
            problems.append(_two_levels("on", self.recompute))
        if self.gpu is not None and not self.dry_run:
            problems.append(f"gpu is {self.gpu!r}, which is for dry_run; training takes the card of this machine")
        return problems


Configs = tuple[DistributedTrainingConfig, ArabicVoiceCloningDatasetConfig, HiggsAudioLoRATrainingConfig, LossConfig]
CONFIG_CLASSES = (DistributedTrainingConfig, ArabicVoiceCloningDatasetConfig, HiggsAudioLoRATrainingConfig, LossConfig)


def flag_fields() -> dict[str, Field]:
    """Return the field of every flag by name, in the order of the help text."""
    return {flag_field.name: flag_field for config in CONFIG_CLASSES for flag_field in fields(config)}


def parse_arguments(
    arguments: Sequence[str],
    description: str,
    recorded_flags: Callable[[DistributedTrainingConfig], dict[str, Any] | None] | None = None,
) -> Configs:
    """Return the four configurations.

    A value comes from the first of these that has one: the command line; ``--config FILE.yaml``; the run that
    ``--output_dir`` holds or whose checkpoint ``--resume`` names; the flag's default. If the run is older than a flag,
    it gives ``FlagFacts.before``. Values that come from a run and are not the defaults are logged.

    Args:
        recorded_flags: the way to the flags of that run; by default :func:`read_recorded_flags`.

    Raises:
        InputError: for a value out of range, a YAML file that is missing or does not hold pairs of flags, or a run
            whose ``run.json`` cannot be read.
        SystemExit: from argparse, for unknown flags, ``--help`` and ``--version``.
    """
    parser = _make_parser(description)
    config_only = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_only.add_argument("--config")
    found, _ = config_only.parse_known_args(arguments)
    from_file = [] if found.config is None else _yaml_arguments(Path(found.config), set(_flag_names(parser)))
    *configs, namespace, unknown = parser.parse_args_into_dataclasses(
        [*from_file, *arguments], look_for_args_file=False, return_remaining_strings=True
    )
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0], known, n=1)
        parser.error(f"unknown: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
    given = _given_flags(configs[0], getattr(namespace, GIVEN))
    recorded = (recorded_flags or read_recorded_flags)(configs[0])
    if recorded is None:
        return tuple(configs)
    weights = recorded.get("data_weights")
    if isinstance(weights, list) and len(weights) != len(configs[0].data_path):
        given |= {"data_weights"}  # those of other data: it is another run, and the comparison of both says so
    try:
        changes = [_recorded_values(config, _in_todays_terms(recorded), given) for config in configs]
        resumed = tuple(replace(config, **found) for config, found in zip(configs, changes, strict=True))
    except InputError as error:
        raise InputError(f"the run that is resumed has wrong flags in its {RUN_FILE}: {error}") from error
    _log_changes({name: value for found in changes for name, value in found.items()})
    return resumed


def _given_flags(config: DistributedTrainingConfig, given: frozenset[str]) -> frozenset[str]:
    """Return the names of the flags that a run's record must not replace.

    Raises:
        InputError: if ``gradient_checkpointing`` is given as off and ``recompute`` as ``layer``.
    """
    if "gradient_checkpointing" in given:
        if not config.gradient_checkpointing and "recompute" in given and config.recompute == "layer":
            raise InputError(_two_levels("off", config.recompute))
        given |= {"recompute"}
    # The number was found when the run began. Another one would be another run.
    return given - {"max_tokens_per_batch"} if config.max_tokens_per_batch == AUTO else given


def _two_levels(checkpointing: str, recompute: str) -> str:
    return (
        f"gradient_checkpointing is {checkpointing}, and recompute is {recompute!r}; gradient_checkpointing is another "
        "name of recompute 'layer', so give one of them"
    )


def _in_todays_terms(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the flags of a run's record with ``recompute``, for which older runs have ``gradient_checkpointing``."""
    if "recompute" in recorded or not recorded.get("gradient_checkpointing"):
        return recorded
    return {**recorded, "recompute": "layer"}


def _make_parser(description: str) -> HfArgumentParser:
    parser = HfArgumentParser(CONFIG_CLASSES, description=description, allow_abbrev=False)
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="Flags as YAML pairs (name: value); the command line wins."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def read_recorded_flags(config: DistributedTrainingConfig) -> dict[str, Any] | None:
    """Return the flags of the run that will be resumed, or None if a new run begins.

    Raises:
        InputError: if its ``run.json`` cannot be read.
    """
    if config.resume not in ("auto", "none"):
        return read_run_flags(Path(config.resume), "give another checkpoint, or auto")
    if config.resume == "none" or config.overwrite:
        return None
    remedy = "restore it from a checkpoint, or give --overwrite to remove the run"
    return read_run_flags(Path(config.output_dir), remedy)


def _recorded_values(config: Any, recorded: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """Return the values of a recorded run for flags that were not given, where they differ from the configuration.

    Raises:
        InputError: listing the values that do not have the type of their flag.
    """
    # HfArgumentParser removes the None from the type of a field.
    changes, problems, types = {}, [], get_type_hints(type(config))
    for flag_field in fields(config):
        if flag_field.name in given or facts_of(flag_field).per_call:
            continue
        value = recorded.get(flag_field.name, value_before(flag_field))
        if not _has_type(value, types[flag_field.name]):
            problems.append(f"{flag_field.name} is {value!r}")
        elif value != getattr(config, flag_field.name):
            changes[flag_field.name] = value
    raise_if_any("values of a wrong type", problems)
    return changes


def _has_type(value: Any, kind: Any) -> bool:
    """Return whether a JSON value has the type of a flag, such as ``int | None`` or ``list[str]``."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_has_type(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is not None:
        return any(_has_type(value, one) for one in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


def _log_changes(changes: dict[str, Any]) -> None:
    """Log the values that come from the run, on the main process: first those that affect the result.

    What ``auto`` has stood for is no news.
    """
    known = flag_fields()
    order = sorted(changes, key=lambda name: not facts_of(known[name]).in_identity)
    changes = {name: changes[name] for name in order if known[name].default != AUTO}
    if not changes or int(os.environ.get("RANK", 0)) > 0:
        return
    words = {name: " ".join(map(str, v)) if isinstance(v, list) else v for name, v in changes.items()}
    shown = ", ".join(f"--{name} {value}" for name, value in words.items())
    logger.info("flags taken from the run that is resumed: %s", shown)


def _flag_names(parser: argparse.ArgumentParser) -> list[str]:
    """Names of a parser's flags."""
    return [action.dest for action in parser._actions]


def _yaml_arguments(path: Path, known: set[str]) -> list[str]:
    try:
        pairs = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--config {path}: no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path}: not YAML ({error})") from error
    if not isinstance(pairs, dict):
        raise InputError(f"--config {path}: must hold pairs (name: value), one per flag")
    raise_if_any(f"--config {path}: unknown names", [str(name) for name in pairs if name not in known])
    arguments = []
    for name, value in pairs.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        arguments += [f"--{name}", *map(str, values)]
    return arguments
