"""Measures the error rate of a diacritiser on 24 sentences that were marked by hand: too few for a figure to quote.

    pip install text2tashkeel && python -m benchmarks.diacritics [--library text2tashkeel]

The sentences are twelve of everyday standard Arabic, five proverbs, four verses of the Quran and three of old poems.
DER is the share of letters with a wrong mark; WER is the share of words with such a letter. Both are also given without
the last letter of each word, whose mark shows the case. Writers differ in some marks, which are not compared: sukun,
dagger alef, the vowel before the letter that lengthens it, the mark of a first alef, and the letter of the ending -an.
"""

import argparse
import re

from arabic_text.diacritics import DIACRITISERS, diacritise, load_diacritiser

SENTENCES = """\
ذَهَبَ الْوَلَدُ إِلَى الْمَدْرَسَةِ
قَرَأْتُ كِتَابًا مُفِيدًا فِي الْمَكْتَبَةِ
يَشْرَبُ الطِّفْلُ الْحَلِيبَ كُلَّ صَبَاحٍ
سَافَرَ أَخِي إِلَى مِصْرَ قَبْلَ شَهْرَيْنِ
هَذِهِ الْمَدِينَةُ جَمِيلَةٌ جِدًّا
لَمْ يَحْضُرِ الْمُدِيرُ الِاجْتِمَاعَ أَمْسِ
سَنَذْهَبُ غَدًا إِلَى الْبَحْرِ
كَتَبَ الْمُعَلِّمُ الدَّرْسَ عَلَى السَّبُّورَةِ
أُحِبُّ الْقَهْوَةَ وَلَا أُحِبُّ الشَّايَ
إِنَّ اللُّغَةَ الْعَرَبِيَّةَ غَنِيَّةٌ
وَصَلَتِ الطَّائِرَةُ فِي مَوْعِدِهَا
اِشْتَرَتْ أُمِّي خُبْزًا وَزَيْتًا
الْعِلْمُ نُورٌ وَالْجَهْلُ ظَلَامٌ
مَنْ جَدَّ وَجَدَ وَمَنْ زَرَعَ حَصَدَ
الصَّبْرُ مِفْتَاحُ الْفَرَجِ
خَيْرُ الْكَلَامِ مَا قَلَّ وَدَلَّ
الْوَقْتُ كَالسَّيْفِ إِنْ لَمْ تَقْطَعْهُ قَطَعَكَ
الْحَمْدُ لِلَّهِ رَبِّ الْعَالَمِينَ
قُلْ أَعُوذُ بِرَبِّ النَّاسِ
إِنَّا أَعْطَيْنَاكَ الْكَوْثَرَ
تَبَّتْ يَدَا أَبِي لَهَبٍ وَتَبَّ
قِفَا نَبْكِ مِنْ ذِكْرَى حَبِيبٍ وَمَنْزِلِ
عَلَى قَدْرِ أَهْلِ الْعَزْمِ تَأْتِي الْعَزَائِمُ
إِذَا رَأَيْتَ نُيُوبَ اللَّيْثِ بَارِزَةً فَلَا تَظُنَّنَّ أَنَّ اللَّيْثَ يَبْتَسِمُ""".splitlines()
MARKS = "\u064b-\u0652\u0670"
LENGTHENED = {"\u0627": "\u064e", "\u0649": "\u064e", "\u0648": "\u064f", "\u064a": "\u0650"}
ALEF, FATHATAN, NOT_COMPARED = "\u0627", "\u064b", "\u0652\u0670"


def marks_of(word: str) -> list[str]:
    """Return the marks of each letter, without those that are not compared."""
    letters = re.findall(f"([^{MARKS}])([{MARKS}]*)", word)
    marks = ["".join(sorted(set(found) - set(NOT_COMPARED))) for _, found in letters]
    names = [letter for letter, _ in letters]
    for i in range(len(names) - 1):
        if not marks[i + 1]:
            marks[i] = marks[i].replace(LENGTHENED.get(names[i + 1], " "), "")
    if names[0] == ALEF:
        marks[0] = ""
    if names[-1] == ALEF and FATHATAN in marks[-1]:
        marks[-2:] = ["".join(sorted(marks[-2] + FATHATAN)), ""]
    return marks


def main() -> None:
    """Print the error rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default=next(iter(DIACRITISERS)), choices=list(DIACRITISERS))
    add_marks = load_diacritiser(parser.parse_args().library)
    wrong: list[list[bool]] = []
    unmarked = 0
    for sentence in SENTENCES:
        found, _, left = diacritise(re.sub(f"[{MARKS}]", "", sentence), add_marks)
        unmarked += left
        for wanted, word in zip(sentence.split(), found.split(), strict=True):
            wrong.append([a != b for a, b in zip(marks_of(wanted), marks_of(word), strict=True)])
    for label, errors in (("all letters", wrong), ("without last letters", [word[:-1] for word in wrong])):
        letters, words = sum(map(len, wrong)), len(wrong)
        print(f"{label}: DER {sum(map(sum, errors)) / letters:.1%}, WER {sum(map(any, errors)) / words:.1%}")
    print(f"{len(SENTENCES)} sentences, {words} words, {letters} letters; {unmarked} words left without marks")


if __name__ == "__main__":
    main()
