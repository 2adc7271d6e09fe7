"""Speak Arabic text in the voice of a short reference clip, with the released model or an adapter on it.

    python -m tools.synthesize --adapter EXPMT/a/checkpoint-000200 \\
        --reference voice.wav --reference_text "what is said in it" --text "what to say" --output out.wav
    python -m tools.synthesize --adapter EXPMT/a/checkpoint-000200 --manifest FILE.json --output_dir DIR
    python -m tools.synthesize --adapter EXPMT/a/checkpoint-000200 --stream \\
        --reference voice.wav --reference_text "..." --text "..." | aplay -t raw -f S16_LE -r 24000 -c 1

A manifest is a list of {"id", "text", "reference", "reference_text"}, or of ChatML records in the trainer's format.
With several adapters, each entry names its own ("adapter": NAME, in a record misc.adapter); see docs/adapters.md.
Each entry becomes DIR/ID.wav, 24 kHz mono. ID.wav.json in the same folder records the inputs and settings of that file.
The same command, given again, only makes files that are missing or incomplete, or whose inputs or settings changed.

Long texts are cut at ends of sentences and spoken piece by piece. Generation that exceeds a plausible duration for its
text is a runaway. It is repeated with other seeds; if all attempts are runaways, the output is reported and not written
(--keep_runaways writes it as ID.runaway.wav).

--stream writes the sound to the standard output while it is generated: raw samples, 16 bits little-endian, mono, at the
codec's rate. All messages go to the standard error. There is one attempt, because sound that was played cannot be taken
back (docs/streaming.md). Exit status: 0 if everything was spoken, 1 for wrong input, 2 for an
unknown flag, 3 if there was a runaway.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from transformers.utils.logging import disable_progress_bar

from boson_multimodal.audio_processing.wav_encoding import pcm_bytes
from boson_multimodal.cards import has_bfloat16
from boson_multimodal.circumstances import home_path, is_misread
from boson_multimodal.command_line import run_command
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, Problems, call_for_each, raise_if_any
from boson_multimodal.memory_remedies import Remedy, naming_lack_of_memory
from boson_multimodal.progress import progress
from boson_multimodal.prompt_template import PromptForm
from boson_multimodal.standard_streams import result_output
from boson_multimodal.whole_files import write_whole
from tools.speech_flags import (
    HelpWithDefaults,
    add_adapter_scale_flag,
    add_adapters_flag,
    add_computation_flags,
    add_model_flags,
    add_prompt_flags,
    add_sampling_flags,
    fields_of,
    sampling_of,
)
from voice_cloning.adapters.export import check_scale_is_used
from voice_cloning.speech.adapter_folders import BASE, folder_lines, folders_without_adapter, named_adapters
from voice_cloning.speech.adapter_run import form_for, normalisation_of_adapter, refuse_unused_fields
from voice_cloning.speech.manifest_voices import VoiceChoice, VoiceForm, read_voiced_manifest
from voice_cloning.speech.output_files import OutputFile
from voice_cloning.speech.requests import (
    SpeechRequest,
    check_references,
    form_problems,
    request_of_text,
    text_problems,
)
from voice_cloning.speech.speaking_model import HeldModel
from voice_cloning.speech.streaming import stream_speech
from voice_cloning.speech.text_pieces import LETTERS_PER_PIECE, SLOWEST_LETTERS_PER_SECOND
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner
from voice_cloning.speech.voices import find_voices

ONE_TEXT = ("text", "reference", "reference_text", "output")
MANY_TEXTS = ("manifest", "output_dir")
STREAMED = ("text", "reference", "reference_text")
SENT, WRITTEN = "the sound so far is sent", "the files that are written are complete"
"""What became of the work that was stopped."""
RUNAWAY_STATUS = 3
"""The exit status if an output is a runaway after all attempts. Status 2 is that of argparse."""


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags.

    Raises:
        InputError: if they are neither the complete flags of one text nor those of a manifest.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.synthesize",
        description=__doc__,
        formatter_class=HelpWithDefaults,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_model_flags(parser)
    add_adapters_flag(parser)
    add(
        "--adapter_name",
        metavar="NAME",
        help="Who speaks the text, or the entries that name no adapter.",
    )
    add("--adapter_by", choices=["dialect"], help="Entries that name no adapter take the one of their dialect.")
    add_adapter_scale_flag(parser)
    add_prompt_flags(parser)
    add("--text", help="The text to speak.")
    add("--reference", help="Clip of the voice, ideally 3 to 10 s.")
    add("--reference_text", help="The text of the reference clip.")
    add("--output", help="The .wav file to write.")
    add("--manifest", help="A .json or .jsonl file with many texts, see above.")
    add("--output_dir", help="Output folder for a manifest.")
    add("--stream", action="store_true", help="Write raw sound to the standard output while it is generated.")
    add("--batch_size", type=int, default=8, help="Pieces per batch. Memory grows with it.")
    _add_generation_flags(parser)
    add_computation_flags(parser)
    flags = parser.parse_args(arguments)
    raise_if_any("wrong flags", _flag_problems(flags))
    return flags


def _add_generation_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=0, help="The same seed gives the same speech.")
    add_sampling_flags(parser)
    add("--retries", type=int, default=2, help="Further attempts, with other seeds, for a runaway piece.")
    add("--letters_per_piece", type=int, default=LETTERS_PER_PIECE, help="Longer texts are cut into pieces.")
    add(
        "--slowest_letters_per_second",
        type=float,
        default=SLOWEST_LETTERS_PER_SECOND,
        help="Slower speech is a runaway; diacritics do not count. Lower it for recitation.",
    )
    add("--keep_runaways", action="store_true", help="Also write runaways, as NAME.runaway.wav.")


def _flag_problems(flags: argparse.Namespace) -> list[str]:
    """Return a problem for each flag that is missing, excluded by another, or out of range."""
    given = [name for name in (*ONE_TEXT, *MANY_TEXTS) if getattr(flags, name) is not None]
    wanted = STREAMED if flags.stream else MANY_TEXTS if set(given) & set(MANY_TEXTS) else ONE_TEXT
    form = "stream" if flags.stream else wanted[0]
    problems = [f"--{name} is missing; --{form} needs it" for name in wanted if name not in given]
    problems += [f"--{name} cannot be combined with --{form}" for name in given if name not in wanted]
    if flags.stream and flags.keep_runaways:
        problems.append("--keep_runaways cannot be combined with --stream, which sends all that is generated")
    if flags.stream and sys.stdout.isatty():
        problems.append(
            "--stream: the standard output is a terminal; send the sound to a player or a file, such as "
            "| aplay -t raw -f S16_LE -r 24000 -c 1"
        )
    for name in ("adapter_name", "adapter_by"):
        if getattr(flags, name) is not None and not flags.adapter:
            problems.append(f"--{name} {getattr(flags, name)}: there is no --adapter; give the adapters")
    if flags.adapter_by is not None and flags.manifest is None:
        problems.append(f"--adapter_by {flags.adapter_by}: acts with --manifest alone; give --adapter_name")
    if flags.batch_size < 1:
        problems.append(f"--batch_size is {flags.batch_size}; it must be at least 1")
    for name in ("text", "reference_text"):
        if is_misread(getattr(flags, name) or ""):
            problems.append(
                f"--{name}: its bytes are no text in this terminal's locale; write UTF-8, with PYTHONUTF8=1"
            )
    if flags.output is not None and Path(flags.output).suffix != ".wav":
        problems.append(f"--output {flags.output}: its name must end in .wav")
    return problems


def voice_choice(flags: argparse.Namespace, adapters: Mapping[str, Path]) -> VoiceChoice:
    """Return who speaks, of the adapters with these names and the base.

    Raises:
        InputError: if ``--adapter_name`` is none of them, or if there is one text and it is not said who speaks it.
    """
    default, names = flags.adapter_name, list(adapters)
    if default is None and flags.adapter_by is None and len(names) < 2:
        default = names[0] if names else BASE
    choice = VoiceChoice(names, default, flags.adapter_by == "dialect")
    if default is not None and default not in choice.voices:
        found = f"--adapter_name {default}: there is no such adapter; there are {', '.join(choice.voices)}"
        raise InputError("; ".join([found, *folders_without_adapter(adapters.values())]))
    if default is None and flags.manifest is None:
        raise InputError(f"--adapter_name is missing; give one of {', '.join(choice.voices)}")
    return choice


def read_requests(
    flags: argparse.Namespace, choice: VoiceChoice, form_of: Callable[[str], VoiceForm]
) -> tuple[list[SpeechRequest], dict[str, str], list[str]]:
    """Return the requests of the flags, the voice of each by its name, and every problem with the texts."""
    if flags.manifest is not None:
        return read_voiced_manifest(Path(flags.manifest), choice, form_of, flags.letters_per_piece)
    prompt_style, how = form_of(choice.default)
    problems = text_problems(flags.text, "--text", how)
    problems += text_problems(flags.reference_text, "--reference_text", how)
    if of_form := form_problems(prompt_style, {}, prefix="--"):
        return [], {}, problems + of_form
    reference = AudioContent(audio_url=flags.reference, where="--reference")
    name = "the text" if flags.stream else Path(flags.output).stem
    settings = {"letters_per_piece": flags.letters_per_piece, "text_normalisation": how}
    request = request_of_text(name, flags.text, reference, flags.reference_text, prompt_style, **settings)
    return [request], {name: choice.default}, problems


def make_outputs(
    requests: dict[VoiceCloner, list[SpeechRequest]], files: dict[str, OutputFile], flags: argparse.Namespace
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Generate speech for the requests whose output does not exist yet, cloner by cloner.

    Returns:
        What was done and the record, by the name of the request.
    """
    identities = {request.name: cloner.identity(request) for cloner, own in requests.items() for request in own}
    found = {name: record for name, made_of in identities.items() if (record := files[name].found(made_of))}
    results = {name: ("exists", record) for name, record in found.items()}
    waiting = {cloner: [request for request in own if request.name not in found] for cloner, own in requests.items()}
    pieces = sum(len(request.pieces) for own in waiting.values() for request in own)
    with progress(title="speaking", total=pieces, unit="piece", disable=not pieces) as bar:
        for cloner, own in waiting.items():
            for request, speech in cloner.speak_all(own, flags.batch_size):
                record = files[request.name].write(speech, identities[request.name], flags.keep_runaways)
                results[request.name] = ("written" if record["file"] else "not written", record)
                bar.update(len(request.pieces))
    return results


