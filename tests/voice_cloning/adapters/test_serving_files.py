"""Test the files for servers one by one: what they hold, what of a base they replace, and what is refused."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jinja2.exceptions import TemplateError
from transformers import AutoProcessor, AutoTokenizer

from arabic_voice_cloning_dataset import ArabicVoiceCloningDatasetConfig
from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.chatml import prepare_chatml_sample
from boson_multimodal.constants import AUDIO_TOKENIZER_ID, RESERVED_IN_TEXT
from boson_multimodal.data_types import AudioContent, ChatMLSample, Message, TextContent
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioConfig, HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS
from boson_multimodal.prompt_template import PromptTemplate
from tests.exported_adapters import arguments
from tests.training_runs import trainer
from tests.voice_cloning.speech.cloners import checkpoint_of
from tools import merge_adapter as tool
from tools.demo.codec import write_original_codec
from voice_cloning.adapters.merge import export_merged
from voice_cloning.adapters.prompt_software import software_lines
from voice_cloning.adapters.served_prompt import CHAT_TEMPLATE
from voice_cloning.adapters.serving import (
    ONLY_HERE,
    ServedCodec,
    check_tokenizer,
    find_codec,
    write_serving_files,
)
from voice_cloning.run.report import data_lines

RELEASED = ServedCodec(AUDIO_TOKENIZER_ID, "")
CLIP = {"type": "audio", "path": "a.wav"}


@pytest.fixture(scope="module")
def config(demo: Path) -> HiggsAudioConfig:
    return HiggsAudioConfig.from_pretrained(demo / "model")


def base_with(demo: Path, folder: Path, **files: object) -> Path:
    """The demo's model with further or changed files; ``__`` in a name stands for the dot. Weights are not copied."""
    folder.mkdir()
    for path in (demo / "model").glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def written(base: Path, folder: Path, config: HiggsAudioConfig, codec: ServedCodec = RELEASED) -> list[str]:
    """Write the files for servers beside a config and the base's tokenizer, as a merge does. Return its lines."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(base / name, folder / name)
    return write_serving_files(base, folder, config, codec)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_processor_file_holds_what_transformers_reads(demo: Path, tmp_path: Path, config: HiggsAudioConfig) -> None:
    """With the released codec, ``config.json`` does not change: vLLM-Omni takes this codec without being told."""
    base = base_with(demo, tmp_path / "base")
    assert written(base, tmp_path / "out", config) == [f"codec: {AUDIO_TOKENIZER_ID} ()"]
    assert json.loads((tmp_path / "out" / "processor_config.json").read_text()) == {
        "processor_class": "HiggsAudioV2Processor",
        "audio_tokenizer": {
            "audio_tokenizer_class": "HiggsAudioV2TokenizerModel",
            "audio_tokenizer_name_or_path": "bosonai/higgs-audio-v2-tokenizer",
        },
        "feature_extractor": {
            "feature_extractor_type": "DacFeatureExtractor",
            "feature_size": 1,
            "hop_length": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": 24000,
        },
        "audio_token": "<|AUDIO_OUT|>",
        "audio_bos_token": "<|audio_out_bos|>",
        "audio_eos_token": "<|audio_eos|>",
        "audio_delay_token": "<|reserved_special_token_6|>",
        "audio_stream_bos_id": 1024,
        "audio_stream_eos_id": 1025,
    }
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()


def test_a_bundled_codec_is_where_vllm_omni_looks(demo: Path, tmp_path: Path, config: HiggsAudioConfig) -> None:
    codec = find_codec(demo / "model", {}, config, "someone/codec", demo / "audio_tokenizer")
    written(base_with(demo, tmp_path / "base"), tmp_path / "out", config, codec)
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found["audio_tokenizer_id"] is None
    decoder = tmp_path / "out" / found["audio_tokenizer_subdir"]
    assert (decoder / "model.safetensors").read_bytes() == (demo / "audio_tokenizer" / "model.safetensors").read_bytes()
    assert json.loads((decoder / "config.json").read_text())["model_type"] == "higgs_audio_v2_tokenizer"
    processor = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert processor["audio_tokenizer"]["audio_tokenizer_name_or_path"] == "someone/codec"


@pytest.mark.parametrize("missing", [["pad_token"], ["pad_token", "bos_token"]])
def test_a_tokenizer_without_a_pad_token_gets_one(
    demo: Path, served: Path, tmp_path: Path, config: HiggsAudioConfig, missing: list[str]
) -> None:
    """Without one, transformers' processor refuses every prompt; without a bos token it may write two."""
    fields = json.loads((demo / "model" / "tokenizer_config.json").read_text())
    names = json.loads((demo / "model" / "special_tokens_map.json").read_text())
    for name in missing:
        del fields[name], names[name]
    base = base_with(demo, tmp_path / "base", tokenizer_config__json=fields, special_tokens_map__json=names)
    assert AutoTokenizer.from_pretrained(base).pad_token is None
    codec = ServedCodec(str(demo / "audio_tokenizer"), "")
    lines = written(base, tmp_path / "out", config, codec)
    assert "the tokenizer has no pad_token; <|end_of_text|> is written as it" in lines
    assert ("the tokenizer has no bos_token; <|begin_of_text|> is written as it" in lines) == ("bos_token" in missing)
    texts = [[{"role": "user", "content": text}] for text in ("نعم", "نعم نعم نعم")]
    how = {"add_generation_prompt": True, "tokenize": True, "return_tensors": "pt"}
    out = tmp_path / "out"
    ids, right = (AutoProcessor.from_pretrained(path).apply_chat_template(texts, **how) for path in (out, served))
    assert torch.equal(ids, right)


