"""Recognisers: Arabic is forced, the same clip has the same text, long clips are cut; what is wrong is said early."""

import json
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2Model, WhisperFeatureExtractor

from boson_multimodal.errors import InputError
from tests.voice_cloning.evaluation.tiny_recognisers import (
    CONVOLUTIONS,
    CTC_TOKENS,
    LAYERS,
    POSITIONS,
    make_converted,
    make_ctc,
    make_mms,
    make_whisper,
)
from voice_cloning.evaluation.arabic_recognisers import MMS_ADAPTER
from voice_cloning.evaluation.recognisers import (
    INSTALL_FASTER_WHISPER,
    Heard,
    WaveformRecogniser,
    WhisperRecogniser,
    cut_at_quiet_places,
    find_recogniser,
    load_recogniser,
)

RATE = 16_000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ctc(tmp_path_factory.mktemp("ctc"))


def clip(seconds: float, seed: int = 0, rate: int = RATE) -> Heard:
    numbers = torch.Generator().manual_seed(seed)
    return Heard(samples=0.1 * torch.randn(round(seconds * rate), generator=numbers), sampling_rate=rate)


class Lengths(WaveformRecogniser):
    """Its text is the number of samples that it gets, for each piece."""

    name = "lengths"

    def _recognised(self, wave: np.ndarray) -> str:
        return str(len(wave))


# -- clips -------------------------------------------------------------------------------------------------------------


def test_clips_are_resampled_and_short_ones_get_silence() -> None:
    clips = [clip(2.0, rate=24_000), clip(0.1), Heard(samples=torch.zeros(0), sampling_rate=RATE), clip(30.0)]
    assert Lengths().transcribe(clips) == ["32000", "8000", "", "480000"]


def test_long_clips_are_cut_where_they_are_quiet_and_nothing_is_lost() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 75 * RATE).astype(np.float32)
    quiet = (26.0, 26.0 + 27.5)
    for start in quiet:
        wave[round(start * RATE) : round((start + 0.3) * RATE)] *= 0.01
    pieces = cut_at_quiet_places(wave, RATE)
    assert np.array_equal(np.concatenate(pieces), wave)
    cuts = np.cumsum([len(piece) for piece in pieces])[:-1] / RATE
    assert all(start + 0.05 < cut < start + 0.25 for start, cut in zip(quiet, cuts, strict=True))
    text = Lengths().transcribe([Heard(samples=torch.from_numpy(wave), sampling_rate=RATE)])[0]
    assert text == " ".join(str(len(piece)) for piece in pieces)
    assert [len(piece) for piece in cut_at_quiet_places(np.zeros(61 * RATE, np.float32), RATE)][:2] == [321_600] * 2


def test_codes_alone_are_refused_by_recognisers_of_waveforms() -> None:
    with pytest.raises(InputError, match="--asr lengths: it reads waveforms, but there are only codes"):
        Lengths().transcribe([Heard(codes_KT=torch.zeros(8, 10, dtype=torch.long))])


# -- Whisper -----------------------------------------------------------------------------------------------------------


