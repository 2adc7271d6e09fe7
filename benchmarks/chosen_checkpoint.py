"""Does ``tools.evaluate --select`` take a better checkpoint than the evaluation loss does? One run of a small model.

    OMP_NUM_THREADS=1 python -m benchmarks.what_one_hears --output_dir FOLDER --recipes mix4000 --finals 0
    OMP_NUM_THREADS=1 python -m benchmarks.chosen_checkpoint --run FOLDER/mix4000-42 --output_dir EVALUATION

The folder of --data is that of ``what_one_hears.py``. Each checkpoint of the run, and the base, are asked for new words
(the test set) and for old words (the retention set) in voices that nothing was trained on, and a recogniser of codes
judges them. This is the Python call of docs/evaluation.md with a recogniser of one's own. It writes what the command
writes: the report into EVALUATION, and ``selection.json`` and the model cards into the folder of the run. The same
command goes on after a stop. Printed are the figures of all checkpoints, then the one of the lowest evaluation loss and
the one that was chosen.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.spoken_words import SAMPLING, recogniser_module
from boson_multimodal.command_line import run_command
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from voice_cloning.evaluation.evaluation import EvaluationSettings, evaluate
from voice_cloning.evaluation.recognisers import Heard
from voice_cloning.evaluation.report import table
from voice_cloning.evaluation.retention import retention_part, retention_settings
from voice_cloning.evaluation.run_selection import run_checkpoints, selection_line
from voice_cloning.evaluation.selection import RETENTION_BOUND
from voice_cloning.evaluation.systems import SystemSettings
from voice_cloning.speech.speech import SpeechSettings

NEW, OLD = "dev_ask_new", "dev_ask_old"


class WordRecogniser:
    """A recogniser of codes, as :func:`evaluate` takes it: each clip is one of 40 Arabic words.

    Args:
        module: the module ``recognise.py``, with ``Recogniser().word(codes_KT) -> name`` and ``WORDS``.
    """

    name = "words-of-codes"

    def __init__(self, module: ModuleType) -> None:
        self._recogniser, self._words = module.Recogniser(), module.WORDS

    def transcribe(self, clips: Sequence[Heard]) -> list[str]:
        """Return the word of each clip; nothing for an empty one."""
        return [self._words[self._recogniser.word(clip.codes_KT)] if clip.codes_KT.shape[1] else "" for clip in clips]


def settings_of(args: argparse.Namespace) -> EvaluationSettings:
    """Return the settings of the evaluation on new words."""
    systems = SystemSettings(
        model_path=str(args.data / "base_model"),
        audio_tokenizer_path="no_codec",
        codes=tuple(str(args.data / f"{name}.safetensors") for name in (NEW, OLD)),
        adapters=tuple(map(str, run_checkpoints(str(args.run)))),
        prompt_style="as_written",
        device="cpu",
        speech=SpeechSettings(sampling=SamplingConfig(**SAMPLING), retries=0),
    )
    return EvaluationSettings(
        systems=systems,
        test_set=args.data / f"{NEW}.json",
        output_dir=args.output_dir,
        seeds=tuple(args.seeds),
        batch_size=20,
        select=args.run,
        retention_bound=args.retention_bound,
    )


def comparison(report: dict[str, Any]) -> list[str]:
    """Return the lines about the checkpoint that the loss chooses, and the one that speech chooses."""
    selection = report["selection"]
    systems = {system["name"]: system for system in report["systems"]}
    kept = {system["name"]: system for system in report["retention"]["systems"]}
    lines = []
    for title, name in (("by loss", selection["by_eval_loss"]), ("by speech", selection["chosen"])):
        lines.append(f"{title}: {name}")
        if name is not None:
            lines += [
                f"  {of_set}: {_share(found['figures']['wer_scoring'])} of words wrong, "
                f"{_share(found['figures']['stop_rate'])} of clips end"
                for of_set, found in (("new words", systems[name]), ("old words", kept[name]))
            ]
    return lines


def _share(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.1%} ({interval['low']:.1%} to {interval['high']:.1%})"


def choose(args: argparse.Namespace) -> int:
    """Evaluate the checkpoints of a run, and print which one is chosen. Returns the exit status."""
    recogniser = WordRecogniser(recogniser_module(args.data))
    settings = settings_of(args)
    retention = evaluate(retention_settings(settings, args.data / f"{OLD}.json", None), recogniser=recogniser)
    report = evaluate(settings, recogniser=recogniser, retention=retention_part(retention))
    print("\n".join([f"{OLD}:", *table(retention), "", f"{NEW}:", *table(report), ""]))
    print("\n".join([*comparison(report), selection_line(report["selection"])]))
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/speaks"), help="Folder of model, data and judge.")
    parser.add_argument("--run", type=Path, required=True, help="Folder of the run: its choice is written into it.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of the evaluation.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Each word is spoken once for each seed.")
    parser.add_argument("--retention_bound", type=float, default=RETENTION_BOUND, help="As of tools.evaluate.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Choose a checkpoint. Returns the exit status."""
    return run_command(lambda: choose(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())