def report(results: Sequence[tuple[str, str, dict[str, Any]]], voices: dict[str, str]) -> int:
    """Print a table of the outputs, then the failures. Return the exit status.

    Args:
        voices: who spoke, by the name of the output. The table names them if there are several.
    """
    width = max(len(name) for name, _, _ in results)
    who = {name: f"  {voice}" for name, voice in voices.items()} if len(set(voices.values())) > 1 else {}
    print(f"{'id':{width}}  {'':13}  {'seconds':>7}  {'pieces':>6}  file{'  adapter' if who else ''}")
    for name, done, record in results:
        pieces = len(record["attempts"])
        file = record["file"] or "-"
        print(f"{name:{width}}  {done:13}  {record['seconds']:7.2f}  {pieces:6d}  {file}{who.get(name, '')}")
    seconds = [record["seconds"] for _, _, record in results if record["file"]]
    again = sum(attempts > 1 for _, _, record in results for attempts in record["attempts"])
    repeated = f"; {again} pieces needed more than one attempt" if again else ""
    print(f"{len(seconds)} files, {sum(seconds):.2f} s{repeated}")
    failures = [f"{name}: {failure}" for name, _, record in results for failure in record["failures"]]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return RUNAWAY_STATUS if failures else 0


def stream(cloner: VoiceCloner, request: SpeechRequest, output: BinaryIO) -> int:
    """Write the speech of a request to ``output`` while it is generated. Return the exit status."""
    say = partial(print, file=sys.stderr, flush=True)
    rate, _ = cloner.codec.sampling_rate, cloner.model  # loads both, before the time is taken
    say(f"stream: raw samples, 16 bits little-endian, mono, {rate} Hz")
    say("pieces of text one by one, one attempt each, whatever --batch_size and --retries are")
    began, seconds, failures = time.perf_counter(), 0.0, []
    for sound in stream_speech(cloner, request):
        output.write(pcm_bytes(sound.samples))
        output.flush()
        if not seconds and sound.samples.numel():
            waited = time.perf_counter() - began
            say(f"first sound after {waited:.2f} s and {sound.columns} columns")
        seconds += sound.samples.numel() / rate
        if sound.spoken is not None and sound.spoken.failure:
            failures.append(f"{sound.spoken.failure}: {sound.spoken.text!r}")
    say(f"{seconds:.2f} s of speech in {time.perf_counter() - began:.2f} s")
    for failure in failures:
        say(f"error: {failure}")
    return RUNAWAY_STATUS if failures else 0


