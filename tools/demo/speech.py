"""Synthesises the demo's Arabic speech with a small source-filter formant synthesiser.

`synthesise(text, voice, rng)` makes a clip. `VOICES` and `SENTENCES` hold the voices and sentences of the demo;
`spoken_sentences()` lists all Arabic sentences. It does not sound like real Arabic, but clips of one voice resemble
each other, and so do clips of one text.
"""

import math
from typing import NamedTuple

import numpy as np

SAMPLE_RATE = 24000
STEP = 120  # samples per control frame of the synthesiser: 5 ms
MIN_SECONDS, MAX_SECONDS = 1.05, 2.45


class Voice(NamedTuple):
    """A voice: pitch in Hz; pitch_range relative to pitch; formant_scale, 1 for an adult male; breath from 0 to 1;
    rate, 1 for the durations of the tables.
    """

    pitch: float
    pitch_range: float
    formant_scale: float
    breath: float
    rate: float


VOICES = {
    "amal": Voice(205, 0.22, 1.16, 0.10, 1.05),
    "badr": Voice(105, 0.14, 0.97, 0.04, 0.95),
    "dina": Voice(245, 0.30, 1.22, 0.18, 1.15),
    "faris": Voice(135, 0.25, 1.03, 0.08, 0.85),
    "hana": Voice(225, 0.18, 1.19, 0.06, 0.95),
    "karim": Voice(118, 0.20, 0.94, 0.14, 1.10),
}
SENTENCES = {
    "amal": "صباح الخير يا صديقي / كيف حالك اليوم / الشمس تشرق مبكرا / أحب قراءة الكتب",
    "badr": "السماء صافية هذا المساء / نشرب الشاي بعد الغداء / المدينة جميلة في الليل / ذهب الولد إلى المدرسة",
    "dina": "البحر هادئ الآن / هذا كتاب جديد / وصل القطار متأخرا / أين تقع المكتبة",
    "faris": "الطقس بارد جدا / سافر أخي أمس / عندي سؤال قصير / شكرا على المساعدة",
    "hana": "مساء الخير جميعا / القهوة ساخنة جدا",
    "karim": "نلتقي غدا صباحا / الباب مفتوح دائما",
}

# Text for the tokenizer, and for the extra speech from which the codec's codebooks are drawn.
ARABIC_CORPUS = """
اللغة العربية من أكثر اللغات انتشارا / يتعلم الأطفال القراءة والكتابة في المدرسة / تشرق الشمس من الشرق وتغرب في الغرب
الصوت موجة تنتقل في الهواء / نستمع إلى الأخبار كل صباح / كان الطريق طويلا ولكن الرحلة ممتعة / ظهر القمر وغابت الغيوم
في البيت حديقة صغيرة وشجرة كبيرة / يعمل أبي مهندسا في شركة كبيرة / تسكن جدتي في قرية قريبة من الجبل / اخرج ثم ارجع
اشترينا خبزا وحليبا من السوق / سوف نسافر إلى البحر في الصيف / هل تريد كوبا من الماء / من فضلك أغلق النافذة والباب
الوقت من ذهب فلا تضيع وقتك / العلم نور والجهل ظلام / قال المعلم إن الدرس سهل / هذه سيارة جديدة وتلك سيارة قديمة
واحد اثنان ثلاثة أربعة خمسة / ستة سبعة ثمانية تسعة عشرة / السبت الأحد الاثنين الثلاثاء / الأربعاء الخميس الجمعة
أبيض وأسود وأحمر وأخضر وأزرق / القلب والعين واليد والوجه / ما اسمك؟ اسمي سالم، وأنا من عمان / أهلا وسهلا بكم
كَتَبَ الطّالِبُ الدَّرْسَ / السَّلامُ عَلَيْكُمْ وَرَحْمَةُ اللهِ / هٰذا بَيْتٌ كَبيرٌ / ذَهَبَتْ البِنْتُ إلى المَدْرَسَةِ
"""


def parts(text: str) -> list[str]:
    """Return the entries of a text block, which line ends and slashes separate."""
    return [part.strip() for line in text.strip().splitlines() for part in line.split("/")]


def spoken_sentences() -> list[str]:
    """Return all Arabic sentences of this module: those of the clips and those of the corpus."""
    return [text for block in (*SENTENCES.values(), ARABIC_CORPUS) for text in parts(block)]


class Phone(NamedTuple):
    """A speech sound.

    kind is V vowel, A approximant, N nasal, S or Z voiceless or voiced fricative, T or B voiceless or voiced stop.
    f1, f2, f3 and noise (centre of the friction or burst) are in Hz; seconds is the duration at rate 1.
    """

    kind: str
    f1: float
    f2: float
    f3: float
    noise: float
    seconds: float


