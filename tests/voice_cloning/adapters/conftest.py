"""A trained adapter and its base, made once a session."""

from pathlib import Path

import pytest
from peft import PeftModel

from arabic_voice_cloning_distributed_trainer import ArabicVoiceCloningDistributedTrainer
from boson_multimodal.model.higgs_audio import HiggsAudioModel
from boson_multimodal.model.higgs_audio.checkpoint_files import save_checkpoint
from boson_multimodal.model.higgs_audio.checkpoint_layouts import TRANSFORMERS
from tests.exported_adapters import EVERY_GROUP, arguments
from tests.training_runs import trainer
from tests.voice_cloning.speech.cloners import checkpoint_of
from tools import merge_adapter as tool
from voice_cloning.adapters.logit_comparison import Logits, fixed_batch, our_logits


@pytest.fixture(scope="session")
def trained(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a short run with adapters on every group of modules. Return its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    subject = trainer(demo, folder, learning_rate=1e-2, lora_targets=EVERY_GROUP)
    return subject.train().checkpoint


@pytest.fixture(scope="session")
def reference(demo: Path, trained: Path) -> Logits:
    """Compute the logits of base + adapter in fp32, loaded by PEFT."""
    model = PeftModel.from_pretrained(HiggsAudioModel.from_pretrained(demo / "model"), trained).eval()
    return our_logits(model, fixed_batch(model.get_base_model().config))


@pytest.fixture(scope="session")
def native_base(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the demo's model in the transformers layout."""
    folder = tmp_path_factory.mktemp("native") / "base"
    model = HiggsAudioModel.from_pretrained(demo / "model")
    save_checkpoint(model, model.config, folder, TRANSFORMERS)
    return folder


@pytest.fixture(scope="session")
def served(
    demo: Path, memorised: ArabicVoiceCloningDistributedTrainer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Merge the adapter that has memorised four clips. The files for servers name the demo's codec by its path."""
    output = tmp_path_factory.mktemp("served") / "model"
    codec = "--codec_id", str(demo / "audio_tokenizer")
    assert tool.main(arguments(demo, checkpoint_of(memorised), output, TRANSFORMERS, *codec)) == 0
    return output
