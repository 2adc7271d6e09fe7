"""Speak Arabic text in the voice of a short reference clip, with the released model or an adapter on it.

    python -m tools.synthesize --adapter EXPMT/a/checkpoint-000200 \\
        --reference voice.wav --reference_text "what is said in it" --text "what to say" --output out.wav
    python -m tools.synthesize --adapter EXPMT/a/checkpoint-000200 --manifest FILE.json --output_dir DIR

A manifest is a list of {"id", "text", "reference", "reference_text"}, or of ChatML records as the trainer takes them;
each becomes DIR/ID.wav, 24 kHz mono. Beside a file lies ID.wav.json, which says what it was made of: the same command
given again makes what is missing, cut short, or was made of something else.

Long texts are cut at ends of sentences and spoken piece by piece. What does not end within the time that its text can
plausibly take ran away: it is tried again with other seeds, then reported, and not written (--keep_runaways writes it
as ID.runaway.wav). Exit status: 0 if all was spoken, 1 for a wrong input, 2 for an unknown flag, 3 if something ran
away.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from arabic_text.normalise import TEXT_NORMALISATIONS
from boson_multimodal.cloning_example import PROMPT_STYLES
from boson_multimodal.constants import AUDIO_TOKENIZER_ID, AUDIO_TOKENIZER_REVISION, MODEL_ID, MODEL_REVISION
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from voice_cloning.speech.audio import write_whole
from voice_cloning.speech.output_files import OutputFile
from voice_cloning.speech.requests import (
    SpeechRequest,
    check_references,
    read_manifest,
    request_of_text,
    text_problems,
)
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, SLOWEST_LETTERS_PER_SECOND
from voice_cloning.speech.voice_cloner import (
    SpeechSettings,
    VoiceCloner,
    normalisation_of_adapter,
    style_of_adapter,
)
from voice_cloning.training.config import TORCH_DTYPES

ONE_TEXT = ("text", "reference", "reference_text", "output")
MANY_TEXTS = ("manifest", "output_dir")
RAN_AWAY = 3
"""Exit status when everything was tried and something did not end; 2 is argparse's."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags.

    Raises:
        InputError: if it is neither one text with all that belongs to it nor a manifest.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.synthesize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_path", default=MODEL_ID, help="Folder or hub id of the model.")
    add("--model_revision", default=MODEL_REVISION, help="Commit of model_path, if it is a hub id.")
    add("--audio_tokenizer_path", default=AUDIO_TOKENIZER_ID, help="Folder or hub id of the codec.")
    add("--audio_tokenizer_revision", default=AUDIO_TOKENIZER_REVISION, help="Commit of it, if it is a hub id.")
    add("--adapter", help="Folder of a trained adapter, such as a run's checkpoint.")
    add(
        "--prompt_style",
        choices=list(PROMPT_STYLES),
        help="Turns of the prompt; by default those that the adapter was trained with, voice_clone without an adapter.",
    )
    add(
        "--text_normalisation",
        choices=list(TEXT_NORMALISATIONS),
        help="What is done to texts; by default what was done to those the adapter was trained on, none without one.",
    )
    add("--text", help="What to say.")
    add("--reference", help="Clip of the voice, best of 3 to 10 s.")
    add("--reference_text", help="What is said in it.")
    add("--output", help="The .wav to write.")
    add("--manifest", help="Many texts: .json or .jsonl, see above.")
    add("--output_dir", help="Folder for them.")
    add("--batch_size", type=int, default=8, help="Pieces spoken at once. Memory grows with it.")
    add("--seed", type=int, default=0, help="The same seed gives the same speech.")
    add("--greedy", action="store_true", help="Take the most probable code each time; nothing below is used.")
    add("--temperature", type=float, default=1.0)
    add("--top_k", type=int, default=50, help="0 keeps all.")
    add("--top_p", type=float, default=0.95)
    add("--ras_win_len", type=int, default=7, help="Window of repetition-aware sampling; 0 turns it off.")
    add("--ras_win_max_num_repeat", type=int, default=2)
    add("--retries", type=int, default=2, help="Further tries, with other seeds, of a piece that ran away.")
    add("--letters_per_piece", type=int, default=LETTERS_PER_PIECE, help="Longer texts are cut.")
    add(
        "--slowest_letters_per_second",
        type=float,
        default=SLOWEST_LETTERS_PER_SECOND,
        help="Slower speech ran away; diacritics do not count. Lower it for recitation.",
    )
    add("--keep_runaways", action="store_true", help="Write them too, as NAME.runaway.wav.")
    types = [name for name in TORCH_DTYPES if name != "float16"]
    add("--torch_dtype", choices=types, default="auto", help="auto is bfloat16 on a GPU and float32 on CPU.")
    add("--device", help="cpu, cuda, cuda:1; by default the GPU if there is one.")
    flags = parser.parse_args(arguments)
    raise_if_any("wrong flags", _flag_problems(flags))
    return flags


def _flag_problems(flags: argparse.Namespace) -> list[str]:
    """Which flags are missing, too many or out of range."""
    given = [name for name in (*ONE_TEXT, *MANY_TEXTS) if getattr(flags, name) is not None]
    wanted = MANY_TEXTS if set(given) & set(MANY_TEXTS) else ONE_TEXT
    problems = [f"--{name} is missing; it belongs to --{wanted[0]}" for name in wanted if name not in given]
    problems += [f"--{name} does not go with --{wanted[0]}" for name in given if name not in wanted]
    if flags.batch_size < 1:
        problems.append(f"--batch_size is {flags.batch_size}; it must be at least 1")
    if flags.output is not None and Path(flags.output).suffix != ".wav":
        problems.append(f"--output {flags.output}: its name must end in .wav")
    return problems


