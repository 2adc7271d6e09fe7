"""Speech as it is generated: codes are decoded in overlapping windows while the next ones are drawn.

    for sound in stream_speech(cloner, cloner.request("...", reference="voice.wav", reference_text="...")):
        play(sound.samples)

A frame is complete K columns after the first column of all bos, because of the delay pattern: after c columns, c - K
frames are complete, and the K - 1 frames after them are known in part. A piece of sound is decoded once
``StreamSettings.lookahead_frames`` complete frames follow it. The window reaches as far to the left as the decoder
hears, and to the right over the frames that are known in part too::

    frames      0 1 2 3 4 5 6 7 8 9        # known whole   + known in part   . not known   K = 4
    10 columns  # # # # # # + + + .
                    |---|                  the piece: frames 2 and 3, with two complete frames after it
                |-----------------|        the window that is decoded

What differs from the whole is the part of the window's right side that is not known yet. At a seam, the end of one
window fades into the beginning of the next. ``docs/streaming.md`` has the measured differences.
"""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from boson_multimodal.audio_processing.higgs_audio_tokenizer import HiggsAudioTokenizer
from boson_multimodal.errors import raise_if_any
from boson_multimodal.model.higgs_audio.generation import decoding_steps
from boson_multimodal.seeds import seed_of
from voice_cloning.speech.audio import faded_in, faded_out, pause, rising
from voice_cloning.speech.requests import SpeechRequest
from voice_cloning.speech.speech import SpokenPiece
from voice_cloning.speech.voice_cloner import VoiceCloner


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """When sound is decoded. The codes do not depend on it.

    Pieces grow with what was sent, because longer ones cost less. So does the lookahead, until nothing that the decoder
    hears is missing. With the shares of the defaults, a player never waits within a text piece if generation and
    decoding take at most two thirds of the time of the sound.

    Attributes:
        first_frames: the fewest frames of a piece, and those of the first.
        growth: the frames of a piece, as a share of those that were sent before it.
        most_frames: the most frames of a piece but the last, which is all that is left.
        lookahead_frames: complete frames after the first piece that must be there before it is decoded.
        lookahead_growth: how many more frames a later piece waits for, as a share of those that were sent before it.
        fade_seconds: how long the end of a window fades into the next; at most a frame.
    """

    first_frames: int = 1
    growth: float = 1 / 3
    most_frames: int = 25
    lookahead_frames: int = 3
    lookahead_growth: float = 1 / 6
    fade_seconds: float = 0.010

    def __post_init__(self) -> None:
        least = {"first_frames": 1, "growth": 0, "most_frames": 1, "lookahead_frames": 1, "lookahead_growth": 0}
        least |= {"fade_seconds": 0}
        problems = [
            f"{name} is {getattr(self, name)}; it must be a number from {lowest}"
            for name, lowest in least.items()
            if not lowest <= getattr(self, name) < math.inf
        ]
        if self.most_frames < self.first_frames:
            problems.append(f"most_frames is {self.most_frames}; it must be at least first_frames, {self.first_frames}")
        raise_if_any("wrong settings of a stream", problems)


@dataclass(frozen=True)
class StreamedSound:
    """A piece of sound, to be played after the one before.

    Attributes:
        samples: (samples,) in -1..1; none if a text piece ended before its first frame.
        sampling_rate: samples per second.
        start: the number of samples before it.
        piece: the index of the text piece.
        columns: how many columns of this text piece had been generated.
        spoken: the codes of the whole text piece and whether it ended by itself, with its last sound; else None.
    """

    samples: Tensor
    sampling_rate: int
    start: int
    piece: int
    columns: int
    spoken: SpokenPiece | None


