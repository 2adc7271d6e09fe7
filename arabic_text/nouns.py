"""Nouns with their gender and forms, for the reading of numbers: currencies, units, common counted nouns, months."""

from dataclasses import dataclass

from arabic_text.numbers import SCALES, Noun, feminine, masculine

MONTHS = "يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر".split()
"""The names used in Egypt and the Gulf: a date in digits does not show in which country it was written."""
HIJRI_MONTHS = [
    "محرم", "صفر", "ربيع الأول", "ربيع الآخر", "جمادى الأولى", "جمادى الآخرة",
    "رجب", "شعبان", "رمضان", "شوال", "ذي القعدة", "ذي الحجة",
]  # fmt: skip
MONTH_STARTS = {
    *MONTHS, "ابريل", "إبريل", "اغسطس", "اكتوبر",
    "كانون", "شباط", "آذار", "اذار", "نيسان", "أيار", "ايار", "حزيران", "تموز", "آب", "أيلول", "ايلول", "تشرين",
    "جانفي", "فيفري", "أفريل", "ماي", "جوان", "جويلية", "أوت", "يوليوز", "غشت", "شتنبر", "نونبر", "دجنبر",
    "محرم", "ربيع", "جمادى", "رجب", "شعبان", "رمضان", "شوال", "ذو", "ذي",
}  # fmt: skip
"""First words of the month names of all countries. The Hijri month Safar is left out: its name also means "zero"."""
MONTH_ENDS = {*MONTH_STARTS, "الأول", "الثاني", "الآخر", "الأولى", "الآخرة", "القعدة", "الحجة"}

GRAM, METRE, LITRE = masculine("غرام", "غرامات"), masculine("متر", "أمتار"), masculine("لتر", "لترات")
DEGREE, HOUR = feminine("درجة", "درجات"), feminine("ساعة", "ساعات")
DOLLAR, EURO, POUND = masculine("دولار", "دولارات"), Noun("يورو", "يوروان", "يورو", "يورو"), masculine("جنيه", "جنيهات")
RIYAL, DIRHAM, DINAR = masculine("ريال", "ريالات"), masculine("درهم", "دراهم"), masculine("دينار", "دنانير")
LIRA, YEN = feminine("ليرة", "ليرات"), masculine("ين", "ينات")
CENT, PIASTRE, FILS = masculine("سنت", "سنتات"), masculine("قرش", "قروش"), masculine("فلس", "فلوس")
HALALA = feminine("هللة", "هللات")

CURRENCIES: dict[str, tuple[Noun, Noun | None]] = {
    "$": (DOLLAR, CENT), "€": (EURO, CENT), "£": (POUND, PIASTRE), "¥": (YEN, None), "US$": (DOLLAR, CENT),
    "USD": (DOLLAR, CENT), "EUR": (EURO, CENT), "EGP": (POUND, PIASTRE), "SAR": (RIYAL, HALALA), "SR": (RIYAL, HALALA),
    "AED": (DIRHAM, FILS), "QAR": (RIYAL, DIRHAM), "MAD": (DIRHAM, None), "KWD": (DINAR, None), "JOD": (DINAR, None),
    "BHD": (DINAR, None), "IQD": (DINAR, None), "OMR": (RIYAL, None), "ر.س": (RIYAL, HALALA), "ج.م": (POUND, PIASTRE),
    "د.إ": (DIRHAM, FILS), "د.ك": (DINAR, None), "د.أ": (DINAR, None), "ر.ق": (RIYAL, DIRHAM), "ر.ع": (RIYAL, None),
    "\u20c1": (RIYAL, HALALA), "ج": (POUND, PIASTRE), "ج.س": (POUND, PIASTRE), "د.ج": (DINAR, None),
    "د.ت": (DINAR, None), "د.ع": (DINAR, None), "د.ب": (DINAR, None), "د.ل": (DINAR, None), "د.م": (DIRHAM, None),
    "ر.ي": (RIYAL, None), "ل.ل": (LIRA, None), "ل.س": (LIRA, None), "\u20ba": (LIRA, None), "GBP": (POUND, None),
    "DZD": (DINAR, None), "TND": (DINAR, None), "LYD": (DINAR, None), "LBP": (LIRA, None), "SYP": (LIRA, None),
}  # fmt: skip
"""Sign -> currency, and the coin that is its hundredth or None if there is no such coin."""


@dataclass(frozen=True)
class Unit:
    """The words for a sign after a number: a noun, an adjective that agrees with it, and words that never change."""

    noun: Noun
    adjective: str = ""
    after: str = ""

    def adjective_after(self, number: int, oblique: bool) -> str:
        """Return the adjective in the form that agrees with the noun after ``number``, with a space before it."""
        if not self.adjective:
            return ""
        stem = self.adjective + ("ة" if self.noun.feminine else "")
        if number == 2:
            return f" {self.adjective}{'ت' if self.noun.feminine else ''}{'ين' if oblique else 'ان'}"
        if self.noun.feminine or 3 <= number % 100 <= 10:
            return f" {self.adjective}ة"
        return f" {stem}ًا" if 11 <= number % 100 <= 99 else f" {stem}"


