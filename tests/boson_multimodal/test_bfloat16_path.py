"""Test bfloat16 on the CPU from end to end: load, train, speak, merge, and speak with the merged model."""

from pathlib import Path

import soundfile
import torch
from safetensors.torch import load_file

from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import TRANSFORMERS
from tests.training_runs import trainer
from tools import merge_adapter, synthesize
from tools.demo.model import build_tokenizer
from voice_cloning.speech.adapter_run import style_of_adapter


def test_load_train_speak_merge_and_speak_again(demo: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = HiggsAudioModel.from_pretrained(demo / "model", dtype=torch.bfloat16)
    save_checkpoint(model, model.config, base, TRANSFORMERS)
    build_tokenizer(base)

    subject = trainer(demo, tmp_path / "run", model_path=base, torch_dtype="bfloat16", max_steps=4)
    checkpoint = subject.train().checkpoint
    merged = tmp_path / "merged"
    words = ["--model_path", base, "--adapter", checkpoint, "--output", merged, "--layout", "original"]
    assert merge_adapter.main([*map(str, words), "--torch_dtype", "bfloat16"]) == 0
    assert {t.dtype for t in load_file(merged / "model.safetensors").values()} == {torch.bfloat16}

    assert style_of_adapter(merged) == style_of_adapter(checkpoint) == "voice_clone"
    for name, model_words in (("adapter", [base, "--adapter", checkpoint]), ("merged", [merged])):
        output = tmp_path / f"{name}.wav"
        speech = ["--audio_tokenizer_path", demo / "audio_tokenizer", "--torch_dtype", "bfloat16", "--device", "cpu"]
        speech += ["--reference", demo / "clips/amal/train_00.wav", "--reference_text", "نعم", "--text", "نعم"]
        # The model is hardly trained, so it may run away. --keep_runaways writes its speech in that case too.
        speech += ["--output", output, "--keep_runaways", "--retries", "0"]
        assert synthesize.main([str(word) for word in ["--model_path", *model_words, *speech]]) in (0, 3)
        (wav,) = tmp_path.glob(f"{name}*.wav")
        samples, rate = soundfile.read(wav)
        assert rate == 24_000 and len(samples) >= 960