SHORT_A = Phone("V", 680, 1350, 2500, 0, 0.075)
SHORT_I = Phone("V", 340, 2150, 2850, 0, 0.070)
SHORT_U = Phone("V", 360, 850, 2350, 0, 0.070)
LONG_A, LONG_I, LONG_U = (vowel._replace(seconds=2.0 * vowel.seconds) for vowel in (SHORT_A, SHORT_I, SHORT_U))
# Letters, kind, f1, f2, f3, noise, milliseconds.
CONSONANT_TABLE = """
ءأإآؤئ T 550 1400 2500 1500 50 / ب B 300 900 2300 700 75 / ت T 350 1750 2700 4200 85
ث S 350 1500 2600 6500 90 / ج Z 300 1900 2600 3000 90 / ح S 700 1350 2500 1800 100 / خ S 450 1200 2400 1400 100
د B 300 1750 2700 3500 70 / ذ Z 320 1500 2600 6000 70 / ر A 450 1350 2000 0 55 / ز Z 300 1700 2600 6200 85
س S 350 1700 2600 6500 110 / ش S 350 1900 2600 3200 115 / ص S 450 1100 2500 5500 115 / ض B 420 1050 2500 2600 80
ط T 430 1050 2500 3000 85 / ظ Z 420 1100 2500 5000 80 / ع A 720 1250 2450 0 80 / غ Z 420 1100 2400 1200 85
ف S 350 1100 2400 7500 95 / ق T 480 1100 2400 1600 85 / ك T 320 1900 2500 2300 85 / ل A 380 1450 2700 0 65
م N 270 1000 2300 0 80 / ن N 270 1600 2500 0 75 / ه S 550 1400 2500 1500 75
"""
CONSONANTS = {
    letter: Phone(kind, *map(float, numbers), float(ms) / 1000.0)
    for letters, kind, *numbers, ms in map(str.split, parts(CONSONANT_TABLE))
    for letter in letters
}
GLIDES = {"و": Phone("A", 330, 750, 2300, 0, 0.070), "ي": Phone("A", 300, 2250, 2950, 0, 0.070)}
VOWELS = {"ا": LONG_A, "ى": LONG_A, "\u0670": LONG_A, "ة": SHORT_A, "و": LONG_U, "ي": LONG_I}
VOWELS |= {"\u064e": SHORT_A, "\u0650": SHORT_I, "\u064f": SHORT_U}  # fatha, kasra, damma
TANWIN = {"\u064b": SHORT_A, "\u064d": SHORT_I, "\u064c": SHORT_U}
HAMZA_VOWEL = {"أ": SHORT_A, "إ": SHORT_I, "آ": LONG_A}
SHADDA, SUKUN = "\u0651", "\u0652"
# Amplitudes of (voicing, noise) by kind; stops are split into closure and burst in _controls.
LEVELS = {"V": (1.0, 0.0), "A": (0.6, 0.0), "N": (0.45, 0.0), "S": (0.0, 0.28), "Z": (0.35, 0.16)}


def _word_phones(word: str) -> list[Phone]:
    """Return the phones of a word from the tables; a short `a` separates consonants that have no written vowel."""
    phones: list[Phone] = []
    closed = False  # sukun: no vowel after the last consonant
    for i, char in enumerate(word):
        following = word[i + 1 : i + 2]
        vowel_before = bool(phones) and phones[-1].kind == "V"
        glide = char in GLIDES and (not phones or vowel_before or following in VOWELS or following in TANWIN)
        if char == SHADDA and phones:
            phones[-1] = phones[-1]._replace(seconds=1.6 * phones[-1].seconds)
        elif char in TANWIN:
            phones += [TANWIN[char], CONSONANTS["ن"]]
        elif char in VOWELS and not glide:
            phones.append(VOWELS[char])
        elif char in CONSONANTS or glide:
            # CVC.CV is allowed, but two consonants after a consonant are not: "ktb" is spoken "katb".
            if phones and not vowel_before and not closed and (len(phones) < 2 or phones[-2].kind != "V"):
                phones.append(SHORT_A)
            phones.append(GLIDES[char] if glide else CONSONANTS[char])
            if char in HAMZA_VOWEL and following not in VOWELS:
                phones.append(HAMZA_VOWEL[char])
        closed = char == SUKUN
    return phones


