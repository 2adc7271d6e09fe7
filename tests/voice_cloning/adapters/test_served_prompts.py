"""Which software can send the prompt that was trained, and that transformers' files send it with a template too."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.cloning_example import VOICE_CLONE_SYSTEM_PROMPT, VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.model.higgs_audio.checkpoint_layouts import ORIGINAL, TRANSFORMERS
from boson_multimodal.prompt_template import PromptForm, PromptTemplate
from tests.exported_adapters import arguments
from tests.voice_cloning.adapters.test_serving import collapsed, vllm_omni_ids
from tests.voice_cloning.speech.cloners import checkpoint_of, make_cloner
from tools import merge_adapter as tool
from voice_cloning.adapters.prompt_software import software_lines, software_table, who_sends
from voice_cloning.adapters.served_prompt import CHAT_TEMPLATE, OF_VOICE_CLONE, chat_messages, chat_template, is_fixed
from voice_cloning.speech.voice_cloner import VoiceCloner

OWN, SCENE = VOICE_CLONE_SYSTEM_PROMPT, "Audio is recorded from a quiet room."
SCENE_OF_DIALECT = f"{SCENE}\nDialect: {{dialect}}"
TEXTS = {"reference_text": "مرحبا 3", "target_text": "كَيْفَ حالُك؟"}
NAMES = ["this project", "transformers", "vLLM-Omni", "Boson's serve", "Boson's vLLM", "voicehub", "mlx-audio"]


def template(**parts: Any) -> PromptTemplate:
    texts = {name: f"{{{name}}}" for name in TEXTS}
    return PromptTemplate.read(json.dumps({**texts, **parts}))


@pytest.mark.parametrize(
    ("form", "senders"),
    [
        ("as_written", NAMES[:1]),
        ("voice_clone", [*NAMES[:4], "voicehub"]),
        (template(system=OWN), [*NAMES[:4], "voicehub"]),
        (template(system=OWN, scene=SCENE), [*NAMES[:4], "voicehub"]),
        (template(system=OWN, scene=SCENE_OF_DIALECT), [*NAMES[:2], "Boson's serve", "voicehub"]),
        (template(system=OWN, scene=SCENE_OF_DIALECT, defaults={"dialect": "Najdi"}), [*NAMES[:4], "voicehub"]),
        (template(system="Speak."), [*NAMES[:2], "Boson's serve"]),
        (template(), [*NAMES[:2], "Boson's serve", "mlx-audio"]),
        (template(system="Convert text to speech with the same voice."), [*NAMES[:2], *NAMES[3:5]]),
    ],
)
def test_each_prompt_is_sent_by_the_software_that_writes_its_turns(form: PromptForm, senders: list[str]) -> None:
    found = {sending.software: sending.reason for sending in who_sends(form)}
    assert [next(start for start in NAMES if name.startswith(start)) for name in found if not found[name]] == senders
    can, *cannot = software_lines(form)
    assert all(name in can for name in senders) and len(cannot) == 1
    assert sum("| no |" in row for row in software_table(form)) == len(found) - len(senders)


def test_the_reasons_are_told() -> None:
    (can, cannot), table = software_lines(template(system=OWN, scene=SCENE_OF_DIALECT)), software_table("as_written")
    assert can.startswith("the prompt of the training (voice_clone with the template ")
    assert "vLLM-Omni (/v1/audio/speech) (it never sends a scene); " in cannot
    assert "mlx-audio (it sends no system turn); Unsloth Studio (it sends no reference clip); " in cannot
    assert "| transformers | no | it cannot send a reference clip in a user turn |" in table
    told = "transformers, vLLM-Omni (/v1/audio/speech), Boson's serve engine, "
    assert f"it cannot be sent by {told}" in software_lines("as_written")[1]
    words = software_table(template(system=OWN, target_text="[{speaker}] {target_text}"))
    assert any("write the words of the template around the texts: `[{speaker}] {target_text}`" in row for row in words)


@pytest.mark.parametrize(
    "parts",
    [
        {"system": OWN},
        {"system": OWN, "scene": SCENE},
        {"system": OWN, "scene": SCENE_OF_DIALECT},
        {"system": "Speak {dialect}.", "scene": SCENE_OF_DIALECT, "defaults": {"dialect": "Najdi"}},
        {"system": 'Say "it" {{so}}. \U0001f642 \\n'},
        {"system": "Speak {dialect}.", "target_text": "[{speaker}] {target_text}"},
        {},
    ],
)
def test_the_chat_template_gives_the_trained_ids(tokenizer: PreTrainedTokenizerBase, parts: dict[str, Any]) -> None:
    """Of the trained messages; and without a system turn or a scene, if the training had one text for it or none."""
    prompt, fields = template(**parts), {"speaker": "amal", "dialect": "Najdi"}
    sample = VoiceCloningExample(TEXTS["reference_text"], AudioContent(), TEXTS["target_text"], AudioContent())
    wanted, _ = speech_prompt(sample.conversation(prompt, "amal", fields), tokenizer)
    messages = chat_messages(prompt, TEXTS, {"path": "a.wav"}, fields)
    how = {"chat_template": chat_template(prompt), "add_generation_prompt": True, "return_dict": False}
    assert tokenizer.apply_chat_template(messages, **how) == wanted
    if prompt.scene is not None:
        filled = prompt.filled(TEXTS, "amal", fields)
        whole = [{"role": "system", "content": prompt.system_text(filled)}, *messages[2:]]
        assert tokenizer.apply_chat_template(whole, **how) == wanted
    for part in ("system", "scene"):
        without = [message for message in messages if message["role"] != part]
        if is_fixed(prompt, part):
            assert tokenizer.apply_chat_template(without, **how) == wanted
            continue
        with pytest.raises(TemplateError, match=f"the {part}( text)? of the training had fields"):
            tokenizer.apply_chat_template(without, **how)
    if prompt.system is None:
        with pytest.raises(TemplateError, match="trained without a system turn; leave system and scene out"):
            tokenizer.apply_chat_template([{"role": "system", "content": OWN}, *messages], **how)


def test_vllm_omni_sends_a_fixed_scene_without_knowing_it(tokenizer: PreTrainedTokenizerBase) -> None:
    """It sends no scene. Our chat template writes the trained one into its messages, or refuses them."""
    sample = VoiceCloningExample(TEXTS["reference_text"], AudioContent(), TEXTS["target_text"], AudioContent())
    turns = [("system", OWN), ("user", TEXTS["reference_text"]), ("assistant", [{"type": "audio"}])]
    messages = [{"role": role, "content": content} for role, content in (*turns, ("user", TEXTS["target_text"]))]
    fixed = template(system=OWN, scene=SCENE)
    wanted, _ = speech_prompt(sample.conversation(fixed, None, {}), tokenizer)
    found = vllm_omni_ids(served_by(tokenizer, fixed), messages, frames=3)
    assert collapsed(found, tokenizer) == wanted
    with pytest.raises(TemplateError, match="the scene of the training had fields"):
        vllm_omni_ids(served_by(tokenizer, template(system=OWN, scene=SCENE_OF_DIALECT)), messages, frames=3)


def served_by(tokenizer: PreTrainedTokenizerBase, prompt: PromptTemplate) -> PreTrainedTokenizerBase:
    served = copy.deepcopy(tokenizer)
    served.chat_template = chat_template(prompt)
    return served


def test_the_prompt_of_voice_clone_keeps_its_chat_template() -> None:
    assert chat_template(OF_VOICE_CLONE) == CHAT_TEMPLATE.read_text(encoding="utf-8")


def test_a_merged_adapter_with_a_scene_is_served_and_spoken_with_it(
    demo: Path,
    memorised: ArabicVoiceCloningDistributedTrainer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The messages on the card give the trained ids in transformers' processor; our tools find the template."""
    prompt = template(system=OWN, scene=f"{SCENE}\nDialect: {{dialect}}", defaults={"dialect": "Gulf / Najdi"})
    adapter = shutil.copytree(checkpoint_of(memorised), tmp_path / "adapter")
    run = json.loads((adapter / "run.json").read_text(encoding="utf-8"))
    run["flags"]["prompt_template"] = prompt.text()
    (adapter / "run.json").write_text(json.dumps(run), encoding="utf-8")
    alone, merged = tmp_path / "alone", tmp_path / "merged"
    words = ["--adapter", str(adapter), "--output", str(alone), "--layout", ORIGINAL, "--adapter_only"]
    assert tool.main(words) == 0
    assert PromptTemplate.read(str(alone / "prompt_template.json")) == prompt
    assert make_cloner(demo, adapter=alone).prompt_style == prompt
    assert tool.main(arguments(demo, alone, merged, TRANSFORMERS, "--codec_id", str(demo / "audio_tokenizer"))) == 0
    assert "\n".join(software_lines(prompt)) in capsys.readouterr().out
    card = (merged / "README.md").read_text(encoding="utf-8")
    assert "\n".join(software_table(prompt)) in card and '"scene": "Audio is recorded from a quiet room.' in card
    processor = AutoProcessor.from_pretrained(merged)
    clip = next((demo / "clips").rglob("*.wav"))
    code = re.search(r"conversation = (\[\n.*?\n\])", card.partition("## How to serve it")[2], re.DOTALL)[1]
    messages = eval(code.replace("path/to/reference.wav", str(clip)))
    assert [message["role"] for message in messages] == ["system", "scene", "user", "assistant", "user"]
    how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    found = processor.apply_chat_template(messages, **how)["input_ids"]
    cloner = VoiceCloner(model_path=str(merged), audio_tokenizer_path=str(demo / "audio_tokenizer"), device="cpu")
    texts = {"reference_text": "what is said in the reference", "target_text": "what shall be spoken"}
    sample = VoiceCloningExample(texts["reference_text"], AudioContent(), texts["target_text"], AudioContent())
    wanted, _ = speech_prompt(sample.conversation(cloner.prompt_style), AutoTokenizer.from_pretrained(demo / "model"))
    assert collapsed(found[0].tolist(), processor.tokenizer) == wanted
