"""Classes of characters, each written as it stands inside the brackets of a regular expression."""

LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
ARABIC = (
    "\u0620-\u063f\u0641-\u065f\u066e-\u06d3\u06d5\u06dc\u06df-\u06e8\u06ea-\u06ed\u06fa-\u06ff"
    "\u0750-\u077f\u08a0-\u08ff"
)
"""Letters and their marks, without digits, punctuation and tatweel."""
HARAKAT = "\u064b-\u0652\u0670"
"""Vowel marks, tanween, shadda, sukun and superscript alef."""
DIGIT = "[0-9٠-٩۰-۹]"
"""A digit as ASCII, Arabic and Persian texts write it, with its brackets."""