def test_whisper_is_told_to_transcribe_arabic_and_hears_as_transformers_does(whisper: Path) -> None:
    recogniser = load_recogniser(str(whisper), device=CPU)
    prompts = []
    recogniser._model.model.decoder.register_forward_pre_hook(
        lambda _, __, inputs: prompts.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    clips = [clip(1.0, 1), clip(2.0, 2), clip(31.0, 3)]
    texts = recogniser.transcribe(clips)
    known = recogniser._tokenizer.get_vocab()
    prompt = [known[f"<|{name}|>"] for name in ("startoftranscript", "ar", "transcribe", "notimestamps")]
    assert prompts[0] == prompt and sum(tokens == prompt for tokens in prompts) == 4  # the last clip has two pieces
    features = WhisperFeatureExtractor()(clips[0].samples.numpy(), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        tokens = recogniser._model.generate(features.input_features, language="ar", task="transcribe", num_beams=5)
    assert texts[0] == recogniser._tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    assert len(set(texts)) > 1


def test_the_same_clip_has_the_same_text_whatever_lies_beside_it(whisper: Path, ctc: Path) -> None:
    for folder in (whisper, ctc):
        clips = [clip(seconds, seed) for seed, seconds in enumerate((0.7, 3.0, 1.5))]
        texts = load_recogniser(str(folder), device=CPU).transcribe(clips)
        again = load_recogniser(str(folder), device=CPU)
        torch.manual_seed(1)
        assert again.transcribe(clips[::-1]) == texts[::-1] and again.transcribe([clips[1]]) == [texts[1]]


def test_a_fine_tuned_whisper_with_an_old_generation_config_is_told_too(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path, languages=None)
    with pytest.raises(InputError, match="it knows English only; give a Whisper of many languages"):
        load_recogniser(str(folder))
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"is_multilingual": True}))
    assert isinstance(load_recogniser(str(folder), device=CPU).transcribe([clip(1.0)])[0], str)


# -- CTC ---------------------------------------------------------------------------------------------------------------


def test_a_ctc_text_is_the_greedy_one(ctc: Path) -> None:
    recogniser = load_recogniser(str(ctc), device=CPU)
    wave = clip(1.0).samples
    inputs = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        best = Wav2Vec2ForCTC.from_pretrained(ctc)(inputs[None]).logits[0].argmax(-1).tolist()
    letters = [CTC_TOKENS[label] for label, _ in groupby(best) if label > 3]
    assert recogniser.transcribe([clip(1.0)]) == [" ".join("".join(letters).replace("|", " ").split())]


def test_double_letters_stay_double(ctc: Path) -> None:
    recogniser = load_recogniser(str(ctc), device=CPU)
    labels = [CTC_TOKENS.index(token) for token in ("ا", "ل", "ل", "<pad>", "ل", "ه", "<pad>", "|", "|", "<unk>", "ه")]
    logits = torch.nn.functional.one_hot(torch.tensor(labels), len(CTC_TOKENS)).float()[None]
    config = recogniser._model.config
    recogniser._model = lambda **_: SimpleNamespace(logits=logits)
    recogniser._model.config = config
    assert recogniser.transcribe([clip(1.0)]) == ["الله ه"]


def test_ctc_models_that_read_features_work_too(tmp_path: Path) -> None:
    recogniser = load_recogniser(str(make_ctc(tmp_path, kind="wav2vec2-bert")), device=CPU)
    texts = recogniser.transcribe([clip(1.0, 1), clip(0.01), clip(1.5, 2)])
    assert texts[0] != texts[2] and set(texts[0]) <= {*" ".join(CTC_TOKENS[5:])}


def test_mms_gets_its_arabic_adapter(tmp_path: Path) -> None:
    refused(make_mms(tmp_path / "a", ("eng",)), "it has adapters for languages, but none for Arabic")
    folder = make_mms(tmp_path / "b", ("eng", "ara"))
    recogniser = load_recogniser(str(folder), device=CPU)
    assert torch.equal(recogniser._model.lm_head.weight, load_file(folder / MMS_ADAPTER)["lm_head.weight"])
    texts = recogniser.transcribe([clip(1.0)])
    assert len(texts[0]) > 5 and set(texts[0]) <= {*" ".join(CTC_TOKENS[5:])}
    (folder / MMS_ADAPTER).unlink()
    refused(folder, "it needs adapter.ara.safetensors")


# -- faster-whisper ----------------------------------------------------------------------------------------------------


def fake_packages(monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, object]]) -> None:
    """Put modules in the place of faster-whisper that note how they are called."""

    class WhisperModel:
        def __init__(self, folder: str, **settings: object) -> None:
            calls.append({"folder": folder, **settings})
            self.feature_extractor = SimpleNamespace(mel_filters=np.zeros((80, 201)))
            self.model = SimpleNamespace(n_mels=80, is_multilingual=True)

        def transcribe(self, wave: np.ndarray, **settings: object) -> tuple[list[SimpleNamespace], None]:
            calls.append({"samples": len(wave), **settings})
            return [SimpleNamespace(text=" قلم"), SimpleNamespace(text=" جيد ")], None

    for name, content in (("faster_whisper", {"WhisperModel": WhisperModel}), ("ctranslate2", {})):
        module = ModuleType(name)
        module.__dict__.update(content, get_cuda_device_count=lambda: 0)
        monkeypatch.setitem(sys.modules, name, module)


