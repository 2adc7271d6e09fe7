"""How the demo ends: its adapter speaks a clip that it has learnt by heart, which must be the clip through the codec.

    python -m tools.demo_ending DEMO_DIR

DEMO_DIR is what `make_demo` wrote and its run/ what the trainer did; DEMO_DIR/memorised.wav is written.
"""

import argparse
import sys
import warnings
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from run_directory import CHECKPOINT_PREFIX
from tools.speech_audio import wav_bytes, write_whole
from tools.speech_requests import read_manifest
from tools.voice_cloner import SpeechSettings, VoiceCloner


def speak_memorised(demo: Path) -> str:
    """Speak the first training record greedily with the newest checkpoint; return how it compares, in one line.

    Raises:
        InputError: if the demo was not built or not trained.
    """
    checkpoints = sorted((demo / "run").glob(f"{CHECKPOINT_PREFIX}*"))
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
    verdict = (
        "every code is that of the clip through the codec" if same else "NOT the codes of the clip through the codec"
    )
    return f"{path}: {request.name} spoken by heart, {codes.shape[1]} frames for {wanted.shape[1]}; {verdict}"


def main() -> int:
    """Run the program. Returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, metavar="DEMO_DIR")
    disable_progress_bar()
    # PEFT still asks transformers by the older name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    try:
        print(speak_memorised(parser.parse_args().demo))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