def _controls(text: str, voice: Voice) -> np.ndarray:
    """Return a sentence's (frames, 6) controls, a row per 5 ms: f1, f2, f3, noise centre in Hz, voicing, noise."""
    segments: list[tuple[float, Phone, float, float]] = [(0.06, SHORT_A, 0.0, 0.0)]
    for word in text.split():
        for phone in _word_phones(word):
            if phone.kind in "TB":
                voicing = 0.12 if phone.kind == "B" else 0.0
                segments.append((0.65 * phone.seconds, phone, voicing, 0.0))
                segments.append((0.35 * phone.seconds, phone, voicing, 0.35))
            else:
                segments.append((phone.seconds, phone, *LEVELS[phone.kind]))
        segments.append((0.03, segments[-1][1], 0.0, 0.0))
    segments.append((0.06, segments[-1][1], 0.0, 0.0))
    total = sum(seconds for seconds, *_ in segments) / voice.rate
    stretch = min(max(total, MIN_SECONDS), MAX_SECONDS) / total / voice.rate
    ends = np.round(np.cumsum([seconds for seconds, *_ in segments]) * stretch * SAMPLE_RATE / STEP).astype(int)
    rows = np.array([(p.f1, p.f2, p.f3, p.noise or 2500.0, av, an) for _, p, av, an in segments])
    tracks = np.repeat(rows, np.diff(ends, prepend=0), axis=0)
    # Formants glide over 35 ms, amplitudes change within 15 ms.
    for column, width in enumerate((7, 7, 7, 3, 3, 3)):
        padded = np.pad(tracks[:, column], width // 2, mode="edge")
        tracks[:, column] = np.convolve(padded, np.full(width, 1.0 / width), mode="valid")
    tracks[:, :3] *= voice.formant_scale
    return tracks


def _peak(freqs: np.ndarray, centre: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the (frames, bins) magnitude of a two-pole resonance at `centre` (frames, 1) Hz; it is 1 at 0 Hz."""
    ratio = freqs / centre
    return 1.0 / np.sqrt((1.0 - ratio**2) ** 2 + (freqs * bandwidth / centre**2) ** 2)


def synthesise(text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """Return `text` in `voice` as (samples,) float64 at 24 kHz, peak 0.6, 1.0 to 2.5 s, made by overlap-add."""
    tracks = _controls(text, voice)
    n_frames = len(tracks)
    length = n_frames * STEP
    position = np.linspace(0.0, 1.0, length)
    accents = np.sin(2 * math.pi * (position * len(text.split()) + rng.uniform()))
    drift = np.interp(position * 40, np.arange(41), rng.normal(0.0, 0.012, 41))
    pitch = voice.pitch * (1.0 + voice.pitch_range * (0.5 - position + 0.4 * accents) + drift)
    phase = np.cumsum(pitch) / SAMPLE_RATE
    # One pulse per period; the filter below adds the glottal tilt of -12 dB per octave.
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(SAMPLE_RATE / pitch)
    size = 4 * STEP
    window = np.hanning(size + 1)[:size] / 2.0  # at a hop of a quarter the windows sum to 1
    pad = (size - STEP) // 2
    sources = np.stack([pulses, rng.normal(0.0, 1.0, length)])
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(sources, ((0, 0), (pad, pad))), size, axis=1)[:, ::STEP]
    spectra = np.fft.rfft(frames * window, 2 * size)  # (2, frames, bins), with room for the filter to ring
    freqs = np.fft.rfftfreq(2 * size, 1.0 / SAMPLE_RATE)[None]
    tract = np.ones((n_frames, freqs.shape[1]))
    for column, bandwidth in enumerate((80.0, 100.0, 150.0)):
        tract *= _peak(freqs, tracks[:, column, None], bandwidth)
    tract *= _peak(freqs, np.full((n_frames, 1), 3600.0 * voice.formant_scale), 250.0)
    tilt = (freqs / 100.0) / (1.0 + (freqs / 250.0) ** 2)  # no energy at 0 Hz
    centre = tracks[:, 3, None]
    friction = np.exp(-0.5 * ((freqs - centre) / (0.25 * centre + 400.0)) ** 2)
    voiced = tracks[:, 4, None] * tract * tilt
    noisy = tracks[:, 5, None] * friction + 0.15 * voice.breath * voiced
    # The filter has zero phase and rings to both sides of a frame, so the frame goes to the middle of its padding.
    filtered = np.roll(np.fft.irfft(spectra[0] * voiced + spectra[1] * noisy, axis=-1), size // 2, axis=-1)
    out = np.zeros(length + 3 * size)
    for i in range(n_frames):
        out[i * STEP : i * STEP + 2 * size] += filtered[i]
    out = out[pad + size // 2 :][:length]
    return 0.6 * out / np.abs(out).max()
