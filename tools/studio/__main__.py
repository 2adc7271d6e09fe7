"""Open a local page to try a voice: give a reference clip, type Arabic, hear the base and adapters side by side.

    python -m tools.studio --model_path MODEL --audio_tokenizer_path CODEC --adapter EXPMT/a/checkpoint-000200

The page is at http://127.0.0.1:7860, for this machine alone. Several adapters share one base in memory. Nothing that is
uploaded or spoken is kept after the studio ends; download what you want to keep. Ctrl-C ends it. See docs/studio.md.

Gradio is needed: pip install -r requirements-studio.txt
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from boson_multimodal.circumstances import home_path
from boson_multimodal.command_line import run_command
from boson_multimodal.errors import Problems, raise_if_any
from boson_multimodal.memory_remedies import naming_lack_of_memory
from boson_multimodal.prompt_template import PromptForm
from tools.speech_flags import (
    HelpWithDefaults,
    add_adapters_flag,
    add_computation_flags,
    add_model_flags,
    add_prompt_flags,
    fields_of,
)
from tools.studio.dictation import load_dictation
from tools.studio.job import Wishes
from tools.studio.page import STYLE, Page
from tools.studio.server import (
    LOOPBACK,
    LOOPBACK_NAMES,
    check_address,
    gradio_in,
    open_in_browser,
    require_gradio,
    served,
    temporary_folder,
    wait_for_the_end,
)
from tools.studio.systems import Systems
from tools.synthesize import memory_remedies
from voice_cloning.adapters.export import check_scale_is_used
from voice_cloning.speech.adapter_folders import BASE, folder_lines, named_adapters
from voice_cloning.speech.adapter_run import form_for, refuse_unused_fields
from voice_cloning.speech.requests import form_problems
from voice_cloning.speech.voices import find_voices

PORT = 7860


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.studio",
        description=__doc__,
        formatter_class=HelpWithDefaults,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add_model_flags(parser)
    add_adapters_flag(parser)
    add("--adapter_scale", type=float, default=1.0, help="The scale that the page begins with; 1 is as trained.")
    add("--asr", metavar="PATH", help="A speech recogniser that writes down what a reference says.")
    add("--asr_revision", help="Commit of asr, if it is a hub id.")
    add("--host", default=LOOPBACK, help="Address to listen on; by default this machine alone reaches the page.")
    add("--port", type=int, default=PORT, help="Port to listen on.")
    add("--share", action="store_true", help="Also give the page a public address, through Gradio's servers.")
    add("--open", action="store_true", help="Open the page in this machine's browser.")
    add_prompt_flags(parser)
    add_computation_flags(parser)
    return parser.parse_args(arguments)


def checked_systems(flags: argparse.Namespace) -> Systems:
    """Check the flags, the address and all folders. Return the systems, without weights.

    Raises:
        InputError: listing everything that is wrong.
    """
    problems = Problems()
    tried = problems.tried
    tried(require_gradio)
    tried(lambda: check_address(flags.host, flags.port))
    folders = tried(lambda: named_adapters(flags.adapter)) or {}
    tried(lambda: check_scale_is_used(flags.adapter_scale, bool(flags.adapter)))
    systems = {BASE: None, **folders}
    forms = checked_forms(flags, systems, problems)
    voices = find_voices(
        {name: systems[name] for name in forms},
        problems,
        forms=forms,
        model_path=flags.model_path,
        model_revision=flags.model_revision,
        audio_tokenizer_path=flags.audio_tokenizer_path,
        audio_tokenizer_revision=flags.audio_tokenizer_revision,
        adapter_scale=flags.adapter_scale,
        text_normalisation=flags.text_normalisation,
        torch_dtype=flags.torch_dtype,
        quantise=flags.quantise,
        device=flags.device,
    )
    raise_if_any("the studio cannot start", problems.messages)
    for line in folder_lines(flags.adapter):
        print(line, file=sys.stderr)
    # Last, because it loads the recogniser's weights.
    dictation = None if flags.asr is None else load_dictation(flags.asr, flags.asr_revision, voices[BASE].device)
    return Systems(voices, dictation)


def checked_forms(
    flags: argparse.Namespace, folders: Mapping[str, Path | None], problems: Problems
) -> dict[str, PromptForm]:
    """Return the form of each voice's prompts, and add what is wrong with one, or with the values for templates."""
    forms: dict[str, PromptForm] = {}
    for name, folder in folders.items():
        form = problems.tried(lambda folder=folder: form_of(flags, folder))
        if form is not None:
            forms[name] = form
    problems.tried(lambda: refuse_unused_fields(forms.values(), fields_of(flags)))
    missing = [problem for form in forms.values() for problem in form_problems(form, {}, prefix="--")]
    problems.tried(lambda: raise_if_any("values for a prompt template", list(dict.fromkeys(missing))))
    return forms


def form_of(flags: argparse.Namespace, adapter: Path | None) -> PromptForm:
    """Return the form of the prompts of an adapter, or of the base."""
    trained = adapter or home_path(flags.model_path, "--model_path")
    return form_for(trained, flags.prompt_style, flags.prompt_template, fields_of(flags))


def studio(flags: argparse.Namespace) -> int:
    """Check everything, load the weights, and serve the page until a signal ends it.

    Raises:
        InputError: if an input is wrong; no weight of the model has been loaded then.
    """
    with temporary_folder() as folder:
        systems = checked_systems(flags)
        base = systems.base
        print(f"loading {len(systems.names)} systems, {base.dtype} on {base.device}", file=sys.stderr, flush=True)
        with naming_lack_of_memory(base.device, lambda: "while the model was loaded", lambda: memory_remedies(base, 1)):
            systems.load()
        defaults = Wishes(
            reference=None, reference_text="", text="", systems=tuple(systems.names), scale=flags.adapter_scale
        )
        with gradio_in(folder, flags.host, flags.share) as gradio:
            page = Page(gradio, systems, defaults, folder)
            with served(gradio, page.blocks, flags.host, flags.port, flags.share, STYLE, folder) as address:
                if flags.host not in LOOPBACK_NAMES or flags.share:
                    print("warning: others can reach this page and speak with these voices", file=sys.stderr)
                print(f"the studio is at {address}; Ctrl-C ends it", flush=True)
                if flags.open:
                    open_in_browser(address)
                try:
                    wait_for_the_end()
                finally:
                    systems.end()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit status."""
    disable_progress_bar()  # the bar of transformers for loading weights
    return run_command(lambda: studio(parse_arguments(arguments)), "the studio has ended; nothing of it is kept")


if __name__ == "__main__":
    sys.exit(main())
