"""Make tests/old_runs/before_0_1: a run of the code before release 0.1.0, stopped in the middle of its first epoch.

    python tests/old_runs/make_run_before_0_1.py CHECKOUT OUTPUT

CHECKOUT is a checkout of commit f568d03, the last one before release 0.1.0. The run is made by its code. OUTPUT gets a
model of 2 layers and width 16, a tokenizer, codes of 9 clips, two data files, and run/ with one checkpoint.
"""

import json
import os
import signal
import sys
from pathlib import Path

CHECKOUT, OUTPUT = (Path(argument).resolve() for argument in sys.argv[1:3])
sys.path.insert(0, str(CHECKOUT))
sys.path.append(str(Path(__file__).parent))

import torch  # noqa: E402
from command import COMMAND  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

import arabic_voice_cloning_distributed_trainer as program  # noqa: E402
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel  # noqa: E402
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint  # noqa: E402
from tools.make_demo import build_tokenizer  # noqa: E402

CODEBOOKS, CODEBOOK_SIZE = 8, 30
STOP_IN_STEP = 2
TEXTS = [
    "صباح الخير",
    "كيف حالك اليوم",
    "شكرا جزيلا",
    "إلى اللقاء",
    "أهلا وسهلا",
    "نعم",
    "لا أعرف",
    "مساء الخير",
    "تفضل",
]


def write_model(folder: Path) -> None:
    """Write a tokenizer and a model with random weights."""
    ids = build_tokenizer(folder)
    text_config = {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-5, "vocab_size": 736,
        "bos_token_id": ids["<|begin_of_text|>"], "eos_token_id": ids["<|end_of_text|>"], "rope_theta": 500000.0,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    config = HiggsAudioConfig(
        text_config=text_config,
        audio_adapter_type="dual_ffn_fast_forward",
        audio_dual_ffn_layers=[0, 1],
        audio_ffn_hidden_size=16,
        audio_ffn_intermediate_size=32,
        audio_num_codebooks=CODEBOOKS,
        audio_codebook_size=CODEBOOK_SIZE,
        audio_stream_bos_id=CODEBOOK_SIZE,
        audio_stream_eos_id=CODEBOOK_SIZE + 1,
        audio_in_token_idx=ids["<|AUDIO|>"],
        audio_out_token_idx=ids["<|AUDIO_OUT|>"],
        audio_out_bos_token_id=ids["<|audio_out_bos|>"],
        audio_eos_token_id=ids["<|audio_eos|>"],
        pad_token_id=ids["<|end_of_text|>"],
        encode_whisper_embed=False,
        encode_audio_in_tokens=True,
        skip_audio_tower=True,
        use_delay_pattern=True,
    )
    torch.manual_seed(0)
    save_checkpoint(HiggsAudioModel(config), config, folder, "original")


def record(number: int) -> dict:
    """One sample in the users' form; its reference is the next clip."""
    following = (number + 1) % len(TEXTS)
    instruction = "Please generate speech for given text in reference audio's voice: " + TEXTS[number]
    clips = [{"type": "audio", "audio_url": f"{n}.wav"} for n in (following, number)]
    return {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": TEXTS[following]},
                    clips[0],
                    {"type": "text", "text": instruction},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": TEXTS[number]}, clips[1]]},
        ],
        "start_index": 0,
        "speaker": "one",
        "misc": {"sample_id": f"sample_{number}"},
    }


def write_data() -> None:
    """Write codes and data files into the current folder."""
    generator = torch.Generator().manual_seed(1)
    codes = {
        f"{n}.wav": torch.randint(CODEBOOK_SIZE, (CODEBOOKS, 4 + 3 * n), generator=generator).to(torch.int16)
        for n in range(len(TEXTS))
    }
    save_file(codes, "codes.safetensors", metadata={"codec": "none", "frames_per_second": "25"})
    for name, numbers in (("train.json", range(7)), ("val.json", range(7, 9))):
        content = json.dumps([record(n) for n in numbers], ensure_ascii=False, indent=1)
        Path(name).write_text(content + "\n", encoding="utf-8")


def train() -> None:
    """Train until the middle of the first epoch, as after SIGTERM."""
    trainer = program.ArabicVoiceCloningDistributedTrainer(*program.parse_arguments(COMMAND.split(), ""))
    optimizer_step = trainer._optimizer_step

    def stopped(*arguments: object) -> torch.Tensor:
        if trainer.step == STOP_IN_STEP:
            signal.raise_signal(signal.SIGTERM)
        return optimizer_step(*arguments)

    trainer._optimizer_step = stopped
    print(trainer.train())


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUTPUT.mkdir(parents=True)
    os.chdir(OUTPUT)
    write_model(Path("model"))
    write_data()
    train()