def test_faster_whisper_is_asked_for_arabic_without_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, object]] = []
    fake_packages(monkeypatch, calls)
    recogniser = load_recogniser(str(make_converted(tmp_path)), device=CPU)
    assert recogniser.transcribe([clip(1.0, rate=24_000)]) == ["قلم جيد"]
    loaded, asked = calls
    assert loaded["folder"] == str(tmp_path) and loaded["device"] == "cpu" and loaded["compute_type"] == "float32"
    assert asked["samples"] == RATE and asked["language"] == "ar" and asked["task"] == "transcribe"
    assert asked["temperature"] == 0.0 and asked["beam_size"] == 5 and asked["condition_on_previous_text"] is False


def test_weights_in_other_forms_are_fetched_only_where_there_are_no_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_packages(monkeypatch, [])
    asked: list[tuple[list[tuple[str, ...]], tuple[str, ...]]] = []
    folder = make_converted(tmp_path)
    monkeypatch.setattr(
        "voice_cloning.evaluation.recognisers.resolve_checkpoint",
        lambda _, __, ___, needed, fetched: asked.append((needed, fetched)) or folder,
    )
    load_recogniser("someone/faster-whisper", device=CPU)
    (first, fetched), (second, _) = asked
    assert not first and not any(pattern.endswith(".bin") for pattern in fetched)
    assert {"model.bin", "pytorch_model.bin", "model.safetensors"} <= set(second[0])


# -- what is wrong with a recogniser -----------------------------------------------------------------------------------


