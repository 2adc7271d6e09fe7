"""The flags that all commands share that speak: the model, how it computes, and how codes are sampled."""

import argparse

from arabic_text.normalise import TEXT_NORMALISATIONS
from boson_multimodal.cloning_example import PROMPT_STYLES
from boson_multimodal.constants import AUDIO_TOKENIZER_ID, AUDIO_TOKENIZER_REVISION, MODEL_ID, MODEL_REVISION
from boson_multimodal.device import TORCH_DTYPES
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.model.higgs_audio.quantised_weights import QUANTISATIONS
from boson_multimodal.prompt_template import RECORD_FIELDS

Flags = argparse._ArgumentGroup | argparse.ArgumentParser
"""What flags can be added to."""


class HelpWithDefaults(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of the description, and shows the default of each flag that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        default, text = action.default, action.help or ""
        if default is None or default is False or default in ([], argparse.SUPPRESS):
            return text
        words = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{text} (default: {words.replace('%', '%%')})"


def add_model_flags(parser: Flags) -> None:
    """Add the flags that name the model and the codec."""
    add = parser.add_argument
    add("--model_path", default=MODEL_ID, help="Folder or hub id of the base model.")
    add("--model_revision", default=MODEL_REVISION, help="Commit of model_path, if it is a hub id.")
    add("--audio_tokenizer_path", default=AUDIO_TOKENIZER_ID, help="Folder or hub id of the codec.")
    add(
        "--audio_tokenizer_revision",
        default=AUDIO_TOKENIZER_REVISION,
        help="Commit of audio_tokenizer_path, if it is a hub id.",
    )


def add_adapters_flag(parser: Flags) -> None:
    """Add ``--adapter``, of which there may be several on one base."""
    parser.add_argument(
        "--adapter",
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="Folders of trained adapters, such as checkpoints of a run; or a folder that holds such folders, whose "
        "names are then those of the adapters.",
    )


def add_adapter_scale_flag(parser: Flags) -> None:
    """Add ``--adapter_scale``."""
    parser.add_argument(
        "--adapter_scale",
        type=float,
        default=1.0,
        help="Multiplies what an adapter adds to the base, from 0 (the base) to 2: 1.0 is as trained, less weakens an "
        "adapter that was trained too far.",
    )


def add_prompt_flags(parser: Flags) -> None:
    """Add the flags of the prompts: their turns, and how their texts are normalised."""
    add = parser.add_argument
    add(
        "--prompt_style",
        choices=list(PROMPT_STYLES),
        help="Turns of the prompts; by default those of each adapter's training, or voice_clone without an adapter.",
    )
    add(
        "--prompt_template",
        metavar="FILE",
        help="Template of the prompts (docs/prompts.md); by default that of each adapter's training. --prompt_style "
        "alone leaves it out.",
    )
    for field, what in zip(RECORD_FIELDS, ("Name of the speaker", "Dialect", "Scene"), strict=True):
        add(f"--{field}", help=f"{what} for a prompt template with {{{field}}}, where an input names none.")
    add(
        "--text_normalisation",
        choices=list(TEXT_NORMALISATIONS),
        help="Normalisation of texts; by default that of each adapter's training, or none without an adapter.",
    )


def fields_of(flags: argparse.Namespace) -> dict[str, str]:
    """Return the values for prompt templates that flags of :func:`add_prompt_flags` give, by field."""
    return {field: value for field in RECORD_FIELDS if (value := getattr(flags, field)) is not None}


def add_computation_flags(parser: Flags) -> None:
    """Add the flags that say with which numbers and where the model computes."""
    add = parser.add_argument
    types = [name for name in TORCH_DTYPES if name != "float16"]
    add("--torch_dtype", choices=types, default="auto", help="auto is bfloat16 on a GPU and float32 on CPU.")
    add(
        "--quantise",
        choices=QUANTISATIONS,
        help="nf4 holds the model's weights in 4 bits; by default as the adapter was trained, none without an adapter.",
    )
    add("--device", help="cpu, cuda, cuda:1; by default the GPU, or the CPU if there is no GPU.")


def add_sampling_flags(parser: Flags) -> None:
    """Add the flags of :func:`sampling_of`."""
    add, settings = parser.add_argument, SamplingConfig()
    add(
        "--greedy",
        action="store_true",
        help="Always take the most probable code. The sampling flags are then ignored, and nothing is tried again.",
    )
    add("--temperature", type=float, default=settings.temperature, help="The logits are divided by it.")
    add("--top_k", type=int, default=settings.top_k, help="Draw among so many most probable codes; 0 keeps all.")
    add(
        "--top_p",
        type=float,
        default=settings.top_p,
        help="Of these, among the fewest whose probabilities reach this sum; 1.0 keeps all.",
    )
    add(
        "--ras_win_len",
        type=int,
        default=settings.ras_win_len,
        help="Window of repetition-aware sampling; 0 turns it off.",
    )
    add(
        "--ras_win_max_num_repeat",
        type=int,
        default=settings.ras_win_max_num_repeat,
        help="A code that occurs so often in this window is drawn again from all codes.",
    )


def sampling_of(flags: argparse.Namespace) -> SamplingConfig:
    """Return the settings that the flags of :func:`add_sampling_flags` ask for.

    Raises:
        InputError: if a value is out of range.
    """
    return SamplingConfig(
        do_sample=not flags.greedy,
        temperature=flags.temperature,
        top_k=flags.top_k,
        top_p=flags.top_p,
        ras_win_len=flags.ras_win_len or None,
        ras_win_max_num_repeat=flags.ras_win_max_num_repeat,
    )