# -- what of a base is replaced ----------------------------------------------------------------------------------------


def test_a_template_of_the_base_is_replaced_and_named(demo: Path, tmp_path: Path, config: HiggsAudioConfig) -> None:
    fields = json.loads((demo / "model" / "tokenizer_config.json").read_text())
    base = base_with(
        demo,
        tmp_path / "base",
        chat_template__jinja="{{ messages }}",
        tokenizer_config__json={**fields, "chat_template": "{{ messages[0] }}"},
        processor_config__json={"audio_token": "<|AUDIO|>", "audio_stream_bos_id": 1024, "image_token": "<i>"},
    )
    lines = written(base, tmp_path / "out", config)
    assert any("chat template (tokenizer_config.json, chat_template.jinja) is replaced" in line for line in lines)
    assert "the base's processor_config.json is replaced; it had another audio_token, image_token" in lines
    ours = CHAT_TEMPLATE.read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == ours
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    again = written(tmp_path / "out", tmp_path / "again", config)
    assert not any("replaced" in line for line in again)


def test_a_merge_takes_no_template_or_processor_of_the_base_but_the_original_layout_keeps_them(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter says that it was trained as_written: it is told, and the card says it."""
    theirs = {
        "chat_template.json": {"chat_template": "{{ 1 }}"},
        "preprocessor_config.json": {"hop_length": 960},
        "processor_config.json": {"audio_tokenizer": {"audio_tokenizer_name_or_path": "owner/codec"}},
    }
    base = shutil.copytree(demo / "model", tmp_path / "demo" / "model")
    for name, content in theirs.items():
        (base / name).write_text(json.dumps(content))
    adapter = shutil.copytree(checkpoint_of(memorised), tmp_path / "adapter")
    run = json.loads((adapter / "run.json").read_text())
    run["flags"]["prompt_style"], run["flags"]["text_normalisation"] = "as_written", "speech"
    (adapter / "run.json").write_text(json.dumps(run))
    for layout in (TRANSFORMERS, ORIGINAL):
        output = tmp_path / layout
        assert tool.main(arguments(base.parent, adapter, output, layout)) == 0
        printed = capsys.readouterr()
        card = (output / "README.md").read_text()
        found = {path.name: json.loads(path.read_text()) for path in output.glob("*.json") if path.name in theirs}
        kept = {name for name, content in found.items() if content == theirs[name]}
        assert f"warning: {ONLY_HERE}" in printed.err
        assert f"`as_written`; use the same style for prompts\n- {ONLY_HERE}" in card
        if layout == ORIGINAL:
            assert kept == theirs.keys() and "## How to serve it" not in card and "codec:" not in printed.out
            continue
        assert not kept and not (output / "chat_template.json").exists()
        assert "codec: owner/codec (from the base's processor_config.json)" in printed.out
        assert "**The adapter was not trained on the prompt that these files send**" in card
        assert "were normalised (`speech`). No server does that" in card
        assert json.loads((output / "config.json").read_text())["audio_tokenizer_id"] == "owner/codec"


# -- the codec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec_id", "trained", "of_base", "found", "source"),
    [
        ("a/given", "b/trained", "c/base", "a/given", "from --codec_id"),
        (None, "b/trained", "c/base", "b/trained", "the one of the training"),
        (None, "tokenizer", "c/base", "c/base", "from the base's processor_config.json"),
        (None, None, None, AUDIO_TOKENIZER_ID, "a guess; give --codec_id if it is another"),
        (None, "my_codec", "/x/y", AUDIO_TOKENIZER_ID, "a guess, because only a local folder is recorded: my_codec;"),
        (None, None, "/x/y", AUDIO_TOKENIZER_ID, "a guess, because only a local folder is recorded: y;"),
    ],
)
def test_the_codec_is_the_given_one_or_that_of_the_training(
    tmp_path: Path,
    config: HiggsAudioConfig,
    codec_id: str | None,
    trained: str | None,
    of_base: str | None,
    found: str,
    source: str,
) -> None:
    if of_base is not None:
        fields = {"audio_tokenizer": {"audio_tokenizer_name_or_path": of_base}}
        (tmp_path / "processor_config.json").write_text(json.dumps(fields))
    codec = find_codec(tmp_path, {"audio_tokenizer_path": trained} if trained else {}, config, codec_id, None)
    assert codec.name == found and source in codec.source
    assert codec.is_default == (found == AUDIO_TOKENIZER_ID)


def test_a_codec_that_transformers_or_the_model_cannot_use_is_refused_before_weights_are_read(
    demo: Path,
    codec: HiggsAudioTokenizer,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HiggsAudioModel, "from_pretrained", None)
    write_original_codec(codec.model, tmp_path / "original")
    other = shutil.copytree(demo / "audio_tokenizer", tmp_path / "other")
    fields = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**fields, "codebook_size": 512, "sample_rate": 16000}))
    empty = tmp_path / "empty"
    shutil.copytree(demo / "audio_tokenizer", empty, ignore=shutil.ignore_patterns("*.safetensors"))

    def refused(codec_id: object, bundle: Path | None, *messages: str) -> None:
        how = {"codec_id": codec_id and str(codec_id), "bundle_codec": bundle}
        with pytest.raises(InputError) as caught:
            export_merged(checkpoint_of(memorised), str(demo / "model"), tmp_path / "out", TRANSFORMERS, **how)
        assert "the codec cannot be served" in str(caught.value) and not (tmp_path / "out").exists()
        assert all(message in str(caught.value) for message in messages), str(caught.value)

    refused("no/such/folder", None, "--codec_id no/such/folder: no such folder; give a codec's folder or its hub id")
    refused(tmp_path / "original", None, "in Boson's original layout, which transformers' processor does not read")
    refused(
        other,
        tmp_path / "nothing",
        "(5)",
        f"--codec_id {other}: has 13 codebooks, the model needs 8",
        f"--codec_id {other}: has 512 codes per codebook, the model needs 1024",
        f"--codec_id {other}: has 16000 samples per second, the model needs 24000",
        f"--codec_id {other}: has 17 code frames per second, the model needs 25",
        f"--bundle_codec {tmp_path / 'nothing'}: no config.json in it",
    )
    (other / "config.json").write_text(json.dumps({**fields, "sample_rate": "fast"}))
    refused(
        other, None, f"--codec_id {other}: its config.json has a wrong value (Validation error for field 'sample_rate'"
    )
    (other / "config.json").write_text("[")
    refused(other, None, f"--codec_id {other}: its config.json is not JSON")
    refused(None, empty, "no *.safetensors in it; give a whole codec")
    refused(None, demo / "model", "model_type 'higgs_audio'")


def test_a_tokenizer_that_lacks_a_token_of_the_prompt_is_refused(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HiggsAudioModel, "from_pretrained", None)
    base = shutil.copytree(demo / "model", tmp_path / "model")
    text = (base / "tokenizer.json").read_text()
    text = text.replace("<|audio_eos|>", "<|audio_end|>").replace("<|eot_id|>", "<|end|>")
    (base / "tokenizer.json").write_text(text)
    with pytest.raises(InputError) as caught:
        export_merged(checkpoint_of(memorised), str(base), tmp_path / "out", TRANSFORMERS)
    assert "its tokenizer does not fit its config.json; no other software could" in str(caught.value)
    assert "(2):" in str(caught.value)
    assert "<|eot_id|> is missing" in str(caught.value) and "<|audio_eos|> is None in the tokenizer" in str(
        caught.value
    )


def test_a_tokenizer_that_reads_the_template_otherwise_is_refused(
    demo: Path, config: HiggsAudioConfig, tmp_path: Path
) -> None:
    """Training tokenizes each part alone. This tokenizer joins the end of a header with the text after it."""
    fields = json.loads((demo / "model" / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "Replace", "pattern": {"Regex": "\\n\\n(?=.)"}, "content": " "}
    base = base_with(demo, tmp_path / "base", tokenizer__json=fields)
    with pytest.raises(InputError, match="the ids of the chat template are not those of the training"):
        check_tokenizer(base, config)


@pytest.mark.parametrize(("content", "problem"), [("{", "not JSON"), ("[]", "does not hold a JSON object")])
def test_a_damaged_file_of_the_base_is_named_before_the_merge(
    demo: Path, config: HiggsAudioConfig, tmp_path: Path, content: str, problem: str
) -> None:
    base = base_with(demo, tmp_path / "base", chat_template__json=content)
    with pytest.raises(InputError, match=f"chat_template.json: {problem}"):
        check_tokenizer(base, config)


# -- the template ------------------------------------------------------------------------------------------------------


def rendered(served: Path, messages: list[dict[str, Any]], add_generation_prompt: bool = True) -> str:
    tokenizer = AutoTokenizer.from_pretrained(served)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": [CLIP]}], "a user turn holds audio; it may hold text only"),
        ([{"role": "system", "content": [CLIP]}], "a system turn holds audio"),
        ([{"role": "assistant", "content": "text"}], "an assistant turn must hold one clip and nothing else"),
        ([{"role": "assistant", "content": [CLIP, CLIP]}], "an assistant turn must hold one clip"),
        ([{"role": "assistant", "content": [{"type": "text", "text": "a"}, CLIP]}], "an assistant turn must hold one"),
        ([{"role": "assistant", "content": []}], "an assistant turn must hold one clip"),
        ([{"role": "scene", "content": [{"type": "image"}]}], "a scene turn holds image"),
        ([{"role": "user", "content": "a"}, {"role": "scene", "content": "b"}], "a turn has the role scene"),
        ([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}], "a turn has the role system"),
        ([{"role": "tool", "content": "a"}], "a turn has the role tool"),
        *(([{"role": "user", "content": f"a {token}"}], f"a text holds {token}") for token in RESERVED_IN_TEXT),
        ([{"role": "scene", "content": "<|eot_id|>"}], "a text holds <|eot_id|>"),
        ([{"role": "system", "content": [{"type": "text", "text": "<|AUDIO|>"}]}], "a text holds <|AUDIO|>"),
    ],
)
def test_the_template_refuses_what_it_cannot_write(served: Path, messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TemplateError, match=re.escape(message)):
        rendered(served, messages)


def test_a_scene_is_written_inside_the_system_turn(served: Path) -> None:
    """As in Boson's examples, with descriptions and clips of speakers. A missing system turn has the trained text."""
    items = ["Quiet room.", "SPEAKER0:", CLIP, "SPEAKER1: feminine"]
    content = [item if isinstance(item, dict) else {"type": "text", "text": item} for item in items]
    system = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nGenerate audio following instruction."
    scene = "\n\n<|scene_desc_start|>\nQuiet room.{}\n<|scene_desc_end|><|eot_id|>"
    speakers = "\n\nSPEAKER0: <|audio_out_bos|><|AUDIO_OUT|><|audio_eos|>\nSPEAKER1: feminine"
    for found, more in ((content, speakers), (content[:1], ""), ("Quiet room.", "")):
        assert rendered(served, [{"role": "scene", "content": found}], False) == system + scene.format(more)
    parts = [{"type": "text", "text": text} for text in ("a ", "\n b")]
    for found, text in (("a", "a"), (" a\n", "a"), (parts[:1], "a"), (parts, "a b")):
        assert rendered(served, [{"role": "user", "content": found}], False) == (
            f"{system}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
        )


def test_a_longer_conversation_has_the_ids_of_training(served: Path) -> None:
    """Two references, and two clips in one answer: the first ends with <|eom_id|>."""
    clip = AudioContent(audio_url="a.wav")
    turns = [("system", "A b."), ("user", "c"), ("assistant", None), ("user", "d"), *[("assistant", None)] * 2]
    parts = [Message(role, (TextContent(text) if text else clip,)) for role, text in turns]
    sample = ChatMLSample(tuple(parts), 5, None, {})
    messages = [{"role": role, "content": text or [CLIP]} for role, text in turns]
    tokenizer = AutoTokenizer.from_pretrained(served)
    wanted = prepare_chatml_sample(sample, tokenizer)[0]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == wanted
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert prompt == wanted[: len(prompt)] and wanted[len(prompt)] == tokenizer.convert_tokens_to_ids("<|AUDIO_OUT|>")


# -- use ---------------------------------------------------------------------------------------------------------------


def test_the_code_on_the_card_speaks(served: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (served / "README.md").read_text(encoding="utf-8")
    serving = card.partition("## How to serve it")[2]
    code = re.search(r"```python\n(.*?)```", serving, re.DOTALL)[1].replace("path/to/this/folder", str(served))
    clip = next((demo / "clips").rglob("*.wav"))
    code = code.replace("path/to/reference.wav", str(clip)).replace("max_new_tokens=1000", "max_new_tokens=20")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "speech.wav").stat().st_size > 960
    for words in ("HIGGS_AUDIO_TOKENIZER_PATH=", "/v1/audio/speech", "ras_win_len=None", "a codec on the machine"):
        assert words in serving
    assert str(demo) not in card


def test_the_merged_folder_trains(served: Path, demo: Path, tmp_path: Path) -> None:
    settings = {"model_path": served, "data_path": demo / "four.json", "eval_data_path": None, "max_steps": 1}
    assert trainer(demo, tmp_path / "run", **settings).train().finished


def test_a_run_says_who_can_send_its_prompt_and_that_as_written_cannot_be_served(tmp_path: Path) -> None:
    """And it warns if the adapter that it starts from was trained on another prompt."""
    packing, train = SimpleNamespace(lines=[]), SimpleNamespace(parts=[])
    data = SimpleNamespace(feature_extractor=None, train_dataset=train, datasets=[], parts=[], packing=packing)
    for style, lines in (("as_written", [ONLY_HERE]), ("voice_clone", [])):
        wanted = [*software_lines(style), *lines]
        config = ArabicVoiceCloningDatasetConfig(prompt_style=style)
        assert data_lines(data, config) == data_lines(data, config, str(tmp_path)) == wanted
    trained = PromptTemplate("{reference_text}", "{target_text}").text()
    for flags, told in (
        ({"prompt_style": "voice_clone"}, []),
        (
            {"prompt_style": "as_written"},
            ["was trained on the prompt of as_written, and this run trains that of voice"],
        ),
        ({"prompt_style": "voice_clone", "prompt_template": trained}, ["of voice_clone with the template "]),
    ):
        (tmp_path / "run.json").write_text(json.dumps({"flags": flags}))
        found = data_lines(data, config, str(tmp_path))[len(wanted) :]
        assert len(found) == len(told) and all(words in line for words, line in zip(told, found, strict=True))
