"""The files with which other software serves a merged model: processor, chat template, tokenizer, codec reference.

transformers' ``AutoProcessor`` and vLLM-Omni read them (``docs/serving.md``). The chat template writes the prompt of
prompt style voice_clone, or that of the adapter's template (``served_prompt.py``).
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from boson_multimodal import constants as c
from boson_multimodal.audio_processing.codec_layouts import codec_layout
from boson_multimodal.audio_processing.higgs_audio_tokenizer import TRANSFORMERS_WEIGHTS, codec_config
from boson_multimodal.chatml import speech_prompt
from boson_multimodal.checkpoints import is_hub_id, naming_damage
from boson_multimodal.circumstances import home_path
from boson_multimodal.cloning_example import VoiceCloningExample
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError, raise_if_any
from boson_multimodal.model.higgs_audio import HiggsAudioConfig
from boson_multimodal.model.higgs_audio.checkpoint_layouts import delay_token_id
from boson_multimodal.prompt_template import PromptTemplate
from voice_cloning.adapters.served_prompt import (
    OF_VOICE_CLONE,
    TEMPLATE_FILE,
    chat_messages,
    chat_template,
    placeholders,
)
from voice_cloning.training.data import checkpoint_misfits

PROCESSOR_FILE = "processor_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

REPLACED_FILES = (TEMPLATE_FILE, "chat_template.json", PROCESSOR_FILE, "preprocessor_config.json")
"""Files of a base that are not copied: their content is in the files that are written here."""

TEMPLATE_HOLDERS = ("chat_template.json", TOKENIZER_CONFIG_FILE, PROCESSOR_FILE)
"""JSON files of a base that may hold a chat template, in the field ``chat_template``."""

BUNDLED_CODEC = "audio_tokenizer"
"""The folder of a bundled codec inside the merged folder. vLLM-Omni also looks for an encoder under this name."""

ONLY_HERE = (
    "prompt_style as_written: transformers' processor and vLLM-Omni cannot send a prompt with the reference clip in a "
    "user turn; only this project's commands can (synthesize, evaluate, studio). For a model that they serve, train "
    "with --prompt_style voice_clone"
)


@dataclass(frozen=True)
class ServedCodec:
    """The codec that the files of a merged model refer to.

    Attributes:
        name: a hub id, or the absolute path of a folder.
        source: where the name comes from, for the log.
        bundled: a folder in the layout of transformers that is copied into the merged folder, or None.
    """

    name: str
    source: str
    bundled: Path | None = None

    @property
    def is_default(self) -> bool:
        """Whether software takes this codec without being told."""
        return self.name == c.AUDIO_TOKENIZER_ID and self.bundled is None


def find_codec(
    base_folder: Path, flags: dict[str, Any], config: HiggsAudioConfig, codec_id: str | None, bundle: Path | None
) -> ServedCodec:
    """Return the codec of a merged model. No weight is loaded.

    The first of these wins: ``codec_id``, the hub id of the codec that training used, the one in the base's
    ``processor_config.json``, the released codec.

    Args:
        base_folder: the base's checkpoint.
        flags: the flags of the training run, without paths; they may be empty.
        config: the base's configuration, which a codec in a folder must fit.
        codec_id: the value of ``--codec_id``: a folder or a hub id.
        bundle: the value of ``--bundle_codec``.

    Raises:
        InputError: if a folder is not a codec in the layout of transformers that fits the model, or ``codec_id`` is
            neither a folder nor a hub id.
    """
    bundle = None if bundle is None else home_path(bundle, "--bundle_codec")
    problems = [] if bundle is None else _codec_problems(bundle, config, "--bundle_codec")
    trained = flags.get("audio_tokenizer_path") or ""
    processor = _json_of(base_folder / PROCESSOR_FILE).get("audio_tokenizer")
    of_base = str(processor.get("audio_tokenizer_name_or_path")) if isinstance(processor, dict) else ""
    if codec_id is not None:
        name, source = codec_id, "from --codec_id; a hub id, which is not looked up"
        folder = home_path(codec_id, "--codec_id")
        if folder.is_dir():
            problems += _codec_problems(folder, config, "--codec_id")
            name, source = str(folder.resolve()), "from --codec_id; a folder that only this machine has"
        elif not is_hub_id(codec_id):
            problems.append(f"--codec_id {codec_id}: no such folder; give a codec's folder or its hub id OWNER/NAME")
    elif is_hub_id(trained):
        name, source = trained, "the one of the training"
    elif is_hub_id(of_base):
        name, source = of_base, f"from the base's {PROCESSOR_FILE}"
    else:
        local = Path(trained or of_base).name
        used = f", because only a local folder is recorded: {local}" if local else ""
        name, source = c.AUDIO_TOKENIZER_ID, f"the released one: a guess{used}; give --codec_id if it is another"
    raise_if_any("the codec cannot be served", problems)
    return ServedCodec(name, source, bundle)


def _codec_problems(folder: Path, config: HiggsAudioConfig, flag: str) -> list[str]:
    """Return why transformers' processor could not read a codec in this folder, or not use it with the model."""
    shown = f"{flag} {folder}"
    try:
        with naming_damage(shown):
            layout, codec = codec_layout(folder), codec_config(folder)
    except StrictDataclassError as error:
        return [f"{shown}: its config.json has a wrong value ({' '.join(str(error).split())}); fetch it again"]
    except InputError as error:
        return [str(error) if str(error).startswith(flag) else f"{flag} {error}"]  # or it begins with the folder
    if layout != "transformers":
        return [f"{shown}: in Boson's original layout, which transformers' processor does not read"]
    if not any(folder.glob(TRANSFORMERS_WEIGHTS)):
        return [f"{shown}: no {TRANSFORMERS_WEIGHTS} in it; give a whole codec"]
    pairs = {
        "codebooks": (config.audio_num_codebooks, codec.num_quantizers),
        "codes per codebook": (config.audio_codebook_size, codec.codebook_size),
        "samples per second": (c.CODEC_SAMPLE_RATE, codec.sample_rate),
        "code frames per second": (c.FRAMES_PER_SECOND, codec.frame_rate),
    }
    return [
        f"{shown}: has {there} {name}, the model needs {here}" for name, (here, there) in pairs.items() if here != there
    ]


