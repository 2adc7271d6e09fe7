"""Token strings and numbers that are fixed by the released Higgs Audio v2 checkpoint."""

MODEL_ID = "bosonai/higgs-audio-v2-generation-3B-base"
MODEL_REVISION = "10840182ca4ad5d9d9113b60b9bb3c1ef1ba3f84"
"""The last revision of the released model in the original layout."""
AUDIO_TOKENIZER_ID = "bosonai/higgs-audio-v2-tokenizer"
AUDIO_TOKENIZER_REVISION = "403fbacf2f60caaa102f893fdfabb694619b2417"
"""A revision of the released codec in transformers' layout."""

IGNORE_INDEX = -100
"""The label of positions without loss (the default ``ignore_index`` of ``torch.nn.functional.cross_entropy``)."""

BEGIN_OF_TEXT = "<|begin_of_text|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
END_OF_MESSAGE = "<|eom_id|>"
"""Ends an assistant turn if the next turn is also the assistant's."""
RECIPIENT = "<|recipient|>"

AUDIO_BOS = "<|audio_bos|>"
AUDIO_OUT_BOS = "<|audio_out_bos|>"
AUDIO_EOS = "<|audio_eos|>"
AUDIO_IN = "<|AUDIO|>"
"""The slot of a reference clip in a user or system turn. ``forward`` expands it to the clip's delayed code columns."""
AUDIO_OUT = "<|AUDIO_OUT|>"
"""The slot of a clip in an assistant turn."""

SCENE_START, SCENE_END = "<|scene_desc_start|>", "<|scene_desc_end|>"
"""Stand around the description of the recording in a system turn. A file's own system turn may hold them."""

RESERVED_IN_TEXT = (
    BEGIN_OF_TEXT,
    START_HEADER,
    END_HEADER,
    END_OF_TURN,
    END_OF_MESSAGE,
    RECIPIENT,
    AUDIO_BOS,
    AUDIO_OUT_BOS,
    AUDIO_EOS,
    AUDIO_IN,
    AUDIO_OUT,
)
"""The tokens that mark turns and audio slots. A text part must not contain them: it could fake a turn or a slot."""

CODEC_SAMPLE_RATE = 24_000
"""Audio samples per second that the released codec reads and writes."""

FRAMES_PER_SECOND = 25
"""Code frames per second of the released codec."""
