"""The trained prompt as other software writes it: messages of a chat, and the chat template that makes ids of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boson_multimodal.cloning_example import VOICE_CLONE_SYSTEM_PROMPT
from boson_multimodal.prompt_template import TEXT_FIELDS, PromptForm, PromptTemplate

TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE = Path(__file__).with_name(TEMPLATE_FILE)
"""The chat template for prompt style voice_clone. The prompts of an adapter's template may have another system turn."""
OF_VOICE_CLONE = PromptTemplate(*(f"{{{name}}}" for name in TEXT_FIELDS), system=VOICE_CLONE_SYSTEM_PROMPT)
"""The prompt of voice_clone as a template."""
SYSTEM_LINE = "{%- set trained_system = " + repr(VOICE_CLONE_SYSTEM_PROMPT) + " -%}"
SCENE_LINE = "{%- set trained_scene = none -%}"
"""The lines of the chat template that differ between adapters."""


def sent_template(form: PromptForm | None) -> PromptTemplate:
    """Return the prompt that the files for servers send: the adapter's template, else that of voice_clone."""
    return form if isinstance(form, PromptTemplate) else OF_VOICE_CLONE


def placeholders(template: PromptTemplate) -> dict[str, str]:
    """Return what stands for each field of a record that has no default: the field's name in angle brackets."""
    known = dict(template.defaults)
    return {field: f"<{field}>" for field in template.fields if field not in known}


def chat_messages(
    template: PromptTemplate, texts: Mapping[str, str], clip: Mapping[str, str], fields: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return the messages of a prompt, with contents as lists, as transformers documents them.

    Args:
        template: of the prompt.
        texts: the reference's and the target's text (``TEXT_FIELDS``).
        clip: how the reference clip is given: ``path``, ``url`` or ``audio``; empty for a clip without data.
        fields: values of ``RECORD_FIELDS`` without a default.
    """
    filled = template.filled(texts, fields.get("speaker"), fields)
    turns = [(part, filled[part]) for part in ("system", "scene") if part in filled]
    messages = [_message(role, {"type": "text", "text": text}) for role, text in turns]
    return [
        *messages,
        _message("user", {"type": "text", "text": filled["reference_text"]}),
        _message("assistant", {"type": "audio", **clip}),
        _message("user", {"type": "text", "text": filled["target_text"]}),
    ]


def _message(role: str, item: dict[str, str]) -> dict[str, Any]:
    return {"role": role, "content": [item]}


def chat_template(template: PromptTemplate) -> str:
    """Return the chat template for a prompt. It writes the trained system text or scene where messages have none."""
    text = CHAT_TEMPLATE.read_text(encoding="utf-8")
    if template.system != VOICE_CLONE_SYSTEM_PROMPT:
        text = text.replace(SYSTEM_LINE, f"{{%- set trained_system = {_literal(template, 'system')} -%}}")
    return text.replace(SCENE_LINE, f"{{%- set trained_scene = {_literal(template, 'scene')} -%}}")


def is_fixed(template: PromptTemplate, part: str) -> bool:
    """Whether a text of a template is the same in all prompts, where a field without a value takes its default."""
    return set(template.fields_in(part)) <= dict(template.defaults).keys()


def _literal(template: PromptTemplate, part: str) -> str:
    """Return a text of a template as Jinja writes it: none if there is none, false if each prompt has its own."""
    text: str | None = getattr(template, part)
    if text is None:
        return "none"
    if not is_fixed(template, part):
        return "false"
    return json.dumps(text.format_map(dict(template.defaults)), ensure_ascii=False)
