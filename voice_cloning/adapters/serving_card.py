"""The part of a merged model's card that says how to serve it, and what the software cannot do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boson_multimodal.checkpoints import is_hub_id
from boson_multimodal.prompt_template import PromptTemplate
from voice_cloning.adapters.prompt_record import form_of_flags
from voice_cloning.adapters.prompt_software import VLLM_OMNI, who_sends
from voice_cloning.adapters.served_prompt import chat_messages, placeholders, sent_template
from voice_cloning.adapters.serving import BUNDLED_CODEC, ONLY_HERE, ServedCodec

THIS_FOLDER, CODEC_FOLDER = "path/to/this/folder", "path/to/the/codec"
ENCODER_VARIABLE = "HIGGS_AUDIO_TOKENIZER_PATH"
"""Where vLLM-Omni looks for the codec that encodes references. It reads no file of the model for that."""


def serving_lines(codec: ServedCodec, flags: Mapping[str, Any]) -> list[str]:
    """Return the commands for transformers and for vLLM-Omni, each with its limits.

    Args:
        codec: the codec that the files of the model name.
        flags: the flags of the training run; they may be empty.
    """
    lines = []
    if flags.get("prompt_style") == "as_written":
        lines += [f"**The adapter was not trained on the prompt that these files send**: {ONLY_HERE}.", ""]
    if (how := flags.get("text_normalisation") or "none") != "none":
        lines += [
            f"The texts of the training were normalised (`{how}`). No server does that: send normalised texts.",
            "",
        ]
    form = form_of_flags(flags)
    prompt = sent_template(form)
    return [*lines, *_transformers_lines(codec, prompt), "", *_vllm_omni_lines(codec, prompt)]


def _conversation_lines(prompt: PromptTemplate) -> list[str]:
    """Return the messages of a prompt as Python, one in a line."""
    texts = {"reference_text": "what is said in the reference", "target_text": "what shall be spoken"}
    messages = chat_messages(prompt, texts, {"path": "path/to/reference.wav"}, placeholders(prompt))
    return [f"    {json.dumps(message, ensure_ascii=False)}," for message in messages]


def _transformers_lines(codec: ServedCodec, prompt: PromptTemplate) -> list[str]:
    is_public = is_hub_id(codec.name)
    named = f"the codec `{codec.name}`, at its newest revision" if is_public else "a codec on the machine of the export"
    return [
        "### transformers",
        "",
        "```python",
        "from transformers import AutoProcessor, HiggsAudioV2ForConditionalGeneration",
        "",
        f'processor = AutoProcessor.from_pretrained("{THIS_FOLDER}")',
        f'model = HiggsAudioV2ForConditionalGeneration.from_pretrained("{THIS_FOLDER}", dtype="auto")',
        "conversation = [",
        *_conversation_lines(prompt),
        "]",
        "inputs = processor.apply_chat_template(",
        '    conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"',
        ")",
        "codes = model.generate(**inputs.to(model.device), max_new_tokens=1000)  # 25 for each second, at most 40 s",
        'processor.save_audio(processor.batch_decode(codes), "speech.wav")',
        "```",
        "",
        f"- The processor loads {named}."
        + ("" if is_public else " Elsewhere, write your codec's hub id into `processor_config.json`."),
        "- Greedy speech needs `do_sample=False, ras_win_len=None`: otherwise repeated codes are drawn at random.",
        "- A clip is an assistant turn of its own, with `path`, `url` or `audio` (24 kHz). Other turns refuse it.",
        *[f"- Write the {field} in the place of `{word}`." for field, word in placeholders(prompt).items()],
    ]


def _vllm_omni_lines(codec: ServedCodec, prompt: PromptTemplate) -> list[str]:
    reason = next(sending.reason for sending in who_sends(prompt) if sending.software == VLLM_OMNI)
    cannot = [f"**It cannot send the trained prompt**: {reason}.", ""] if reason else []
    scene = "" if reason or prompt.scene is None else " (the chat template of this folder writes the trained one)"
    encoder = f"{THIS_FOLDER}/{BUNDLED_CODEC}" if codec.bundled else CODEC_FOLDER
    decoder = f"the folder `{BUNDLED_CODEC}` of this model" if codec.bundled else f"`{_public(codec.name)}`"
    return [
        "### vLLM-Omni",
        "",
        *cannot,
        "```bash",
        f"{ENCODER_VARIABLE}={encoder} vllm serve {THIS_FOLDER} --omni --port 8091",
        "curl http://localhost:8091/v1/audio/speech -H 'Content-Type: application/json' --output speech.wav -d '{",
        f'    "model": "{THIS_FOLDER}", "input": "what shall be spoken",',
        '    "ref_audio": "https://example.org/reference.wav", "ref_text": "what is said in the reference"}\'',
        "```",
        "",
        f"- References are encoded by the codec in `{ENCODER_VARIABLE}` (transformers layout); without it, by that of "
        "`k2-fsa/OmniVoice`. Give the codec of the training: other codes are another voice.",
        f"- Speech is decoded by {decoder}. The first request also loads the processor's codec.",
        f"- It takes no scene{scene}, no speaker tags, no other system text and no LoRA adapter. "
        "Temperature 1.0, top_k 50 and top_p 0.95 are fixed: it does not read `generation_config.json`, and a seed "
        "does not fix the speech.",
        "- A reference is 1 to 30 s long, and always has `ref_text`.",
    ]


def _public(name: str) -> str:
    return name if is_hub_id(name) else Path(name).name
