"""Names of systems, and what is refused before a model is looked at."""

from pathlib import Path

import pytest

from boson_multimodal.errors import InputError
from voice_cloning.evaluation.systems import System, SystemSettings, find_systems, mismatches, short_names


def settings(tmp_path: Path, **fields: object) -> SystemSettings:
    return SystemSettings(model_path=str(tmp_path / "model"), audio_tokenizer_path="no_codec", **fields)


def folders(tmp_path: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    return tuple(str(tmp_path / name) for name in names)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/a/checkpoint-000200"], ["checkpoint-000200"]),
        (["/runs/a/best", "/runs/b/best"], ["a/best", "b/best"]),
        (["/x/a/best", "/y/a/best", "/y/b/last"], ["x/a/best", "y/a/best", "last"]),
        (["/runs/a/base", "/runs/reference"], ["a/base", "runs/reference"]),
        (["/base", "/a"], ["base-2", "a"]),
        (["/runs/a", "/runs/a"], ["runs/a", "runs/a-2"]),
    ],
)
def test_names_are_short_and_unique(paths: list[str], names: list[str]) -> None:
    assert short_names(paths) == names


def test_systems_come_in_the_order_base_adapters_merged_wavs(tmp_path: Path) -> None:
    given = folders(tmp_path, "one", "two", "wavs")
    found = find_systems(settings(tmp_path, wavs=given[2:], merged=given[1:2], adapters=given[:1]))
    assert [(system.name, system.kind) for system in found] == [
        ("base", "base"),
        ("one", "adapter"),
        ("two", "merged"),
        ("wavs", "wavs"),
    ]
    assert [system.speaks for system in found] == [True, True, True, False]


def test_no_system_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no system to evaluate: give --adapter, --merged or --wavs"):
        find_systems(settings(tmp_path, base=False))


def test_all_wrong_folders_are_named_together(tmp_path: Path) -> None:
    (one,) = folders(tmp_path, "one")
    (tmp_path / "link").symlink_to(one)
    again = (one, f"{one}/", str(tmp_path / "link"))
    with pytest.raises(InputError) as raised:
        find_systems(settings(tmp_path, adapters=again, wavs=(str(tmp_path / "gone"),)))
    message = str(raised.value)
    assert f"--adapter {one}: is given 3 times" in message
    assert f"--wavs {tmp_path / 'gone'}: no such folder" in message


def test_the_base_is_not_evaluated_twice(tmp_path: Path) -> None:
    (model,) = folders(tmp_path, "model")
    with pytest.raises(InputError, match="is --model_path too, which is evaluated as the base"):
        find_systems(settings(tmp_path, merged=(model,)))
    assert [s.name for s in find_systems(settings(tmp_path, merged=(model,), base=False))] == ["model"]


def test_a_scale_needs_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--adapter_scale 0.5: there is no --adapter"):
        find_systems(settings(tmp_path, adapter_scale=0.5))


def test_systems_with_other_prompts_are_named() -> None:
    systems = [
        System("base", "base", "m", "voice_clone", "none"),
        System("a", "adapter", "a", "as_written", "none"),
        System("w", "wavs", "w", "as_written", "speech"),
    ]
    (warning,) = mismatches(systems)
    assert "differ in prompt_style (voice_clone: base; as_written: a)" in warning
    assert warning.endswith("; give --prompt_style or --prompt_template to ask all alike")
    assert mismatches(systems[1:]) == []
