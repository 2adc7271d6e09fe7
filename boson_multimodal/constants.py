"""Strings and numbers that the released Higgs Audio v2 checkpoint fixes."""

MODEL_ID = "bosonai/higgs-audio-v2-generation-3B-base"
MODEL_REVISION = "10840182ca4ad5d9d9113b60b9bb3c1ef1ba3f84"
"""Last revision of the released model in the original layout."""
AUDIO_TOKENIZER_ID = "bosonai/higgs-audio-v2-tokenizer"
AUDIO_TOKENIZER_REVISION = "403fbacf2f60caaa102f893fdfabb694619b2417"
"""Revision of the released codec in transformers' layout."""

IGNORE_INDEX = -100
"""Label of a position that has no loss (the default ``ignore_index`` of ``torch.nn.functional.cross_entropy``)."""

BEGIN_OF_TEXT = "<|begin_of_text|>"
START_HEADER = "<|start_header_id|>"
END_HEADER = "<|end_header_id|>"
END_OF_TURN = "<|eot_id|>"
END_OF_MESSAGE = "<|eom_id|>"
"""Closes an assistant turn that another assistant turn follows."""
RECIPIENT = "<|recipient|>"

AUDIO_BOS = "<|audio_bos|>"
AUDIO_OUT_BOS = "<|audio_out_bos|>"
AUDIO_EOS = "<|audio_eos|>"
AUDIO_IN = "<|AUDIO|>"
"""Slot of a reference clip in a user or system turn; ``forward`` expands it to the clip's delayed code columns."""
AUDIO_OUT = "<|AUDIO_OUT|>"
"""Slot of a clip that an assistant turn speaks."""

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
"""Tokens that give a sample its structure: inside a text part they would forge a turn or an audio slot."""

CODEC_SAMPLE_RATE = 24_000
"""Samples per second that the released codec reads and writes."""

FRAMES_PER_SECOND = 25
"""Code frames per second of the released codec."""