def synthesize(flags: argparse.Namespace, output: BinaryIO | None = None) -> int:
    """Check all input, then generate the speech. Return the exit status.

    Args:
        output: what a stream is written to; None writes files.

    Raises:
        InputError: if an input is wrong. Texts and clips are checked before a download, and everything is checked
            before any weight is loaded.
    """
    settings = settings_of(flags)
    adapters = named_adapters(flags.adapter)
    choice = voice_choice(flags, adapters)

    @cache  # it reads files of the adapter
    def form_of(voice: str) -> VoiceForm:
        trained = adapters.get(voice) or home_path(flags.model_path, "--model_path")
        form = form_for(trained, flags.prompt_style, flags.prompt_template, fields_of(flags))
        return form, flags.text_normalisation or normalisation_of_adapter(trained)

    requests, voices, problems = read_requests(flags, choice, form_of)
    if problems:  # among them may be names that are none because of this
        problems += folders_without_adapter(adapters.values())
    forms = {voice: form_of(voice)[0] for voice in dict.fromkeys(voices.values())}
    refuse_unused_fields(forms.values(), fields_of(flags))
    frames, unusable = check_references(requests)
    files = output_files(flags, requests) if output is None else {}
    foreign = [problem for file in files.values() for problem in file.problems()]
    raise_if_any(f"{flags.manifest or '--text'}: cannot be spoken", problems + unusable + foreign)
    asked = {
        voice: [request for request in requests if voices[request.name] == voice]
        for voice in dict.fromkeys(voices.values())
    }
    cloners = open_cloners(flags, {voice: adapters.get(voice) for voice in asked}, asked, forms, settings)
    call_for_each(lambda voice: cloners[voice].check_lengths(asked[voice], frames), asked)
    for folder in {file.path.parent for file in files.values()}:
        check_writable(folder)
    for line in folder_lines(flags.adapter):
        print(line, file=sys.stderr)
    for voice, cloner in cloners.items():
        who = f"{voice}: " if len(cloners) > 1 else ""
        prompts = f"prompt_style {cloner.prompt_style}, text_normalisation {cloner.text_normalisation}"
        print(f"{who}{prompts}, {cloner.dtype} on {cloner.device}, quantise {cloner.quantise}", file=sys.stderr)
    cloner = next(iter(cloners.values()))  # all share its weights
    place = "while speech was generated; " + (WRITTEN if output is None else SENT)
    batch_size = flags.batch_size if output is None else 1
    with naming_lack_of_memory(cloner.device, lambda: place, lambda: memory_remedies(cloner, batch_size)):
        if output is not None:
            return stream(cloner, requests[0], output)
        results = make_outputs({cloners[voice]: own for voice, own in asked.items()}, files, flags)
    return report([(request.name, *results[request.name]) for request in requests], voices)


