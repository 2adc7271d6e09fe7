"""Decides which word after a number is the noun that the number counts, and gives that noun its form.

A number agrees with a counted noun only. A word with a preposition, a particle, a pronoun or an adverb is none. Arabic
writes "in", "for", "as" and "and" as one letter onto the next word; ``_OWN_FIRST_LETTER`` lists the common nouns that
begin with such a letter of their own.
"""

import re
from functools import lru_cache

from arabic_text.characters import HARAKAT
from arabic_text.nouns import NOUN_OF_FORM, SCALE_WORDS
from arabic_text.numbers import Noun

_NOT_COUNTED = set(
    "في من إلى الى على عن حتى منذ مع بين قبل بعد خلال عند لدى ثم أو او أم بل لا لم لن ما أن إن لكن قد كان كانت "
    "كانوا يكون هو هي هم هن أنا نحن أنت هذا هذه ذلك تلك هؤلاء التي الذي الذين اللواتي اللاتي حيث إذا إذ إذن عندما "
    "كما كل بعض غير سوى أي نحو حوالي فقط تقريبا أيضا أكثر أقل أكبر أصغر هنا هناك الآن أمس اليوم غدا شهد شهدت حسب "
    "وفق ضد دون بدون عبر خاصة عادة فجأة مباشرة مقارنة نتيجة إضافة اضافة علاوة كافة عامة نيابة رغبة حقيقة صراحة "
    "بداية نهاية غداة عشية سوية زيادة تارة مجددة متواصلة فورا جميعا معا كاملة واحدة منها منهم منه فيها فيه عليها "
    "عليه لها له لهم بها به بهم".split()
)
"""Particles, pronouns, adverbs and words that are used as prepositions."""
_OWN_FIRST_LETTER = set(
    "بذلة بسمة بصلة بطيخة بومة بغلة بيئة بنية بهيمة برقية برمجية بروفة باذنجانة بوصة بالوعة بدعة بشرة بطانة بكرة "
    "بلوزة لوزة لذة لدغة لسعة لطمة لعنة لغز لفافة لفتة لقيمة لكنة ليفة لبؤة لاصقة لاحقة لازمة لاقطة كمامة كرامة "
    "كسارة كسوة كشافة كفالة كنافة كنية كوفية كوة كابينة كاسة كرتونة كرفانة كتابة كفاءة كلفة كائن كشك كنز كهف وصلة "
    "ورطة وخزة وعاء ومضة وزنة وثبة وقعة بطاقة بلدة بلدية بقرة بيضة بصمة بطة بركة بعثة بذرة بدلة بطلة بقعة باحة باقة "
    "باخرة بادرة بائعة باحثة بحيرة بناية بوابة بطارية بندقية بطانية بلاطة برتقالة بطولة بارجة بضاعة بلورة بويضة "
    "بعوضة بكتيريا بئر بيت بيان بنك بند بلد بطل بحث برنامج برميل برج بحار باحث بائع بيضاء بنت بنات باص بستان بريد "
    "بالون لوحة لعبة لجنة لغة ليلة لقطة لحظة ليرة ليرات لافتة لكمة لمسة لمحة لمبة لبنة لاعبة لاعب لائحة لهجة لقمة "
    "لحية لفة لؤلؤة لاجئة لاجئ لتر لقاء لقاح لون لوح ليتر لغم لحن لقب ليمونة كلمة كرة كنيسة كلية كمية كعكة كتيبة "
    "كتلة كفة كأس كاميرا كاتبة كاتب كتاب كلب كرسي كيلو كيلومتر كيلوغرام كيلوجرام كيس كوب كوكب كلغ كاهن كادر "
    "كاتدرائية كارثة كاملة كنبة كذبة كدمة كسرة كبسولة كراسة كلبة ورقة وجبة وحدة وزارة وفاة ولاية وظيفة وثيقة وكالة "
    "وردة وسيلة وصفة وقفة وكيلة وليمة والدة وصية ولادة واقعة ورشة وديعة وسادة وعكة وصمة واحة وجهة ورم وزير وزيرة "
    "وفد ولد وطن وجه وقت وصف وسام وكيل والد وعد واجب".split()
)
"""Nouns whose first letter is no preposition or conjunction."""
_VOWELS = re.compile(f"[{HARAKAT}]")


def known_noun(word: str | None) -> Noun | None:
    """Return the known noun that has this form, without regard to marks."""
    return NOUN_OF_FORM.get(_VOWELS.sub("", word or ""))


@lru_cache(maxsize=10_000)
def may_be_counted(word: str) -> bool:
    """Return whether a word after a number may be the noun that it counts."""
    word = _VOWELS.sub("", word)
    if word in NOUN_OF_FORM:
        return True
    if len(word) < 3 or word in _NOT_COUNTED or word.startswith(("ال", "وال", "فال", "بال", "كال", "لل")):
        return False
    return word[0] not in "وبلك" or word in _OWN_FIRST_LETTER or word.removesuffix("ا") in _OWN_FIRST_LETTER


@lru_cache(maxsize=10_000)
def takes_construct(word: str) -> bool:
    """Return whether an unknown word after "two hundred" is surely a noun: not a verb and not an adjective."""
    bare = _VOWELS.sub("", word)
    return may_be_counted(word) and bare[0] not in "يتنأس" and not bare.endswith(("ية", "وا", "ون", "ا", "ت"))


def counts(word: str, value: int, label: str, before_digit: bool) -> bool:
    """Return whether a number counts the word after it.

    Args:
        label: what ``Context.label`` says about the word before the number.
        before_digit: whether another number follows the word.
    """
    if not word or label == "number" or not may_be_counted(word):
        return False
    if not label:
        return True
    noun, rest = known_noun(word), value % 100
    if noun is None or before_digit or rest in (1, 2):
        return False
    if 3 <= rest <= 10:
        return _VOWELS.sub("", word) == noun.plural
    return label == "definite"


def form_after(value: int, noun: Noun, word: str) -> str:
    """Return the noun as the number needs it. A noun with vowels, or in another form than the singular, stays."""
    if word != noun.singular:
        return word
    if 3 <= value % 100 <= 10:
        return noun.plural
    return noun.accusative if 11 <= value % 100 <= 99 and word not in SCALE_WORDS else word
