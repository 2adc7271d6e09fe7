"""Speaking a set: the same clips in any order, on any number of processes, with adapters put on and taken off."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from boson_multimodal.audio_processing.codes_file import CodesFiles, codes_name, write_codes_file
from boson_multimodal.data_types import AudioContent
from boson_multimodal.errors import InputError
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.generation import SamplingConfig
from boson_multimodal.process_group import Ranks
from tests.exported_adapters import random_adapter
from tests.voice_cloning.speech.cloners import make_cloner
from voice_cloning.adapters.logit_comparison import fixed_batch, our_logits
from voice_cloning.evaluation.speaking import ClipToSpeak, batches_of, speak_set
from voice_cloning.evaluation.spoken_files import ClipFile
from voice_cloning.speech.requests import SpeechRequest, request_of_text
from voice_cloning.speech.speech import SpeechSettings
from voice_cloning.speech.voice_cloner import VoiceCloner

SETTINGS = SpeechSettings(sampling=SamplingConfig(), retries=0)
TEXTS = {"a": "نعم", "b": "لا", "c": "شكرا جزيلا لك", "d": "صباح الخير يا صديقي"}


class OneOf(Ranks):
    """One of several ranks that does not wait for the others; ``met`` holds what they have gathered."""

    def gather(self, value: Any) -> list[Any]:
        return [value]


@pytest.fixture(scope="module")
def requests(demo: Path) -> list[SpeechRequest]:
    reference = AudioContent(audio_url=str(demo / "clips/amal/train_01.wav"))
    return [request_of_text(name, text, reference, "كيف حالك", "voice_clone") for name, text in TEXTS.items()]


def clips_of(requests: Sequence[SpeechRequest], seeds: Sequence[int] = (0, 1)) -> list[ClipToSpeak]:
    return [ClipToSpeak(request, seed) for request in requests for seed in seeds]


def speak(cloner: VoiceCloner, clips: Sequence[ClipToSpeak], folder: Path, **settings: Any) -> dict[str, bytes]:
    """Speak, and return the content of the files of codes and sound by name."""
    given = {"batch_size": 3, "ranks": Ranks(), **settings}
    speak_set(cloner, clips, folder, "base", **given)
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".npy", ".wav"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_identity_of_a_request_is_computed_once_for_all_seeds(
    demo: Path, requests: list[SpeechRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloner = short(make_cloner(demo, settings=SETTINGS))
    computed, identity = [], cloner.identity
    monkeypatch.setattr(cloner, "identity", lambda request: computed.append(request.name) or identity(request))
    speak(cloner, clips_of(requests[:2], (0, 1, 2)), tmp_path)
    assert computed == ["a", "b"]


def short(cloner: VoiceCloner) -> VoiceCloner:
    """Cut each clip after a few columns: the model has learnt nothing and never ends by itself."""
    cloner.most_columns = lambda piece: 12 + len(piece.text)
    return cloner


@pytest.fixture(scope="module")
def cloner(demo: Path) -> VoiceCloner:
    return short(make_cloner(demo, settings=SETTINGS))


@pytest.fixture(scope="module")
def spoken(
    cloner: VoiceCloner, requests: list[SpeechRequest], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    return speak(cloner, clips_of(requests), tmp_path_factory.mktemp("spoken"))


def test_each_clip_and_seed_is_another(spoken: dict[str, bytes]) -> None:
    names = {f"{folder}/base/{name}.{seed}.{end}" for name in TEXTS for seed in (0, 1) for folder, end in KINDS}
    assert spoken.keys() == names
    codes = [content for name, content in spoken.items() if name.startswith("codes")]
    assert len(set(codes)) == len(codes)


KINDS = (("codes", "npy"), ("audio", "wav"))


def test_order_and_later_calls_change_nothing(
    cloner: VoiceCloner, requests: list[SpeechRequest], spoken: dict[str, bytes], tmp_path: Path
) -> None:
    clips = clips_of(requests)
    assert speak(cloner, clips[::-1], tmp_path / "reversed") == spoken
    for path in speak(cloner, clips, tmp_path / "resumed"):
        if "/b.1." in path or "/d.0." in path:
            (tmp_path / "resumed" / path).unlink()
    assert speak(cloner, clips, tmp_path / "resumed") == spoken


def test_two_ranks_make_the_files_of_one(
    cloner: VoiceCloner, requests: list[SpeechRequest], spoken: dict[str, bytes], tmp_path: Path
) -> None:
    made: list[dict[str, bytes]] = []
    for rank in (0, 1):
        with pytest.raises(KeyError):  # the clips of the other rank are not gathered here
            speak(cloner, clips_of(requests), tmp_path / str(rank), ranks=OneOf(rank, rank, 2))
        made.append(
            {
                str(path.relative_to(tmp_path / str(rank))): path.read_bytes()
                for path in (tmp_path / str(rank)).rglob("*")
                if path.suffix in (".npy", ".wav")
            }
        )
    assert all(made) and not made[0].keys() & made[1].keys()
    assert made[0] | made[1] == spoken


def test_batches_have_similar_lengths_and_depend_on_the_set_alone(
    cloner: VoiceCloner, requests: list[SpeechRequest]
) -> None:
    clips = clips_of(requests)
    batches = [[clip.name for clip in batch] for batch in batches_of(clips, cloner, 3)]
    assert batches == [["b.0", "b.1", "a.0"], ["a.1", "c.0", "c.1"], ["d.0", "d.1"]]
    assert [[c.name for c in batch] for batch in batches_of(clips[::-1], cloner, 3)] == batches
    long = replace(requests[0], pieces=requests[0].pieces * 5)
    assert [len(batch) for batch in batches_of([ClipToSpeak(long, 0), *clips[2:]], cloner, 3)] == [3, 3, 1]


def test_a_long_text_is_one_clip_of_its_pieces(demo: Path, cloner: VoiceCloner, tmp_path: Path) -> None:
    reference = AudioContent(audio_url=str(demo / "clips/amal/train_01.wav"))
    text = "نعم. لا. شكرا. صباح الخير."
    request = request_of_text("long", text, reference, "كيف حالك", "voice_clone", letters_per_piece=8)
    clip = ClipToSpeak(request, 0)
    assert len(request.pieces) >= 3
    records = speak_set(cloner, [clip], tmp_path, "base", batch_size=2, ranks=Ranks())
    alone = [
        cloner.speak_pieces([(piece, request.base_dir)], [seed])[0].codes
        for piece, seed in zip(request.pieces, clip.seeds(), strict=True)
    ]
    codes_KT = ClipFile(tmp_path, "base", "long.0").codes_KT()
    assert torch.equal(codes_KT, torch.cat(alone, dim=1))
    record = records["long", 0]
    assert (record.frames, record.ended) == (codes_KT.shape[1], False)
    assert len(record.failures) == len(request.pieces) and "no end within" in record.failures[0]
    pauses = 0.15 * (len(request.pieces) - 1)
    assert record.seconds == pytest.approx(record.frames / 25 + pauses, abs=1e-3)


def test_base_and_adapters_draw_the_same_numbers(requests: list[SpeechRequest]) -> None:
    one, other = ClipToSpeak(requests[0], 0), ClipToSpeak(replace(requests[0]), 0)
    assert one.seeds() == other.seeds()
    seeds = [tuple(clip.seeds()) for clip in clips_of(requests, (0, 1, 2))]
    assert len(set(seeds)) == len(seeds)


def test_adapters_of_any_rank_leave_the_base_as_it_was(demo: Path, tmp_path: Path) -> None:
    """The weights are loaded once; base, adapter, another adapter and base again."""
    for number, settings in enumerate(
        [{"lora_rank": 4}, {"lora_rank": 16, "use_dora": True, "lora_targets": ["heads"]}]
    ):
        model = HiggsAudioModel.from_pretrained(demo / "model")
        random_adapter(tmp_path / str(number), model, **settings)
    alone = make_cloner(demo, settings=SETTINGS)
    adapted = [make_cloner(demo, adapter=tmp_path / str(number), settings=SETTINGS) for number in (0, 1)]
    base = alone.model
    batch = fixed_batch(base.config)
    before, weights = our_logits(base, batch).heads(), {id(p): p.clone() for p in base.parameters()}
    others = []
    for one in adapted:
        one.held_model = alone.held_model
        assert one.is_loaded and one.model is base
        others.append(our_logits(one.model, batch).heads())
    assert alone.model is base and not base.training
    after = our_logits(base, batch).heads()
    for head, logits in before.items():
        assert torch.equal(after[head], logits)
        assert not torch.equal(others[0][head], logits) and not torch.equal(others[1][head], others[0][head])
    held = {id(p): p for p in base.parameters()}
    assert all(torch.equal(held[key], tensor) for key, tensor in weights.items())
    alone.held_model.free()
    assert not alone.is_loaded and not adapted[0].is_loaded


def test_a_clip_depends_on_the_adapter_and_its_scale(demo: Path, requests: list[SpeechRequest], tmp_path: Path) -> None:
    adapter = random_adapter(tmp_path / "a", HiggsAudioModel.from_pretrained(demo / "model"))
    clip = ClipToSpeak(requests[0], 0)
    cloners = [make_cloner(demo, settings=SETTINGS)]
    cloners += [make_cloner(demo, adapter=adapter, adapter_scale=scale, settings=SETTINGS) for scale in (1.0, 0.5)]
    made_of = [clip.made_of(cloner.identity(clip.request)) for cloner in cloners]
    assert "adapter_scale" not in made_of[1] and made_of[2]["adapter_scale"] == 0.5
    assert {**made_of[2], "adapter_scale": None} == {**made_of[1], "adapter_scale": None}
    assert made_of[0] != made_of[1]


def test_codes_alone_are_spoken_like_codes_with_a_codec(
    demo: Path, cloner: VoiceCloner, requests: list[SpeechRequest], spoken: dict[str, bytes], tmp_path: Path
) -> None:
    reference = requests[0].references()[0]
    codes_KT = cloner.clips.of(reference, Path())
    name = codes_name(reference)
    path = tmp_path / "codes.safetensors"
    identity = cloner._checkpoints["audio_tokenizer"]
    write_codes_file(path, {name: tuple(codes_KT.shape)}, [codes_KT], identity, 25)
    paths = {"model_path": str(demo / "model"), "audio_tokenizer_path": "no_codec", "codes": [path]}
    alone = short(VoiceCloner(**paths, device="cpu", settings=SETTINGS))
    assert alone.speaks_codes_only
    assert alone.check_references(requests) == (cloner.check_references(requests)[0], [])
    found = speak(alone, clips_of(requests), tmp_path / "out")
    assert found == {name: content for name, content in spoken.items() if name.startswith("codes")}
    with pytest.raises(InputError, match="there is no codec, so there are no waveforms"):
        alone.speak("نعم", demo / "clips/amal/train_01.wav", "كيف حالك")


def test_codes_of_another_codec_are_refused(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    write_codes_file(path, {"a": (8, 3)}, [torch.zeros(8, 3)], "another", 25)
    assert CodesFiles([path], 8, 1024).codec == "another"
    with pytest.raises(InputError, match="made by the codec another, and --audio_tokenizer_path is"):
        make_cloner(demo, codes=[path])


def test_a_clip_without_a_frame_is_kept(tmp_path: Path) -> None:
    file = ClipFile(tmp_path, "base", "a.0")
    facts = {"ended": True, "failures": ["empty"], "frames": 0, "seconds": 0.0}
    made_of = {"seed": 0, "texts": ("a",)}
    empty = torch.zeros((8, 0), dtype=torch.long)
    record = file.write(made_of, empty, torch.zeros(0), 24_000, **facts, compute_seconds=0.1, peak_memory_gb=1.0)
    assert record.audio_sha256 is None and file.codes_KT().shape == (8, 0)
    assert file.found({"seed": 0, "texts": ["a"]}) == record
    assert file.found({"seed": 1, "texts": ["a"]}) is None
