"""Test the flags of tools.merge_adapter. Its exports are tested in tests/voice_cloning/adapters."""

from pathlib import Path

import pytest

from tools import merge_adapter as tool


def test_flags_that_do_not_go_together_end_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needed = ["--adapter", str(tmp_path), "--output", str(tmp_path / "out"), "--layout", "original"]
    for flags, message in (
        (needed, "--model_path is needed to merge"),
        ([*needed, "--adapter_only", "--torch_dtype", "bfloat16"], "--torch_dtype is for merging only"),
        ([*needed, "--model_path", "a/b", "--codec_id", "a/c"], "--codec_id is for merging with --layout transformers"),
        (
            [*needed[:-1], "transformers", "--adapter_only", "--bundle_codec", str(tmp_path)],
            "--bundle_codec is for merging with --layout transformers only; no other output names a codec",
        ),
    ):
        with pytest.raises(SystemExit) as end:
            tool.main(flags)
        assert end.value.code == 2 and message in capsys.readouterr().err
