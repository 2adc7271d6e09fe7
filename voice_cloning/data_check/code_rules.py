"""Rules for codes: passages of equal frames, and ends that are unlike the ends of the other clips."""

import math
from collections.abc import Sequence

from voice_cloning.data_check.clip_measures import ClipMeasures
from voice_cloning.data_check.code_measures import CodeMeasures, rarer_at_the_end
from voice_cloning.data_check.findings import Findings
from voice_cloning.data_check.sample_rules import Measures
from voice_cloning.data_check.samples import CheckedSample

STILL_SECONDS = 0.5
"""Equal frames in a row from which a clip is reported. 21,778 clips of real speech had at most 3 frames (0.12 s)."""
STILL_SHARE = 0.25
"""Share of frames that equal the frame before; the same clips had at most 0.08."""
LOOP_SECONDS = 0.2
"""Length of a repeated passage from which a clip is reported. In the same clips, single frames were repeated."""
RARER_AT_THE_END = 20.0
"""A clip is reported if the codes of its last frame are this much rarer at the ends of the other clips than inside."""
FEWEST_ENDS = 1000
"""With fewer different clips, too little is known about their ends."""


def check_codes(samples: Sequence[CheckedSample], measures: Measures, findings: Findings) -> None:
    """Add the findings on codes to ``findings``."""
    ends = _unlike_ends([measures[used.clip] for sample in samples for used in sample.clips])
    for sample in samples:
        for used in sample.clips:
            m = measures[used.clip]
            if m.codes is None or m.problems:
                continue
            for detail in repeats(m.codes, m.codes.frames / m.seconds):
                findings.add("repeated_codes", sample.sample_id, f"{used.where}: {detail}")
            if m.content in ends:
                detail = f"{used.where}: its last frame is {ends[m.content]:.0f} times rarer at ends than inside clips"
                findings.add("cut_end", sample.sample_id, detail)


def repeats(codes: CodeMeasures, frames_per_second: float) -> list[str]:
    """Return what is repeated in the codes of a clip."""
    found = []
    seconds = codes.longest_still / frames_per_second
    if codes.longest_still > 1 and seconds >= STILL_SECONDS:
        found.append(f"{codes.longest_still} equal frames in a row ({seconds:.2f} s)")
    elif codes.frames > 1 / STILL_SHARE and codes.still_share > STILL_SHARE:
        found.append(f"{100 * codes.still_share:.0f} % of its frames equal the frame before")
    seconds = codes.longest_loop / frames_per_second
    if codes.longest_loop > 1 and seconds >= LOOP_SECONDS:
        found.append(
            f"a passage of {codes.longest_loop} frames ({seconds:.2f} s) repeats the frames {codes.loop_lag} before it"
        )
    return found


def _unlike_ends(measures: Sequence[ClipMeasures]) -> dict[str, float]:
    """Return the content of each clip whose end is unlike the others, with how much rarer its last codes are there."""
    clips = {m.content: m.codes.first_codes for m in measures if m.codes and not m.problems and m.codes.frames > 1}
    if len(clips) < FEWEST_ENDS:
        return {}
    rarer = rarer_at_the_end(list(clips.values()))
    return {
        content: math.exp(value)
        for content, value in zip(clips, rarer.tolist(), strict=True)
        if value > math.log(RARER_AT_THE_END)
    }
