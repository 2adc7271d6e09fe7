"""What stands before a number: the words that decide its case, its gender and whether it is a year or a name."""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from arabic_text.characters import ARABIC, HARAKAT
from arabic_text.nouns import MONTH_ENDS

LOOKED_BACK, _TWO_WORDS_BACK = 80, 40
"""Characters before a number that are looked at."""
CLITICS = set("و ف ب ل ك ال وال فال بال كال لل وب ول وك فب فل".split())
"""Particles that are written together with the next word."""
OBLIQUE_CLITICS = set("ب ل ك بال كال لل وب ول وك فب فل".split())

_LONGEST_CLITIC = max(map(len, CLITICS))
_OWN_LETTERS = set("بلكف")
"""One-letter particles that can also be the letter of a name, as in "vitamin B12"."""

_PREPOSITIONS = set(
    "في من إلى الى على عن حتى منذ مذ خلال بعد قبل بين مع دون بدون بلا فوق تحت كل عبر ضد حول أمام وراء داخل خارج ضمن "
    "عند لدى سوى غير رغم وسط أثناء طوال طيلة بحلول عقب إثر فور لغاية مقابل مثل جميع معظم بعض باستثناء نحو حوالي "
    "قرابة زهاء قبيل بعيد".split()
)
_CONSTRUCT = set(
    "عام عامي سنة سنتي أعوام سنوات يوم ليلة شهر العام العامين السنة الأعوام السنوات الفترة فترة موسم صيف شتاء خريف "
    "مطلع أوائل أواخر نهاية بداية منتصف أول آخر أفضل أكبر أصغر أحسن أهم أغنى أقوى نسبة مدة سعر قيمة مبلغ سرعة معدل "
    "فارق وزن طول عمق عرض ارتفاع مسافة حجم قوة سن عمر حدود مشارف غضون ظرف أصل واقع مقدار عدد تكلفة ثمن نحو حوالي "
    "قرابة زهاء أكثر أقل غير سوى كل ولد ولدت توفي توفيت مات ماتت الموافق صباح مساء فجر عشية غداة ليل".split()
)
"""Words after which a number is in construct, as they are and after bi-, li- and ka-. After "was born" the word for
year is left out."""
_EVENTS = set(
    "نسخة طبعة غاية دورة مونديال كأس أولمبياد ثورة حرب نكسة نكبة أزمة انتخابات دستور موازنة ميزانية رؤية خطة أجندة "
    "قانون معاهدة اتفاقية اتفاق مؤتمر قمة زلزال انقلاب انتفاضة هجمات أحداث تعداد إحصاء دفعة خريجي مواليد طراز عدوان "
    "جيل بطولة إكسبو تأسس تأسست أسس أسست افتتح".split()
)
"""Words after which a year is in construct, though another number need not be."""
LAST_YEAR = 2199

MASCULINE_YEAR = set("عام العام عامي العامين أعوام الأعوام".split())
FEMININE_YEAR = set("سنة السنة سنتي السنتين سنوات السنوات".split())
CITED_YEAR = set("لسنة ولسنة".split())
"""Laws and budgets are cited with this word. The year after it is read as a bare number, without agreement."""
HOUR_WORDS = {"الساعة", "للساعة", "والساعة", "بالساعة"}

_NUMBER_WORDS = set("رقم الرقم رقمه رقمها رقمك رقمي أرقام الأرقام الرقمين رقمين".split())
_LABELS = set(
    "بند مادة فقرة صفحة صفحات غرفة رحلة قناة شارع حافلة خط طريق عمارة شقة مبنى لوحة سطر تمرين سؤال درس وحدة جدول "
    "شكل صورة نموذج بوابة رصيف مقعد محطة مجموعة فوج كتيبة لواء ملحق قاعة عيادة فصل باب نسخة إصدار موديل مستوى منفذ "
    "آية آيات سورة حلقة جزء مرحلة طابق صف ممر مخرج قطعة بلوك فيلا محل مكتب شباك ملف قضية مربع دائرة فرقة قطار بناية "
    "مدخل منزل بيت ص طبعة مجلد حزب قسم كلية لجنة منطقة عنبر سرير خيمة جناح بئر ميناء مدرج ملعب قرار مرسوم قانون".split()
)
_DEFINITE_LABELS = {"ال" + label for label in _LABELS if label != "ص"}
_MODELS = set(
    "بوينغ بوينج إيرباص ايرباص ويندوز وندوز آيفون ايفون أيفون آيباد ايباد أندرويد اندرويد غالاكسي جالاكسي بلايستيشن "
    "بيكسل نوكيا ميغ ميج سوخوي ميراج رافال بايثون جافا أوفيس اوفيس تيسلا كوفيد".split()
)
VERSIONED = set("نسخة النسخة إصدار الإصدار اصدار الاصدار بايثون جافا أندرويد اندرويد ويندوز".split())
"""Words after which two numbers with a point between them are a version."""
METRES_AFTER = set("ارتفاع طول عرض عمق مسافة سباق بعد علو قطر محيط سماكة سمك انخفاض منسوب".split())
"""Words of length, near which the letter meem means metres."""

