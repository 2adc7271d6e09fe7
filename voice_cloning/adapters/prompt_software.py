"""Which software can send the prompt that was trained, and why other software cannot.

What each software sends was read in its source as of July 2026 (``docs/prompts.md``). Only the turns count here: where
the reference stands, the system text, the scene. The words of a template around the two texts are part of these texts
for other software, so its user writes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from boson_multimodal.cloning_example import VOICE_CLONE_SYSTEM_PROMPT
from boson_multimodal.prompt_template import TEXT_FIELDS, PromptForm, PromptTemplate
from voice_cloning.adapters.served_prompt import is_fixed

ANY = "any"
"""Software that sends whatever system turn it is given, or none."""
OURS = "this project's commands (synthesize, evaluate, studio)"


@dataclass(frozen=True)
class Software:
    """What one software sends.

    Attributes:
        name: for users.
        system: the system text that it sends; None if it sends no system turn; ``ANY`` if the caller writes it.
        scene: whether a scene can be sent.
        renders: whether it writes the prompt through the chat template of a merged folder, which adds a fixed scene.
        reason: why it can send no prompt with a reference of ours; None if it can.
        note: what a user must know besides.
    """

    name: str
    system: str | None
    scene: bool = False
    renders: bool = False
    reason: str | None = None
    note: str = ""


VLLM_OMNI = "vLLM-Omni (`/v1/audio/speech`)"
SOFTWARE = (
    Software("transformers", ANY, scene=True, note="with the files of `merge_adapter --layout transformers`"),
    Software(VLLM_OMNI, VOICE_CLONE_SYSTEM_PROMPT, renders=True),
    Software("Boson's serve engine", ANY, scene=True, note="original layout; the caller writes the turns"),
    Software("Boson's vLLM fork (`/v1/audio/speech`)", "Convert text to speech with the same voice."),
    Software("voicehub", VOICE_CLONE_SYSTEM_PROMPT, scene=True, note="it adds a scene unless it is told to have none"),
    Software("mlx-audio", None, note="original layout"),
    Software("Unsloth Studio", VOICE_CLONE_SYSTEM_PROMPT, scene=True, reason="it sends no reference clip"),
    Software("ComfyUI (TTS-Audio-Suite)", None, reason="it sends the reference's text in a second system turn"),
)


@dataclass(frozen=True)
class Sending:
    """Whether one software can send a prompt.

    Attributes:
        software: its name.
        reason: why it cannot; None if it can.
        note: what a user must know besides.
    """

    software: str
    reason: str | None
    note: str = ""


def who_sends(form: PromptForm) -> list[Sending]:
    """Return for each software whether it can send the prompt that was trained. This project comes first.

    Args:
        form: the style or the template of the training.
    """
    found = [Sending(software.name, _reason(software, form), _note(software, form)) for software in SOFTWARE]
    return [Sending(OURS, None), *found]


def software_lines(form: PromptForm) -> list[str]:
    """Return who can send the prompt and who cannot, in two lines for a log."""
    by_reason: dict[str | None, list[str]] = {}
    for sending in who_sends(form):
        by_reason.setdefault(sending.reason, []).append(sending.software.replace("`", ""))
    can = f"the prompt of the training ({_named(form)}) can be sent by {', '.join(by_reason.pop(None))}"
    cannot = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    return [can, f"it cannot be sent by {cannot}"]


def software_table(form: PromptForm) -> list[str]:
    """Return who can send the prompt as a table in Markdown."""
    rows = [
        f"| {sending.software} | {'no' if sending.reason else 'yes'} | {sending.reason or sending.note} |"
        for sending in who_sends(form)
    ]
    return ["| software | sends the trained prompt | why not, or what to know |", "|---|---|---|", *rows]


def _named(form: PromptForm) -> str:
    return str(form) if isinstance(form, PromptTemplate) else f"prompt_style {form}"


def _reason(software: Software, form: PromptForm) -> str | None:
    """Return why a software cannot send a prompt, or None."""
    if software.reason is not None:
        return software.reason
    if form == "as_written":
        return "it cannot send a reference clip in a user turn"
    system, scene = _system_and_scene(form)
    if software.system == ANY:
        return None
    if software.system is None and system is not None:
        return "it sends no system turn"
    if software.system is not None and system is None:
        return "it always sends a system turn"
    if software.system != system:
        return f'it sends the system text "{software.system}"'
    if scene is None or software.scene or (software.renders and is_fixed(form, "scene")):
        return None
    return "it never sends a scene"


def _note(software: Software, form: PromptForm) -> str:
    """Return what a user must know who sends a prompt with a software."""
    notes = [software.note] if software.note else []
    if software.renders and _system_and_scene(form)[1] is not None:
        notes.append("the chat template of `merge_adapter --layout transformers` writes the scene")
    words = _words(form)
    if words:
        notes.append(f"write the words of the template around the texts: {', '.join(words)}")
    return "; ".join(notes)


def _system_and_scene(form: PromptForm) -> tuple[str | None, str | None]:
    return (form.system, form.scene) if isinstance(form, PromptTemplate) else (VOICE_CLONE_SYSTEM_PROMPT, None)


def _words(form: PromptForm) -> Sequence[str]:
    """Return the parts of a template that are more than the text of their name."""
    if not isinstance(form, PromptTemplate):
        return ()
    texts = {part: getattr(form, part) for part in TEXT_FIELDS}
    return [f"`{text}`" for part, text in texts.items() if text != f"{{{part}}}"]