def _multiple(prefix: str, noun: Noun) -> Noun:
    return masculine(prefix + noun.singular, prefix + (noun.singular + "ات"))


KILOMETRE, CENTIMETRE, MILLIMETRE = (_multiple(prefix, METRE) for prefix in ("كيلو", "سنتي", "ملي"))
KILOGRAM, MILLIGRAM, MILLILITRE = _multiple("كيلو", GRAM), _multiple("ملي", GRAM), _multiple("ملي", LITRE)
BYTES = {"KB": "كيلوبايت", "MB": "ميغابايت", "GB": "غيغابايت", "TB": "تيرابايت"}
_BY_SIGNS: list[tuple[str, Unit]] = [
    ("km كم Km KM ك.م", Unit(KILOMETRE)),
    ("m م", Unit(METRE)),
    ("cm سم", Unit(CENTIMETRE)),
    ("mm مم", Unit(MILLIMETRE)),
    *[
        (" ".join(f"{sign}{raised}" for sign in signs.split() for raised in powers.split()), Unit(noun, adjective))
        for signs, noun in (("km كم", KILOMETRE), ("m م", METRE), ("cm سم", CENTIMETRE), ("mm مم", MILLIMETRE))
        for powers, adjective in (("² 2 ^2", "مربع"), ("³ 3 ^3", "مكعب"))
    ],
    ("km/h كم/س كم/ساعة", Unit(KILOMETRE, after=" في الساعة")),
    ("m/s² m/s2 م/ث² م/ث2 م/ث^2", Unit(METRE, after=" لكل ثانية مربعة")),
    ("m/s م/ث", Unit(METRE, after=" في الثانية")),
    ("kg كغ كجم كغم Kg KG", Unit(KILOGRAM)),
    ("g غ جم غم", Unit(GRAM)),
    ("mg ملغ ملجم", Unit(MILLIGRAM)),
    ("L l", Unit(LITRE)),
    ("ml mL مل", Unit(MILLILITRE)),
    ("° °", Unit(DEGREE)),
    ("°C °م °س", Unit(DEGREE, "مئوي")),
    ("°F °ف", Unit(DEGREE, after=" فهرنهايت")),
    ("h", Unit(HOUR)),
    ("min", Unit(feminine("دقيقة", "دقائق"))),
    ("Hz", Unit(Noun("هرتز", "هرتزان", "هرتز", "هرتز"))),
    *[(sign, Unit(Noun(name, name + "ان", name, name))) for sign, name in BYTES.items()],
]
COIN_OF_NOUN = {DOLLAR: CENT, EURO: CENT, POUND: PIASTRE, RIYAL: HALALA, DIRHAM: FILS}
"""Currency as a word -> the coin of two decimals."""
UNITS = {sign: unit for signs, unit in _BY_SIGNS for sign in signs.split()}

