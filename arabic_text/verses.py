"""Removes the numbers of verses of the Quran, which are not recited. Ornate parentheses enclose verses and numbers."""

import re

from arabic_text.characters import ARABIC, DIGIT

OPENING, CLOSING = "\ufd3f", "\ufd3e"
_ORNATE = f"[{OPENING}{CLOSING}]"
_GAP = "[\\s\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]*"
_END_OF_VERSE = re.compile(f"\u06dd *{DIGIT}*")
_NUMBER = re.compile(
    rf"((?<![{ARABIC}])[وفبلك]?(?:ال|لل)?آي(?:ة|ات|تان|تين) *)?"
    rf"{_ORNATE}{_GAP}({DIGIT}+(?: ?[-\u2010-\u2015\u0640] ?{DIGIT}+)?){_GAP}{_ORNATE}"
)
"""A number alone in ornate parentheses, after the word "verse" or without it; the parentheses may be reversed."""
_TEXT = f"([^{OPENING}{CLOSING}]*)"
_VERSE = re.compile(f"({OPENING}){_TEXT}({CLOSING})|({CLOSING}){_TEXT}({OPENING})")
_NUMBER_IN_VERSE = re.compile(rf"\s*(?:\( *{DIGIT}+ *\)|\[ *{DIGIT}+ *\]|(?<!\S){DIGIT}+(?!\S))")


def remove_verse_numbers(text: str) -> str:
    """Remove the numbers of verses: after the sign of a verse's end, and in ornate parentheses.

    A number stays if the word "verse" stands before its parentheses: it is a reference that is read.
    """
    if "\u06dd" in text:
        text = _END_OF_VERSE.sub(" ", text)
    if OPENING in text or CLOSING in text:
        text = _NUMBER.sub(lambda match: f"{match[1]}{match[2]} " if match[1] else " ", text)
        text = _VERSE.sub(_without_numbers, text)
    return text


def _without_numbers(match: re.Match[str]) -> str:
    opening, verse, closing = match.groups()[:3] if match[1] else match.groups()[3:]
    return opening + _NUMBER_IN_VERSE.sub("", verse).strip() + closing