def refused(folder: Path | str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_recogniser(str(folder), device=CPU)
    assert str(caught.value).startswith(f"--asr {folder}: ")


def change(folder: Path, name: str, **values: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


@pytest.mark.parametrize("make", [make_whisper, make_ctc], ids=["whisper", "ctc"])
def test_a_recogniser_is_checked_before_its_weights_are_read(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    found = find_recogniser(str(folder), device=CPU)
    assert found.name == folder.name
    with pytest.raises(InputError, match=f"--asr {folder}: "):
        found.load()


@pytest.mark.parametrize("make", [make_whisper, make_ctc], ids=["whisper", "ctc"])
def test_the_memory_of_the_weights_is_known_before_they_are_loaded(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path)
    known = find_recogniser(str(folder), device=CPU).weight_bytes
    weights = load_recogniser(str(folder), device=CPU)._model.parameters()
    assert known >= 4 * sum(weight.numel() for weight in weights) > 0.9 * known
    halves = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    assert find_recogniser(str(folder), device=CPU).weight_bytes == known, "in float32, however they are stored"


def test_the_memory_of_a_converted_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_packages(monkeypatch, [])
    folder = make_converted(tmp_path)
    (folder / "model.bin").write_bytes(bytes(1000))
    assert find_recogniser(str(folder), device=CPU).weight_bytes == 2000


def test_a_recogniser_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder; give a Whisper model, a model with a CTC head")
    refused("whisper", "no such folder; give a Whisper model")
    refused(tmp_path, "no config.json in it")


def test_a_model_that_is_no_recogniser_is_named(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    refused(tmp_path, r"no model.safetensors or .* or model.bin in it")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "llama is no speech recogniser that can be used; give a Whisper model")
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    refused(tmp_path, "cannot be loaded")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}')
    refused(tmp_path, "cannot be loaded .*contains custom code")
    Wav2Vec2Model(Wav2Vec2Config(**LAYERS, **CONVOLUTIONS, **POSITIONS)).save_pretrained(tmp_path)
    refused(tmp_path, "Wav2Vec2Model is no speech recogniser that can be used")
    change(tmp_path, "config.json", architectures=["Wav2Vec2ForCTC"])
    refused(tmp_path, "no preprocessor_config.json or processor_config.json in it")
    make_ctc(tmp_path / "ctc")
    for name in ("preprocessor_config.json", "vocab.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tmp_path / "ctc" / name).read_bytes())
    refused(tmp_path, "it has no weights for lm_head.bias, lm_head.weight")


def test_a_converted_model_of_another_kind_is_named(tmp_path: Path) -> None:
    make_converted(tmp_path)
    (tmp_path / "config.json").write_text('{"bos_token": "<s>"}')
    refused(tmp_path, "a model for CTranslate2, but not Whisper")


def test_recognisers_without_arabic_are_named(tmp_path: Path) -> None:
    refused(make_whisper(tmp_path / "a", languages=("<|en|>",)), r"it knows no Arabic: it has no token <\|ar\|>")
    folder = make_whisper(tmp_path / "b")
    change(folder, "generation_config.json", is_multilingual=False)
    refused(folder, "it knows English only; give a Whisper of many languages, without '.en' in its name")
    latin = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz")
    refused(make_ctc(tmp_path / "c", latin), r"it knows no Arabic: its vocabulary lacks 28 of the 28 letters \(ا ب ت")
    persian = tuple(token.translate(str.maketrans("كيى", "کیے")) for token in CTC_TOKENS)
    refused(make_ctc(tmp_path / "d", persian), r"its vocabulary lacks 2 of the 28 letters \(ك ي\)")
    refused(make_converted(tmp_path / "e", tokens=51_864), "it knows English only; give a Whisper of many languages")
    refused(make_converted(tmp_path / "f", languages=("<|en|>",)), "it knows no Arabic: it has no token")


def test_weights_are_not_loaded_before_the_language_is_known(tmp_path: Path) -> None:
    folder = make_whisper(tmp_path / "a", languages=("<|en|>",))
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, "it knows no Arabic")
    folder = make_ctc(tmp_path / "b", ("<pad>", "<s>", "</s>", "<unk>", "|", "a"))
    (folder / "model.safetensors").write_bytes(b"")
    refused(folder, "it knows no Arabic")


def test_damaged_files_are_named(whisper: Path, tmp_path: Path) -> None:
    for source in whisper.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    change(tmp_path, "preprocessor_config.json", feature_size=128)
    refused(tmp_path, "its features have 128 mel bins, but the model reads 80")
    (tmp_path / "preprocessor_config.json").write_bytes((whisper / "preprocessor_config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"{")
    refused(tmp_path, "cannot be loaded")
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{")
        refused(tmp_path, "cannot be loaded")


def test_missing_files_of_faster_whisper_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_converted(tmp_path)
    tokenizer = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_text("{")
    refused(tmp_path, "cannot be loaded")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocabulary.json").unlink()
    refused(tmp_path, "no tokenizer.json and no vocabulary.json in it; give a whole folder of faster-whisper")
    (tmp_path / "vocabulary.txt").write_text("\n".join(map(str, range(51_865))))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer)
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    refused(tmp_path, f"the package cannot be imported .*; {INSTALL_FASTER_WHISPER}")
    monkeypatch.undo()
    pytest.importorskip("faster_whisper", reason=f"needs {INSTALL_FASTER_WHISPER}")
    refused(tmp_path, "cannot be loaded")


def test_a_recogniser_of_the_hub_has_its_id_and_revision_as_its_name(
    whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "voice_cloning.evaluation.recognisers.resolve_checkpoint",
        lambda *arguments: asked.append(arguments[:3]) or whisper,
    )
    recogniser = load_recogniser("someone/some-whisper", "v1", CPU)
    assert isinstance(recogniser, WhisperRecogniser) and recogniser.name == "someone/some-whisper@v1"
    assert asked == [("someone/some-whisper", "v1", "--asr")]
    assert load_recogniser(str(whisper), "v1", CPU).name == whisper.name
