"""Does a model say the words that it is asked for? Single words in voices that it never heard, judged by a recogniser.

    OMP_NUM_THREADS=1 python -m benchmarks.spoken_words [--adapter none RUN/checkpoint-000900] [--sets dev_ask_new]

The folder of --data holds base_model/, recognise.py (which word do codes say?), and two files for each set: SET.json
with one word for each sample, and SET.safetensors with the codes of its clips. For each adapter and set, one line says:

- understood: share of the words that the recogniser understands;
- ended: share of the clips that the model ended by itself, within 80 columns;
- stopped: share of the clips whose last column is the end in every codebook. This asks for more than "ended": where
  another codebook ends first, the last codebook of the last column still holds a code;
- length ratio: median length of the clips, where 1 is the length of the speaker's own recording of the word.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor
from transformers import AutoTokenizer

from arabic_voice_cloning_dataset import (
    PROMPT_STYLES,
    ArabicVoiceCloningDataset,
    ArabicVoiceCloningDatasetConfig,
    read_json_records,
)
from arabic_voice_cloning_training_collator import ArabicVoiceCloningTrainingCollator, ChatMLDatasetSample
from boson_multimodal.audio_processing.codes_file import CodesFiles
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.generation import codes_of_columns
from voice_cloning.adapters.export import apply_adapter, merge_adapter
from voice_cloning.speech.sample_prompts import cut_at_target
from voice_cloning.speech.speaking_model import fitting_adapter

BASE = "none"
"""Stands for no adapter."""
SHARES = ("understood", "ended", "stopped")
MOST_COLUMNS = 80
BATCH_SIZE = 20
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 30, "top_p": 1.0, "ras_win_len": None}


class Recogniser(Protocol):
    """What ``recognise.py`` has."""

    def word(self, codes_KT: Tensor) -> str:
        """The English name of the word that (K, T) codes say."""


@dataclass(frozen=True)
class Request:
    """A word to speak.

    Attributes:
        word: its name, as the recogniser has it.
        prompt: the head of the sample, with the reference clip, up to where the target clip begins.
        frames: length of the speaker's own recording.
        seed: of the draws.
    """

    word: str
    prompt: ChatMLDatasetSample
    frames: int
    seed: int


@dataclass(frozen=True)
class Spoken:
    """What a model said: (K, C) code columns, and whether it ended by itself."""

    columns_KC: Tensor
    ended: bool


@dataclass(frozen=True)
class Answer:
    """The judgement of a word.

    Attributes:
        understood: whether the recogniser heard the word that was asked for.
        ended: whether the model ended by itself.
        stopped: whether the last column is the end in every codebook.
        length_ratio: length as a share of the recording's.
    """

    understood: bool
    ended: bool
    stopped: bool
    length_ratio: float


def load_recogniser(folder: Path) -> Recogniser:
    """The word recogniser of a folder. Raises the error of :func:`recogniser_module`."""
    return recogniser_module(folder).Recogniser()


def recogniser_module(folder: Path) -> ModuleType:
    """The module ``recognise.py`` of a folder: ``Recogniser``, and ``WORDS``, name of a word to the word itself.

    Raises:
        InputError: if there is none.
    """
    path = folder / "recognise.py"
    if not path.is_file():
        raise InputError(f"--data {folder}: no recognise.py in it; give the folder of the words and their recogniser")
    spec = importlib.util.spec_from_file_location("recognise", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_model(folder: Path, adapter: str) -> HiggsAudioModel:
    """The base model in evaluation mode, with an adapter merged into it unless that is ``none``.

    Raises:
        InputError: if the folder holds no adapter, or one of another model.
    """
    if adapter == BASE:
        return HiggsAudioModel.from_pretrained(folder)
    trained = fitting_adapter(Path(adapter), HiggsAudioConfig.from_pretrained(folder))
    model = HiggsAudioModel.from_pretrained(folder)
    return merge_adapter(apply_adapter(model, trained), model.dtype).eval()


def read_requests(path: Path, config: HiggsAudioConfig, args: argparse.Namespace) -> list[Request]:
    """The words of a set in the wanted voices, at most as many as wanted.

    Args:
        path: ``.json`` file of the set; the codes of its clips lie beside it.

    Raises:
        InputError: if a file is missing or wrong, or no word is left.
    """
    codes_file = str(path.with_suffix(".safetensors"))
    codes = CodesFiles([codes_file], config.audio_num_codebooks, config.audio_codebook_size)
    dataset = ArabicVoiceCloningDataset(
        str(path),
        AutoTokenizer.from_pretrained(args.model_path),
        codes,
        ArabicVoiceCloningDatasetConfig(prompt_style=args.prompt_style, codes=[codes_file]),
        use_delay_pattern=config.use_delay_pattern,
        frames_per_second=codes.frames_per_second,
        max_positions=config.text_config.max_position_embeddings,
    )
    requests = []
    for number, record in enumerate(read_json_records(path)):
        if len(record.get("misc", {}).get("words", [])) != 1:
            raise InputError(f"{path}: record {number}: misc.words does not hold one word, the one to be spoken")
        if args.voices is None or record.get("speaker") in args.voices:
            requests.append(build_request(record, dataset[number], config, args.seed + number))
    if not requests:
        raise InputError(f"{path}: no sample has its 'speaker' among --voices {' '.join(args.voices)}")
    return requests[: args.words]


def build_request(record: dict[str, Any], sample: ChatMLDatasetSample, config: HiggsAudioConfig, seed: int) -> Request:
    """Cut a sample off where its trained clip begins."""
    found = cut_at_target(sample, config)
    return Request(record["misc"]["words"][0], found.prompt, found.target_KT.shape[1], seed)


def speak(model: HiggsAudioModel, requests: Sequence[Request]) -> list[Spoken]:
    """Speak each word."""
    collator = ArabicVoiceCloningTrainingCollator.from_config(model.config)
    spoken: list[Spoken] = []
    for start in range(0, len(requests), BATCH_SIZE):
        batch = requests[start : start + BATCH_SIZE]
        batch_input = collator([request.prompt for request in batch])
        output = model.generate(
            **batch_input.prompts(),
            max_new_tokens=MOST_COLUMNS,
            seed=[request.seed for request in batch],
            **SAMPLING,
        )
        spoken += map(Spoken, output.audio_sequences, output.ended)
    return spoken


def judge(request: Request, spoken: Spoken, config: HiggsAudioConfig, recogniser: Recogniser) -> Answer:
    """Judge one word."""
    codes_KT = codes_of_columns(spoken.columns_KC, config.audio_codebook_size)
    frames = codes_KT.shape[1]
    return Answer(
        understood=frames > 0 and recogniser.word(codes_KT) == request.word,
        ended=spoken.ended,
        stopped=bool((spoken.columns_KC[:, -1] == config.audio_stream_eos_id).all()),
        length_ratio=frames / request.frames,
    )


def table_row(set_name: str, adapter: str, answers: Sequence[Answer]) -> str:
    """One line of the printed table."""
    shares = [sum(getattr(answer, name) for answer in answers) / len(answers) for name in SHARES]
    ratio = median_high(answer.length_ratio for answer in answers)
    name = adapter if adapter == BASE else Path(adapter).name
    cells = "".join(f" {share:10.1%}" for share in shares)
    return f"{set_name:14} {name:24} {len(answers):6}{cells} {ratio:13.2f}"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/speaks"), help="Folder of words and recogniser.")
    parser.add_argument("--model_path", type=Path, help="Folder of the model; by default DATA/base_model.")
    parser.add_argument(
        "--adapter", nargs="+", default=[BASE], help="Folders of adapters, judged one after another; none: the model."
    )
    parser.add_argument("--sets", nargs="+", default=["dev_ask_new", "dev_ask_old"], help="Names of sets of words.")
    parser.add_argument("--voices", nargs="+", help="Speakers, as the sets name them; by default all.")
    parser.add_argument("--words", type=int, help="Speak only the first words of each set.")
    parser.add_argument(
        "--prompt_style", choices=list(PROMPT_STYLES), default="as_written", help="The style that was trained on."
    )
    parser.add_argument("--seed", type=int, default=7, help="Of the first word; each following word's is one larger.")
    args = parser.parse_args(arguments)
    args.model_path = args.model_path or args.data / "base_model"
    if args.words is not None and args.words < 1:
        parser.error(f"--words is {args.words}; it must be at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table. Returns the exit status."""
    return run_command(lambda: print_table(parse_arguments(arguments)))


def print_table(args: argparse.Namespace) -> int:
    """Measure, and print a row for each adapter and set. Returns the exit status."""
    recogniser = load_recogniser(args.data)
    names = "".join(f" {name:>10}" for name in SHARES)
    print(f"{'set':14} {'adapter':24} {'words':>6}{names} {'length ratio':>13}")
    for adapter in args.adapter:
        model = load_model(args.model_path, adapter)
        for name in args.sets:
            requests = read_requests(args.data / f"{name}.json", model.config, args)
            pairs = zip(requests, speak(model, requests), strict=True)
            answers = [judge(request, spoken, model.config, recogniser) for request, spoken in pairs]
            print(table_row(name, adapter, answers), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