_OBLIQUE_SIGN = re.compile(r"(?:[\u00d7\u00f7=\u2264\u2265]|[0-9] ?[-*<>]) ?\Z")
"""A sign whose word puts the following number in genitive."""
_ERA = r"(?:هـ|ه|م|ق\.م|ق\.هـ)"
_CHAIN = re.compile(rf"(?:[0-9]+(?:[-/][0-9]+)? ?{_ERA} ?[/(-] ?|[0-9][0-9.,]* ?(?:{_ERA} ?)?(?:و|أو |او ))+(?:ال)?\Z")
"""Earlier numbers of the same kind: the words before the first of them count for the last one too."""
_ENDS_OF_CHAIN = set("/(-وال") | {""}
_ERA_CHAIN = re.compile(r"[0-9] ?(?:هـ|ق\.م|ق\.هـ|ه) ?[/(-][0-9 م/()-]*(?:إلى )?\Z")
"""Years of another era directly before, with a slash, a bracket or a dash, and perhaps the first year of a range."""
_POSSESSIVES = ("ه", "ها", "هم", "هن", "نا", "كم", "ي")
"""Endings of nouns that cannot be in construct with a number."""
_ABBREVIATED_DEATH = re.compile(r"(?:\A|[ (])ت(?=\. ?\Z)")
_YEAR_ADJECTIVES = set("هجري هجرية ميلادي ميلادية دراسي دراسية مالي مالية".split())
_TWO_WORDS = re.compile(rf"(?:([{ARABIC}]+) +)?([{ARABIC}]+)[ :(]*\Z")
_TOUCHING = re.compile(rf"[{ARABIC}]*\Z")
_NAMED_BY_LETTER = re.compile(r"(?:\A|[ (])(?:ال)?(?:فيتامين|بند|فقرة|فئة|مجموعة|نموذج) [بلكف]\Z")
_VOWELS = re.compile(f"[{HARAKAT}]")