SCALE_WORDS = {form: noun for _, noun in SCALES for form in (noun.singular, noun.plural)}
_PLURAL_IN_AT = (
    "حالة لغة جامعة محافظة خطوة عملية جولة رحلة جلسة محاضرة عائلة لوحة شاشة بطاقة وجبة قارة فئة فقرة دورة بطولة ولاية "
    "طائرة سيدة معلمة زوجة طبقة حبة عمارة وزارة جهة مؤسسة منظمة محطة حافلة ميدالية خدمة ضربة مشكلة شجرة طاولة ورقة "
    "زجاجة علبة قبعة بحيرة وحدة كلية بقرة وردة بيضة كرة بعثة لوحة باخرة بلدة لقطة زيارة طفلة معركة ساحة دراجة "
    "بوابة ناقة إصابة سمكة بناية مكالمة محاولة رواية حقيبة نظرية ثورة بصمة"
).split()
_COUNTED = [
    *(noun for _, noun in SCALES),
    DOLLAR, EURO, POUND, RIYAL, DIRHAM, DINAR, LIRA, YEN, CENT, PIASTRE, FILS, HALALA,
    GRAM, METRE, LITRE, KILOMETRE, CENTIMETRE, MILLIMETRE, KILOGRAM, DEGREE, HOUR,
    Noun("كيلو", "كيلوان", "كيلو", "كيلو"), masculine("كيلو", "كيلوات"),
    masculine("طن", "أطنان"), masculine("جرام", "جرامات"), masculine("كيلوجرام", "كيلوجرامات"),
    masculine("يوم", "أيام"), masculine("شهر", "أشهر"), masculine("شهر", "شهور"), masculine("عام", "أعوام"),
    masculine("أسبوع", "أسابيع"), masculine("قرن", "قرون"), feminine("دقيقة", "دقائق"), feminine("سنة", "سنوات"),
    feminine("سنة", "سنين"), feminine("ليلة", "ليال"), feminine("ليلة", "ليالي"), feminine("مرة", "مرات"),
    Noun("ثانية", "ثانيتان", "ثوان", "ثانية", True), Noun("ثانية", "ثانيتان", "ثواني", "ثانية", True),
    masculine("شخص", "أشخاص"), masculine("رجل", "رجال"), masculine("طالب", "طلاب"), masculine("ولد", "أولاد"),
    masculine("طفل", "أطفال"), masculine("كتاب", "كتب"), masculine("بيت", "بيوت"), masculine("فصل", "فصول"),
    masculine("لاعب", "لاعبين"), masculine("هدف", "أهداف"), masculine("باب", "أبواب"), masculine("سؤال", "أسئلة"),
    feminine("بنت", "بنات"), feminine("طالبة", "طالبات"), feminine("سيارة", "سيارات"), feminine("مدينة", "مدن"),
    feminine("دولة", "دول"), feminine("صفحة", "صفحات"), feminine("كلمة", "كلمات"), feminine("نقطة", "نقاط"),
    feminine("غرفة", "غرف"), feminine("شركة", "شركات"), feminine("مدرسة", "مدارس"), feminine("آية", "آيات"),
    feminine("ركعة", "ركعات"), feminine("حلقة", "حلقات"), feminine("قطعة", "قطع"), feminine("رسالة", "رسائل"),
    feminine("دقيقة", "دقايق"), feminine("مباراة", "مباريات"), feminine("فتاة", "فتيات"), feminine("قناة", "قنوات"),
    feminine("صلاة", "صلوات"), feminine("مرحلة", "مراحل"), feminine("سورة", "سور"), feminine("صورة", "صور"),
    feminine("قصة", "قصص"), feminine("جملة", "جمل"), feminine("شقة", "شقق"), feminine("نسخة", "نسخ"),
    feminine("منطقة", "مناطق"), feminine("قرية", "قرى"), feminine("جزيرة", "جزر"), feminine("لجنة", "لجان"),
    feminine("طريقة", "طرق"), feminine("تذكرة", "تذاكر"), feminine("جائزة", "جوائز"), feminine("سفينة", "سفن"),
    masculine("كوب", "أكواب"), masculine("موظف", "موظفين"), masculine("سهم", "أسهم"), masculine("متفرج", "متفرجين"),
    masculine("فريق", "فرق"), masculine("جندي", "جنود"), masculine("عضو", "أعضاء"), masculine("قلم", "أقلام"),
    masculine("حرف", "حروف"), masculine("مقال", "مقالات"), masculine("فيلم", "أفلام"), masculine("مشروع", "مشاريع"),
    masculine("قرار", "قرارات"), masculine("طبيب", "أطباء"), masculine("مريض", "مرضى"), masculine("عامل", "عمال"),
    masculine("راكب", "ركاب"), masculine("سائح", "سياح"), masculine("مواطن", "مواطنين"), masculine("مقعد", "مقاعد"),
    masculine("صوت", "أصوات"), masculine("مسجد", "مساجد"), masculine("فندق", "فنادق"), masculine("منزل", "منازل"),
    masculine("ضيف", "ضيوف"), masculine("متر", "أمتار"), masculine("لتر", "لترات"), masculine("سطر", "أسطر"),
    masculine("صاروخ", "صواريخ"), masculine("مشارك", "مشاركين"), masculine("معلم", "معلمين"), masculine("خبر", "أخبار"),
    feminine("نسمة", "نسمات"), Noun("كاميرا", "كاميرتان", "كاميرات", "كاميرا", True),
    Noun("وفاة", "وفاتان", "وفيات", "وفاة", True),
    feminine("ملعقة", "ملاعق"), feminine("خلية", "خلايا"), feminine("لعبة", "ألعاب"),
    feminine("وثيقة", "وثائق"), feminine("وظيفة", "وظائف"), feminine("فكرة", "أفكار"), feminine("غارة", "غارات"),
    feminine("عاصمة", "عواصم"), feminine("كنيسة", "كنائس"), feminine("فتوى", "فتاوى"), feminine("شحنة", "شحنات"),
    feminine("حديقة", "حدائق"), feminine("وسيلة", "وسائل"), feminine("خيمة", "خيام"), feminine("عينة", "عينات"),
    Noun("أخ", "أخوان", "إخوة", "أخًا"), feminine("أخت", "أخوات"), feminine("أم", "أمهات"),
    Noun("امرأة", "امرأتان", "نساء", "امرأة", True),
    *(feminine(singular, singular.removesuffix("ة") + "ات") for singular in _PLURAL_IN_AT),
]  # fmt: skip
MEASURES = {
    GRAM, METRE, LITRE, KILOMETRE, CENTIMETRE, MILLIMETRE, KILOGRAM, DEGREE, HOUR, DINAR, *(noun for _, noun in SCALES),
    *(noun for noun in _COUNTED if noun.singular in ("طن", "كيلو", "جرام", "كيلوجرام", "ثانية")),
}  # fmt: skip
"""Nouns of which there may be thousandths, so that a point before three digits is a decimal point."""
NOUN_OF_FORM = {
    form: noun
    for noun in reversed(_COUNTED)
    for form in (noun.singular, noun.plural, noun.accusative, noun.singular + "ا")
}
"""Form that may stand after digits -> noun."""