def settings_of(flags: argparse.Namespace) -> SpeechSettings:
    """Return the settings of generation that the flags ask for."""
    return SpeechSettings(
        sampling=sampling_of(flags),
        seed=flags.seed,
        retries=flags.retries,
        slowest_letters_per_second=flags.slowest_letters_per_second,
    )


def output_files(flags: argparse.Namespace, requests: Sequence[SpeechRequest]) -> dict[str, OutputFile]:
    """Return the file of each request by its name."""
    if flags.output is not None:
        return {request.name: OutputFile(Path(flags.output)) for request in requests}
    return {request.name: OutputFile(Path(flags.output_dir) / f"{request.name}.wav") for request in requests}


def check_writable(folder: Path) -> None:
    """Make a folder, and write to it once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / ".written", b"")
        (folder / ".written").unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror})") from error


def open_cloners(
    flags: argparse.Namespace,
    folders: dict[str, Path | None],
    asked: dict[str, list[SpeechRequest]],
    forms: dict[str, PromptForm],
    settings: SpeechSettings,
) -> dict[str, VoiceCloner]:
    """Return a cloner for each voice that speaks, without weights.

    Raises:
        InputError: listing everything that is missing or does not fit.
    """
    problems = Problems()
    problems.tried(lambda: check_scale_is_used(flags.adapter_scale, any(folders.values())))
    found = find_voices(
        folders,
        problems,
        model_path=flags.model_path,
        model_revision=flags.model_revision,
        audio_tokenizer_path=flags.audio_tokenizer_path,
        audio_tokenizer_revision=flags.audio_tokenizer_revision,
        adapter_scale=flags.adapter_scale,
        forms=forms,
        text_normalisation=flags.text_normalisation,
        torch_dtype=flags.torch_dtype,
        quantise=flags.quantise,
        device=flags.device,
        settings=settings,
        held_model=HeldModel(most_bytes=0),  # adapter by adapter
        given_turns=[voice for voice, own in asked.items() if all(request.is_record for request in own)],
    )
    problems.raise_all()
    return found


def memory_remedies(cloner: VoiceCloner, batch_size: int) -> list[Remedy]:
    """Return what helps when memory is used up, best first."""
    found = []
    if cloner.is_loaded and batch_size > 1:
        found.append(Remedy("take fewer pieces at a time", ("--batch_size", str(batch_size // 2))))
    if cloner.dtype == torch.float32 and has_bfloat16(cloner.device):
        found.append(Remedy("hold the weights in half the memory", ("--torch_dtype", "bfloat16")))
    if cloner.device.type == "cuda":
        found.append(Remedy("use the CPU, which is slower", ("--device", "cpu")))
    return found


def work(flags: argparse.Namespace) -> int:
    """Do what the flags ask for. Return the exit status."""
    if not flags.stream:
        return synthesize(flags)
    output = result_output()
    with redirect_stdout(sys.stderr):  # whatever a library prints must not be heard
        return synthesize(flags, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit status."""
    disable_progress_bar()  # the bar of transformers for loading weights
    words = sys.argv[1:] if arguments is None else arguments
    kept = SENT if "--stream" in words else "all written files are complete; the same command makes the others"
    return run_command(lambda: work(parse_arguments(arguments)), f"interrupted; {kept}", takes_sigterm=True)


if __name__ == "__main__":
    sys.exit(main())
