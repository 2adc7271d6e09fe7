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
"""The line of the chat template that differs between adapters."""


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
    """Return the chat template for a prompt. Where messages have no system turn, it writes the trained one."""
    if template.system is None:
        system = "none"
    elif template.fields_in("system"):
        system = "false"
    else:
        system = json.dumps(template.system.format_map({}), ensure_ascii=False)
    text = CHAT_TEMPLATE.read_text(encoding="utf-8")
    if template.system == VOICE_CLONE_SYSTEM_PROMPT:
        return text
    return text.replace(SYSTEM_LINE, "{%- set trained_system = " + system + " -%}")