def check_tokenizer(base_folder: Path, config: HiggsAudioConfig, prompt: PromptTemplate = OF_VOICE_CLONE) -> None:
    """Check that the trained prompt can be written with the base's tokenizer. No weight is loaded.

    Raises:
        InputError: listing the tokens that are missing or have another id than in ``config.json``; or if the chat
            template does not give the ids of the training, or a JSON file that will be read is damaged.
    """
    for name in TEMPLATE_HOLDERS:
        _json_of(base_folder / name)
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    problems = checkpoint_misfits(config, tokenizer, None) + prompt.tokenizer_problems(tokenizer)
    for token in (c.BEGIN_OF_TEXT, c.START_HEADER, c.END_HEADER, c.END_OF_TURN):
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            problems.append(f"{token} is missing")
    numbers = {"delay": delay_token_id(config)} | ({} if tokenizer.pad_token else {"pad": config.pad_token_id})
    for name, number in numbers.items():
        if tokenizer.convert_ids_to_tokens(number) is None:
            problems.append(f"id {number} is missing, which is the {name} token by config.json")
    advice = "no other software could write its prompts. Give a tokenizer that fits, or export the original layout"
    raise_if_any(f"{base_folder}: its tokenizer does not fit its config.json; {advice}", problems)
    if not _writes_trained_prompt(tokenizer, prompt):
        misfit = "with its tokenizer, the ids of the chat template are not those of the training"
        raise InputError(f"{base_folder}: {misfit}; {advice}")


def _writes_trained_prompt(tokenizer: PreTrainedTokenizerBase, prompt: PromptTemplate) -> bool:
    """Compare the ids of the chat template with those of training, for one prompt."""
    example = VoiceCloningExample("\u0646\u0639\u0645 1", AudioContent(), "\u0644\u0627.", AudioContent())
    fields = placeholders(prompt)
    wanted, _ = speech_prompt(example.conversation(prompt, fields.get("speaker"), fields), tokenizer)
    texts = {"reference_text": example.reference_text, "target_text": example.target_text}
    messages = chat_messages(prompt, texts, {"path": ""}, fields)
    how = {"chat_template": chat_template(prompt), "add_generation_prompt": True, "return_dict": False}
    return tokenizer.apply_chat_template(messages, **how) == wanted