class WindowDecoder:
    """Turns the growing columns of one text piece into sound, each frame once.

    Args:
        codec: the codec.
        num_frames_at_most: the frames of the whole if it does not end by itself.
    """

    def __init__(self, codec: HiggsAudioTokenizer, num_frames_at_most: int, settings: StreamSettings) -> None:
        self.codec, self.settings = codec, settings
        self.num_frames_at_most = num_frames_at_most
        self.next_frame = 0
        fade = min(round(settings.fade_seconds * codec.sampling_rate), codec.samples_per_frame)
        self._rising = rising(fade)
        self._tail: Tensor | None = None

    @property
    def size(self) -> int:
        """The frames of the next piece."""
        grown = int(self.settings.growth * self.next_frame)
        return min(max(self.settings.first_frames, grown), self.settings.most_frames)

    @property
    def lookahead(self) -> int:
        """The complete frames for which the next piece waits."""
        grown = self.settings.lookahead_frames + int(self.settings.lookahead_growth * self.next_frame)
        return max(self.settings.lookahead_frames, min(grown, self.codec.frames_after))

    def is_due(self, num_columns: int) -> bool:
        """Whether enough columns are there for the next piece of sound."""
        complete = num_columns - self.codec.num_codebooks
        return complete >= self.next_frame + self.size + self.lookahead

    def sound(self, columns_KC: Tensor, num_frames: int | None) -> Tensor:
        """Return the next piece of sound. It must be due.

        Args:
            columns_KC: (K, C) columns so far.
            num_frames: the frames of the whole, once an end is drawn.
        """
        codec, num_columns = self.codec, columns_KC.shape[1]
        end = self.next_frame + self.size
        known_frames = self.num_frames_at_most if num_frames is None else num_frames
        first = max(0, self.next_frame - codec.frames_before)
        last = min(end + codec.frames_after, known_frames, num_columns - 1)
        column_KT = 1 + torch.arange(first, last) + torch.arange(codec.num_codebooks)[:, None]
        codes_KT = columns_KC.gather(1, column_KT.clamp(max=num_columns - 1)).clamp(max=codec.codebook_size - 1)
        wave = codec.decode_known(codes_KT, column_KT < num_columns).float()
        wave = wave[(self.next_frame - first) * codec.samples_per_frame :]
        length = (end - self.next_frame) * codec.samples_per_frame
        piece = self._faded(wave[:length])
        self._tail = wave[length : length + self._rising.numel()]
        self.next_frame = end
        return piece

    def rest(self, codes_KT: Tensor) -> Tensor:
        """Return all sound that has not been returned, from the (K, T) codes of the whole."""
        window = codes_KT[:, max(0, self.next_frame - self.codec.frames_before) :]
        if self.next_frame == codes_KT.shape[1]:
            return torch.zeros(0)
        wave = self.codec.decode(window).float()
        return self._faded(wave[-(codes_KT.shape[1] - self.next_frame) * self.codec.samples_per_frame :])

    def _faded(self, wave: Tensor) -> Tensor:
        """Fade from the end of the window before into the beginning of this one."""
        if self._tail is None:
            return wave.clone()
        length = min(self._tail.numel(), wave.numel())
        rising = self._rising[:length]
        return torch.cat([self._tail[:length] * (1 - rising) + wave[:length] * rising, wave[length:]])


def stream_speech(
    cloner: VoiceCloner, request: SpeechRequest, settings: StreamSettings | None = None
) -> Iterator[StreamedSound]:
    """Speak a checked request, and yield its sound as it is generated.

    The codes are those of the first attempt of ``VoiceCloner.speak``. There is no second one, because sound that was
    played cannot be taken back: look at ``spoken.failure``. Whoever stops early, or closes the generator, ends the
    generation.

    Raises:
        InputError: if the cloner has no codec.
    """
    codec, start = cloner.codec, 0
    pieces = len(request.pieces)
    for index in range(pieces):
        has_begun = False
        with closing(_sounds_of_piece(cloner, request, index, settings or StreamSettings())) as sounds:
            for wave, columns, spoken in sounds:
                if start > 0 and not has_begun and wave.numel():
                    wave = torch.cat([pause(codec.sampling_rate), faded_in(wave, codec.sampling_rate)])
                if spoken is not None and index < pieces - 1:
                    wave = faded_out(wave, codec.sampling_rate)
                has_begun = has_begun or wave.numel() > 0
                yield StreamedSound(wave, codec.sampling_rate, start, index, columns, spoken)
                start += wave.numel()


def _sounds_of_piece(
    cloner: VoiceCloner, request: SpeechRequest, index: int, settings: StreamSettings
) -> Iterator[tuple[Tensor, int, SpokenPiece | None]]:
    """Yield the sound of a text piece as it is, with the number of columns so far; with the last its codes."""
    piece, added = request.pieces[index], cloner.config.audio_num_codebooks + 1
    limit = cloner.most_columns(piece)
    decoder = WindowDecoder(cloner.codec, limit - added, settings)
    batch_input = cloner.collator([cloner.prompt(piece, request.base_dir)])
    seed = seed_of(cloner.settings.seed, index, 0)
    with cloner.speaking() as model:  # no other adapter is switched on between two columns
        steps = decoding_steps(
            model, cloner.settings.sampling, **batch_input.prompts(), max_new_tokens=limit, seed=[seed]
        )
        with closing(steps):
            for state in steps:
                num_columns = state.num_columns[0]
                if num_columns < limit and not state.ended[0] and decoder.is_due(num_columns):
                    columns_KC, in_all = state.so_far(0)
                    num_frames = None if in_all is None else min(in_all, limit) - added
                    yield decoder.sound(columns_KC, num_frames), num_columns, None
    columns_KC, _ = state.so_far(0)
    spoken = cloner.spoken_piece(piece, columns_KC, state.ended[0])
    yield decoder.rest(spoken.codes), columns_KC.shape[1], spoken