def read_requests(flags: argparse.Namespace, prompt_style: str, how: str) -> tuple[list[SpeechRequest], list[str]]:
    """What the flags ask to be spoken, and every problem with the texts."""
    if flags.manifest is not None:
        return read_manifest(Path(flags.manifest), prompt_style, flags.letters_per_piece, how)
    problems = text_problems(flags.text, "--text", how)
    problems += text_problems(flags.reference_text, "--reference_text", how)
    told = flags.text, AudioContent(audio_url=flags.reference, where="--reference"), flags.reference_text
    name = Path(flags.output).stem
    settings = {"letters_per_piece": flags.letters_per_piece, "text_normalisation": how}
    return [request_of_text(name, *told, prompt_style, **settings)], problems


def make_outputs(
    cloner: VoiceCloner, requests: Sequence[SpeechRequest], files: dict[str, OutputFile], flags: argparse.Namespace
) -> list[tuple[str, str, dict[str, Any]]]:
    """Speak what is not there yet.

    Returns:
        (name, what was done, record) of each request, in their order.
    """
    identities = {request.name: cloner.identity(request) for request in requests}
    found = {name: record for name, made_of in identities.items() if (record := files[name].found(made_of))}
    results = {name: ("there already", record) for name, record in found.items()}
    waiting = [request for request in requests if request.name not in found]
    with tqdm(total=sum(len(r.pieces) for r in waiting), desc="speaking", unit="piece", disable=not waiting) as bar:
        for request, speech in cloner.speak_all(waiting, flags.batch_size):
            record = files[request.name].write(speech, identities[request.name], flags.keep_runaways)
            results[request.name] = ("written" if record["file"] else "not written", record)
            bar.update(len(request.pieces))
    return [(request.name, *results[request.name]) for request in requests]


def report(results: Sequence[tuple[str, str, dict[str, Any]]]) -> int:
    """Print a table of the outputs, then what ran away. Returns the exit status."""
    width = max(len(name) for name, _, _ in results)
    print(f"{'id':{width}}  {'':13}  {'seconds':>7}  {'pieces':>6}  file")
    for name, done, record in results:
        pieces = len(record["attempts"])
        print(f"{name:{width}}  {done:13}  {record['seconds']:7.2f}  {pieces:6d}  {record['file'] or '-'}")
    seconds = [record["seconds"] for _, _, record in results if record["file"]]
    again = sum(attempts > 1 for _, _, record in results for attempts in record["attempts"])
    print(f"{len(seconds)} files, {sum(seconds):.2f} s" + (f"; {again} pieces took more than one try" if again else ""))
    failures = [f"{name}: {failure}" for name, _, record in results for failure in record["failures"]]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return RAN_AWAY if failures else 0


def synthesize(flags: argparse.Namespace) -> int:
    """Check everything, then speak. Returns the exit status.

    Raises:
        InputError: for whatever the user can mend; texts and clips are checked before anything is fetched, and no
            weight is loaded before all else is.
    """
    settings = SpeechSettings(
        sampling=SamplingConfig(
            do_sample=not flags.greedy,
            temperature=flags.temperature,
            top_k=flags.top_k,
            top_p=flags.top_p,
            ras_win_len=flags.ras_win_len or None,
            ras_win_max_num_repeat=flags.ras_win_max_num_repeat,
        ),
        seed=flags.seed,
        retries=flags.retries,
        slowest_letters_per_second=flags.slowest_letters_per_second,
    )
    adapter = None if flags.adapter is None else Path(flags.adapter).expanduser()
    trained = adapter or Path(flags.model_path).expanduser()
    prompt_style = flags.prompt_style or style_of_adapter(trained)
    text_normalisation = flags.text_normalisation or normalisation_of_adapter(trained)
    requests, problems = read_requests(flags, prompt_style, text_normalisation)
    frames, unusable = check_references(requests)
    folder = Path(flags.output_dir or Path(flags.output).parent)
    paths = {r.name: folder / f"{r.name}.wav" if flags.output is None else Path(flags.output) for r in requests}
    files = {name: OutputFile(path) for name, path in paths.items()}
    foreign = [problem for file in files.values() for problem in file.problems()]
    raise_if_any(f"{flags.manifest or '--text'}: cannot be spoken", problems + unusable + foreign)
    cloner = VoiceCloner(
        model_path=flags.model_path,
        model_revision=flags.model_revision,
        audio_tokenizer_path=flags.audio_tokenizer_path,
        audio_tokenizer_revision=flags.audio_tokenizer_revision,
        adapter=adapter,
        prompt_style=prompt_style,
        text_normalisation=text_normalisation,
        torch_dtype=flags.torch_dtype,
        device=flags.device,
        settings=settings,
    )
    cloner.check_lengths(requests, frames)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".written", b"")
        (folder / ".written").unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from error
    done = f"prompt_style {prompt_style}, text_normalisation {text_normalisation}"
    print(f"{done}, {cloner.dtype} on {cloner.device}", file=sys.stderr)
    return report(make_outputs(cloner, requests, files, flags))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Returns its exit status."""
    disable_progress_bar()  # of loading weights
    # PEFT still asks transformers by the older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        return synthesize(parse_arguments(arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"error: out of GPU memory ({error}); try a smaller --batch_size", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; each file that is there is whole, and the same command goes on from there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