def write_serving_files(
    base_folder: Path,
    folder: Path,
    config: HiggsAudioConfig,
    codec: ServedCodec,
    prompt: PromptTemplate = OF_VOICE_CLONE,
) -> list[str]:
    """Write what ``AutoProcessor`` and vLLM-Omni need into a merged folder in the layout of transformers.

    Args:
        base_folder: the base's checkpoint.
        folder: the merged folder, which has ``config.json`` and the tokenizer.
        config: the model's configuration.
        codec: the result of :func:`find_codec`.
        prompt: what the files send.

    Returns:
        One line for each decision that a user should know of.
    """
    (folder / TEMPLATE_FILE).write_text(chat_template(prompt), encoding="utf-8")
    lines = [f"codec: {codec.name} ({codec.source})", *_complete_tokenizer(folder, config)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _write_json(folder / PROCESSOR_FILE, processor_fields(config, tokenizer, codec.name))
    lines += _replaced(base_folder, folder)
    if codec.bundled is not None:
        (folder / BUNDLED_CODEC).mkdir()
        for path in sorted(codec.bundled.iterdir()):
            if path.match(TRANSFORMERS_WEIGHTS) or path.suffix == ".json":
                shutil.copyfile(path, folder / BUNDLED_CODEC / path.name)
    if not codec.is_default:
        fields = _json_of(folder / "config.json")
        fields |= {"audio_tokenizer_id": None if codec.bundled else codec.name}
        fields |= {"audio_tokenizer_subdir": BUNDLED_CODEC} if codec.bundled else {}
        _write_json(folder / "config.json", fields)
    return lines


def processor_fields(config: HiggsAudioConfig, tokenizer: PreTrainedTokenizerBase, codec: str) -> dict[str, Any]:
    """Return the content of ``processor_config.json``.

    The extractor does not pad clips (``hop_length`` 1): training encodes them as they are.
    """
    extractor = {"feature_extractor_type": "DacFeatureExtractor", "feature_size": 1, "hop_length": 1}
    extractor |= {"padding_side": "right", "padding_value": 0.0, "return_attention_mask": True}
    extractor |= {"sampling_rate": c.CODEC_SAMPLE_RATE}
    codec_class = "HiggsAudioV2TokenizerModel"
    return {
        "processor_class": "HiggsAudioV2Processor",
        "audio_tokenizer": {"audio_tokenizer_class": codec_class, "audio_tokenizer_name_or_path": codec},
        "feature_extractor": extractor,
        "audio_token": c.AUDIO_OUT,
        "audio_bos_token": c.AUDIO_OUT_BOS,
        "audio_eos_token": c.AUDIO_EOS,
        "audio_delay_token": tokenizer.convert_ids_to_tokens(delay_token_id(config)),
        "audio_stream_bos_id": config.audio_stream_bos_id,
        "audio_stream_eos_id": config.audio_stream_eos_id,
    }


def _replaced(base_folder: Path, folder: Path) -> list[str]:
    """Return a line about each file of the base that says something else than what is written in its place."""
    template = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    found = {name: _json_of(base_folder / name).get("chat_template") for name in TEMPLATE_HOLDERS}
    if (base_folder / TEMPLATE_FILE).is_file():
        found[TEMPLATE_FILE] = (base_folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    lines = []
    if others := [name for name, text in found.items() if text not in (None, template)]:
        lines.append(
            f"the base's chat template ({', '.join(others)}) is replaced by the one that writes the prompt of the "
            "training. With the released template, vLLM-Omni marks the reference clip twice, and a clip in a user turn "
            "is dropped without a message"
        )
    base, new = (_json_of(where / PROCESSOR_FILE) for where in (base_folder, folder))
    if changed := [name for name in base if name != "chat_template" and base[name] != new.get(name)]:
        lines.append(f"the base's {PROCESSOR_FILE} is replaced; it had another {', '.join(changed)}")
    return lines


def _complete_tokenizer(folder: Path, config: HiggsAudioConfig) -> list[str]:
    """Remove a template of the base from the tokenizer's settings, and add the bos and the pad token if it has none.

    transformers' processor pads every prompt, also a single one, and fails without a pad token.
    """
    tokenizer, fields = AutoTokenizer.from_pretrained(folder), _json_of(folder / TOKENIZER_CONFIG_FILE)
    wanted = {"bos_token": c.BEGIN_OF_TEXT, "pad_token": tokenizer.convert_ids_to_tokens(config.pad_token_id)}
    added = {name: token for name, token in wanted.items() if getattr(tokenizer, name) is None}
    if added or "chat_template" in fields:
        fields.pop("chat_template", None)
        _write_json(folder / TOKENIZER_CONFIG_FILE, fields | added)
    return [f"the tokenizer has no {name}; {token} is written as it" for name, token in added.items()]


def _json_of(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint; an empty one if there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: does not hold a JSON object; fetch it again")
    return found


def _write_json(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