@dataclass(frozen=True)
class Context:
    """The text before a match.

    Attributes:
        text: the last characters before the match.
        clitic: a particle that is joined to the match, or an empty string.
    """

    text: str
    clitic: str

    @classmethod
    def of(cls, match: re.Match[str]) -> "Context":
        text = match.string[max(0, match.start() - LOOKED_BACK) : match.start()]
        touching = _TOUCHING.search(text[-_LONGEST_CLITIC - 1 :])[0] if match[0][:1] != " " else ""
        is_name = touching in _OWN_LETTERS and _NAMED_BY_LETTER.search(text)
        return cls(text, touching if touching in CLITICS and not is_name else "")

    @cached_property
    def words(self) -> tuple[str, str]:
        """The two words before the match, in order and without vowels; a joined particle and a chain are skipped."""
        before = self.text
        if before.rstrip()[-1:] in _ENDS_OF_CHAIN:
            before = _CHAIN.sub("", before)
        if self.clitic in ("ال", "و"):
            before = before.removesuffix(self.clitic)
        if before[-3:].rstrip().endswith("ت.") and _ABBREVIATED_DEATH.search(before):
            before = before.rstrip(" .")
        found = _TWO_WORDS.search(before.rstrip("0123456789")[-_TWO_WORDS_BACK:])
        return (without_vowels(found[1] or ""), without_vowels(found[2])) if found else ("", "")

    @property
    def word(self) -> str:
        return self.words[1]

    @property
    def continues_era(self) -> bool:
        """Whether a year with the mark of an era, and a slash or dash, stand directly before."""
        return bool(_ERA_CHAIN.search(self.text))

    @property
    def label(self) -> str:
        """``number``, ``indefinite`` or ``definite`` if the word before is what is numbered, else an empty string."""
        word = plain_word(self.word)
        is_number_of = word.startswith("ال") and plain_word(self.words[0]) in _NUMBER_WORDS
        if word in _NUMBER_WORDS or is_number_of or self.text.endswith("#"):
            return "number"
        if word in _MODELS:
            return "indefinite"
        if word in _LABELS:
            return "" if self.words[0] == "كل" else "indefinite"
        return "definite" if word in _DEFINITE_LABELS else ""

    @property
    def year(self) -> str:
        """``masculine`` or ``feminine`` if the word before is "year", for the gender of the number; else empty."""
        if self.word in CITED_YEAR:
            return "masculine"
        word = plain_word(self._year_word)
        return "masculine" if word in MASCULINE_YEAR else "feminine" if word in FEMININE_YEAR else ""

    @property
    def _year_word(self) -> str:
        """The word before the number, or the one before its adjective, as in "the school year"."""
        noun, word = self.words
        is_adjective = word in _YEAR_ADJECTIVES or (word.startswith("ال") and plain_word(noun).startswith("ال"))
        return noun if is_adjective and plain_word(noun) in MASCULINE_YEAR | FEMININE_YEAR else word

    @property
    def is_version(self) -> bool:
        return plain_word(self.word) in VERSIONED

    @property
    def is_length(self) -> bool:
        """Whether one of the two words before is one of length, with any ending ("its height")."""
        return any(_word_of_length(word) for word in self.words)

    def names_a_year(self, value: int) -> bool:
        """Return whether a bare number is a year in construct with the indefinite noun before it ("report 2012")."""
        word = self.word
        if not 1900 <= value < 2100 or len(word) < 3 or self.label or self.text[-1:] != " ":
            return False
        return not word.startswith(("ال", "لل", "بال", "وال", "فال", "كال")) and not word.endswith(_POSSESSIVES)

    def is_oblique(self, value: int | None = None, is_date: bool = False) -> bool:
        """Return whether the number is in genitive; ``value`` is the number, and ``is_date`` says that it is a day."""
        if self.clitic in OBLIQUE_CLITICS or _OBLIQUE_SIGN.search(self.text):
            return True
        if governs_genitive(self.word) or self.word in MONTH_ENDS:
            return True
        if not is_date and not (value is not None and 1000 <= value <= LAST_YEAR):
            return False
        return governs_genitive(self._year_word) or any(plain_word(word) in _EVENTS for word in self.words)


def without_vowels(word: str) -> str:
    return _VOWELS.sub("", word)


@lru_cache(maxsize=10_000)
def plain_word(word: str) -> str:
    """Return a word without "and" and one-letter prepositions before it, if a word that decides readings remains."""
    for candidate in (word, word[1:] if word[:1] in ("و", "ف") else word):
        if candidate in _DECIDING:
            return candidate
        shortened = "ال" + candidate[2:] if candidate.startswith("لل") else candidate[1:]
        if candidate[:1] in ("ب", "ل", "ك") and shortened in _DECIDING:
            return shortened
    return word


@lru_cache(maxsize=10_000)
def governs_genitive(word: str) -> bool:
    """Return whether a number after the word is in genitive."""
    return word in _PREPOSITIONS or word[1:] in _PREPOSITIONS and word[0] in "وف" or plain_word(word) in _CONSTRUCT


@lru_cache(maxsize=10_000)
def _word_of_length(word: str) -> bool:
    bare = re.sub(r"\A[وف]?(?:ال|لل|[بلك])?", "", word)
    return any(stem in METRES_AFTER for stem in (word, bare, re.sub("(?:ه|ها|هما|هم)\\Z", "", bare)))


_NAMES = _NUMBER_WORDS | _LABELS | _DEFINITE_LABELS | _MODELS | VERSIONED
_DECIDING = _CONSTRUCT | _EVENTS | MASCULINE_YEAR | FEMININE_YEAR | _NAMES
