"""The last step of the demo: one memorised clip is compared code by code, then the evaluation of all is summed up."""

from pathlib import Path
from statistics import median

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.audio_processing.wav_encoding import wav_bytes
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.whole_files import write_whole
from voice_cloning.evaluation.report_form import REPORT_FILE, Report, read_report
from voice_cloning.evaluation.report_page import PAGE_FILE
from voice_cloning.speech.requests import read_manifest
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner
from voice_cloning.training.checkpoints import is_written_by_program, named_checkpoints


def speak_memorised(demo: Path) -> str:
    """Speak the first training record greedily with the newest checkpoint, and compare it with the training clip.

    Returns:
        The result in one line.

    Raises:
        InputError: if the demo was not built or not trained.
    """
    run = demo / "run"
    checkpoints = list(filter(is_written_by_program, named_checkpoints(run))) if run.is_dir() else []
    if not checkpoints:
        raise InputError(f"{demo / 'run'}: no checkpoint in it; train the demo first (make demo)")
    cloner = VoiceCloner(
        model_path=str(demo / "model"),
        audio_tokenizer_path=str(demo / "audio_tokenizer"),
        adapter=checkpoints[-1],
        device="cpu",
        settings=SpeechSettings(sampling=SamplingConfig(do_sample=False)),
    )
    request = read_manifest(demo / "train_chatml_samples.json", cloner.prompt_style)[0][0]
    _, speech = next(cloner.speak_all([request]))
    clips = prepare_chatml_sample(request.pieces[0].sample, cloner.tokenizer)[2]
    wanted = cloner.clips.encoded(Clip.of(clips[-1], request.base_dir))
    codes = speech.pieces[0].codes
    path = demo / "memorised.wav"
    write_whole(path, wav_bytes(speech.samples, speech.sampling_rate))
    same = codes.shape == wanted.shape and bool((codes == wanted).all())
    verdict = "every code equals that of the training clip" if same else "the codes are NOT those of the training clip"
    return f"{path}: {request.name} spoken from memory, {codes.shape[1]} frames for {wanted.shape[1]}; {verdict}"


def sum_up_evaluation(folder: Path) -> list[str]:
    """Say for each model how many clips ended and how long they were, from the report that ``tools.evaluate`` wrote.

    Returns:
        One line for each model, and last where the page is.

    Raises:
        InputError: if there is no report, or a damaged one.
    """
    report = read_report(folder / REPORT_FILE)
    lines = [f"the {len(report['items'])} training clips spoken from their prompts, always the most probable code:"]
    lines += [f"  {system['name']}: {_spoken(report, system['name'])}" for system in report["systems"]]
    return [*lines, f"open {folder / PAGE_FILE} in a browser: listen to both beside the true recordings"]


def _spoken(report: Report, name: str) -> str:
    """Return how many clips of a model ended, and their length ratios."""
    clips = [clip for item in report["items"] for clip in item["clips"].get(name, [])]
    ended = sum(clip["ended"] is True for clip in clips)
    ratios = sorted(clip["length_ratio"] for clip in clips if clip["length_ratio"] is not None)
    told = f"{ended} of {len(clips)} end by themselves"
    if not ratios:
        return told
    return (
        f"{told}; {median(ratios):.2f} times as long as the true recording (from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
