"""The last step of the demo: its adapter speaks a clip that it has memorised, and the codes are compared."""

from pathlib import Path

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.whole_files import write_whole
from voice_cloning.speech.audio import wav_bytes
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
    wanted = cloner.reference_codes(Clip.of(clips[-1], request.base_dir))
    codes = speech.pieces[0].codes
    path = demo / "memorised.wav"
    write_whole(path, wav_bytes(speech.samples, speech.sampling_rate))
    same = codes.shape == wanted.shape and bool((codes == wanted).all())
    verdict = "every code equals that of the training clip" if same else "the codes are NOT those of the training clip"
    return f"{path}: {request.name} spoken from memory, {codes.shape[1]} frames for {wanted.shape[1]}; {verdict}"
