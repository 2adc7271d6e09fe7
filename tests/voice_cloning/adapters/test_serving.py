"""Test a merged folder with transformers' own processor and class, without code of ours, and by vLLM-Omni's rules."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, BatchFeature, HiggsAudioV2ForConditionalGeneration

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.clips import read_waveform
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.audio_processing.sound_files import Clip
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.data_types import AudioContent
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from tests.voice_cloning.speech.cloners import checkpoint_of, entry_of, targets
from voice_cloning.speech.requests import SpeechRequest, request_of_text
from voice_cloning.speech.voice_cloner import SpeechSettings, VoiceCloner

TEXTS = (
    "نعم",
    "ذَهَبَ الوَلَدُ إلى المَدرَسَةِ.",
    "15 طالبا سافروا في عام 2024.",
    "الساعة ٣:٤٥ مساءً",
    "هل وصل القطار؟",
    "«لا»، قالَ ثم خرج!",
    "GPU و CPU في جملة واحدة",
    "سطر أول\nسطر ثان",
)
"""Beside these each voice speaks the text that was memorised in it, and that of the other voice: 20 prompts."""
COLUMNS = 75
"""Columns of codes that are generated: the memorised clips end before."""


@pytest.fixture(scope="module")
def requests(demo: Path, memorised: ArabicVoiceCloningDistributedTrainer) -> list[SpeechRequest]:
    """Twenty prompts: ten texts in two voices. The first of each voice has been memorised."""
    records = json.loads((demo / "four.json").read_text(encoding="utf-8"))[:2]
    voices = [entry_of(record) for record in records]
    asked = []
    for own, other in (voices, voices[::-1]):
        reference = AudioContent(audio_url=own["reference"])
        for text in (own["text"], other["text"], *TEXTS):
            asked.append(request_of_text("one", text, reference, own["reference_text"], "voice_clone", demo))
    assert [len(request.pieces) for request in asked] == [1] * 20
    return asked


@pytest.fixture(scope="module")
def processor(served: Path) -> Any:
    return AutoProcessor.from_pretrained(served)


def conversation(request: SpeechRequest, as_strings: bool = False) -> list[dict[str, Any]]:
    """The prompt as transformers documents it; with ``as_strings`` as vLLM-Omni writes it, with a clip without data."""
    sample = request.pieces[0].sample
    (reference,) = request.references()
    words = [message.content[0].text for message in sample.messages if message.role == "user"]
    wrapped = (lambda text: text) if as_strings else (lambda text: [{"type": "text", "text": text}])
    data = {} if as_strings else {"path": str(request.base_dir / reference.audio_url)}
    return [
        {"role": "system", "content": wrapped("Generate audio following instruction.")},
        {"role": "user", "content": wrapped(words[0])},
        {"role": "assistant", "content": [{"type": "audio", **data}]},
        {"role": "user", "content": wrapped(words[1])},
    ]


def encoded(processor: Any, conversations: list[list[dict[str, Any]]]) -> BatchFeature:
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.fixture(scope="module")
def alone(processor: Any, requests: list[SpeechRequest]) -> list[BatchFeature]:
    """Each prompt by itself."""
    return [encoded(processor, [conversation(request)]) for request in requests]


@pytest.fixture(scope="module")
def together(processor: Any, requests: list[SpeechRequest]) -> BatchFeature:
    """All prompts as one batch."""
    return encoded(processor, [conversation(request) for request in requests])


def collapsed(ids: list[int], tokenizer: Any) -> list[int]:
    """Ids with the run of a clip, T + 2 slots and 7 delays, written as its one slot."""
    slot, delay = tokenizer.convert_tokens_to_ids(["<|AUDIO_OUT|>", "<|reserved_special_token_6|>"])
    text = re.sub(rf" {slot}(?: {slot})+(?: {delay}){{7}} ", f" {slot} ", f" {' '.join(map(str, ids))} ")
    return [int(number) for number in text.split()]


def undelayed(columns: Tensor) -> Tensor:
    """The (K, T) codes of generated (C, K) columns: a first one of 1024, delayed codes, and one of 1025 if it ended."""
    assert (columns[0] == 1024).all()
    ends = (columns == 1025).all(1).nonzero()
    frames = (int(ends[0, 0]) if len(ends) else len(columns)) - 8
    return torch.stack([columns[1 + k : 1 + k + frames, k] for k in range(8)])


def test_the_processor_gives_the_ids_of_our_prompt(
    processor: Any, requests: list[SpeechRequest], alone: list[BatchFeature], together: BatchFeature, tokenizer: Any
) -> None:
    """One by one, and in one batch, which is padded on the left."""
    for row, (request, single) in enumerate(zip(requests, alone, strict=True)):
        wanted, _ = speech_prompt(request.pieces[0].sample, tokenizer)
        ids = single["input_ids"][0].tolist()
        assert collapsed(ids, tokenizer) == wanted
        mask = together["attention_mask"][row].bool()
        assert together["input_ids"][row][mask].tolist() == ids and not mask[: -len(ids)].any()
        columns = together["audio_input_ids"][row][together["audio_input_ids_mask"][row]]
        assert torch.equal(columns, single["audio_input_ids"][0])
        assert ids.count(processor.audio_token_id) == len(columns) - 7
    assert len({single["input_ids"].shape[1] for single in alone}) > 10
    bare = processor.apply_chat_template(
        conversation(requests[0]), add_generation_prompt=True, tokenize=True, return_tensors="pt"
    )
    assert torch.equal(bare, alone[0]["input_ids"])


def test_the_processor_gives_the_codes_of_training(
    processor: Any, requests: list[SpeechRequest], alone: list[BatchFeature], codec: HiggsAudioTokenizer
) -> None:
    """For both references, and for lengths of whole frames of 960 samples and between them."""
    for row in (0, 10):
        clip = Clip.of(requests[row].references()[0], requests[row].base_dir)
        samples = read_waveform(clip).resampled(codec.sampling_rate)
        assert torch.equal(undelayed(alone[row]["audio_input_ids"][0]), codec.encode(samples[None])[0])
        for length in (len(samples) // 960 * 960 + odd for odd in (0, -1, -500)):
            messages = conversation(requests[row])
            messages[2]["content"] = [{"type": "audio", "audio": samples[:length].numpy()}]
            found = undelayed(encoded(processor, [messages])["audio_input_ids"][0])
            assert torch.equal(found, codec.encode(samples[None, :length])[0])
            assert found.shape[1] == -(-length // 960)


def test_transformers_speaks_the_codes_of_our_cloner(
    demo: Path,
    served: Path,
    processor: Any,
    requests: list[SpeechRequest],
    together: BatchFeature,
    memorised: ArabicVoiceCloningDistributedTrainer,
) -> None:
    """Greedy, in a batch: their class on the merged folder, ours on it, and ours on base and adapter."""
    model = HiggsAudioV2ForConditionalGeneration.from_pretrained(served, dtype="auto").eval()
    generated = model.generate(**together, do_sample=False, ras_win_len=None, max_new_tokens=COLUMNS)
    generated = generated[:, together["audio_input_ids"].shape[1] :]
    theirs = [undelayed(columns) for columns in generated]
    greedy = SpeechSettings(sampling=SamplingConfig(do_sample=False), slowest_letters_per_second=20.0)
    how = {"audio_tokenizer_path": str(demo / "audio_tokenizer"), "device": "cpu", "settings": greedy}
    pieces = [(request.pieces[0], request.base_dir) for request in requests]
    for where in (
        {"model_path": str(demo / "model"), "adapter": checkpoint_of(memorised)},
        {"model_path": str(served)},
    ):
        ours = VoiceCloner(**where, **how).speak_pieces(pieces, [0] * len(pieces))
        for found, spoken in zip(theirs, ours, strict=True):
            frames = min(found.shape[1], spoken.codes.shape[1])
            assert frames > 20 and torch.equal(found[:, :frames], spoken.codes[:, :frames])
            assert spoken.failure or found.shape == spoken.codes.shape
        assert [piece.failure for piece in (ours[0], ours[10])] == [None, None]
    for row, codes in zip((0, 10), targets(memorised), strict=False):
        assert torch.equal(theirs[row], codes)
    waves = processor.batch_decode(torch.stack([generated[0], generated[10]]))
    assert [len(wave) for wave in waves] == [960 * theirs[row].shape[1] for row in (0, 10)]


# -- the rules of vLLM-Omni --------------------------------------------------------------------------------------------


def vllm_omni_ids(tokenizer: Any, messages: list[dict[str, Any]], frames: int) -> list[int]:
    """The prompt of a clone as vLLM-Omni builds it: the tokenizer renders, then the one slot is replaced by text."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.count("<|AUDIO_OUT|>") == 1
    run = "<|AUDIO_OUT|>" * (frames + 2) + "<|reserved_special_token_6|>" * 7
    text = text.replace("<|AUDIO_OUT|>", f"<|audio_out_bos|>{run}<|audio_eos|>")
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_vllm_omni_builds_the_ids_of_transformers(
    served: Path, requests: list[SpeechRequest], alone: list[BatchFeature]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(served)
    for request, theirs in zip(requests, alone, strict=True):
        frames = theirs["audio_input_ids"].shape[1] - 9
        ids = vllm_omni_ids(tokenizer, conversation(request, as_strings=True), frames)
        assert ids == theirs["input_ids"][0].tolist()
        assert ids[-1] == tokenizer.convert_tokens_to_ids("<|audio_out_bos|>")  # it speaks only after this id
        marks = [ids.count(tokenizer.convert_tokens_to_ids(token)) for token in ("<|audio_out_bos|>", "<|audio_eos|>")]
        assert marks == [2, 1]


def test_vllm_omni_builds_a_prompt_without_a_reference(processor: Any) -> None:
    words = "نعم"
    turns = [("system", "Generate audio following instruction."), ("user", words)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    head = "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns
    )
    wanted = head + "<|start_header_id|>assistant<|end_header_id|>\n\n<|audio_out_bos|>"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == wanted
    ids = encoded(processor, messages)["input_ids"]
    assert ids.tolist() == [processor.tokenizer(wanted, add_special_tokens=False)["input_ids"]]


def test_vllm_omni_finds_every_tensor_and_field(served: Path, demo: Path) -> None:
    config = json.loads((served / "config.json").read_text())
    with safe_open(served / "model.safetensors", "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    layer = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    layer += [f"{block}.{part}_proj" for block in ("mlp", "audio_mlp") for part in ("gate", "up", "down")]
    layer += ["input_layernorm", "post_attention_layernorm", "audio_input_layernorm", "audio_post_attention_layernorm"]
    wanted = {"model.embed_tokens", "model.embed_audio_tokens.embed_audio_tokens", "model.norm", "text_lm_head"}
    layers = [f"model.layers.{number}" for number in range(config["num_hidden_layers"])]
    wanted |= {"audio_lm_head", *(f"{where}.{name}" for where in layers for name in layer)}
    assert stored.keys() == {f"{name}.weight" for name in wanted}
    rows = config["num_codebooks"] * config["codebook_size"]
    assert stored["audio_lm_head.weight"] == stored["model.embed_audio_tokens.embed_audio_tokens.weight"]
    assert stored["audio_lm_head.weight"] == (rows, config["hidden_size"])
    tokenizer = AutoTokenizer.from_pretrained(served)
    ids = {
        "audio_token_id": "<|AUDIO_OUT|>",
        "audio_bos_token_id": "<|audio_out_bos|>",
        "audio_eos_token_id": "<|audio_eos|>",
        "audio_delay_token_id": "<|reserved_special_token_6|>",
        "eos_token_id": "<|eot_id|>",
        "pad_token_id": "<|end_of_text|>",
    }
    assert {name: config[name] for name in ids} == {n: tokenizer.convert_tokens_to_ids(t) for n, t in ids.items()}
    fixed = {"model_type": "higgs_audio_v2", "architectures": ["HiggsAudioV2ForConditionalGeneration"]}
    fixed |= {"num_codebooks": 8, "codebook_size": 1026, "audio_stream_bos_id": 1024, "audio_stream_eos_id": 1025}
    fixed |= {"audio_tokenizer_id": str((demo / "audio_tokenizer").resolve())}
    assert {name: config.get(name) for name in fixed} == fixed
    generation = json.loads((served / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"]
    assert (generation["ras_win_len"], generation["ras_win_max_num_repeat"]) == (7, 2)
