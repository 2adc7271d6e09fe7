"""Conditions that choose utterances or records: ``--where "dialect in ('Najdi', 'Hijazi') and duration > 1"``.

The language is a small part of Python's: comparisons of names, texts and numbers, joined by ``and``, ``or`` and
``not``. Python only parses the text. What is on the list of allowed parts is translated here, and nothing is evaluated.

A comparison with a value that an utterance does not have is unknown, as in SQL: neither it nor its contrary holds, and
the utterance is left out. ``NAME is None`` asks whether the value is missing.
"""

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boson_multimodal.errors import InputError, raise_if_any

ALLOWED = (
    "allowed are names of values, texts in quotes, numbers, == != < <= > >=, in and not in with a list in parentheses, "
    "is None, and, or, not, and parentheses"
)
EXAMPLE = "\"dialect in ('Najdi', 'Hijazi') and duration > 1\""
MISC = "misc"
"""``misc['speaker-age']`` is the value whose name is no word."""
DEEPEST = 50
"""Parentheses and ``not`` inside each other."""
LONGEST_SHOWN = 60

Value = str | int | float
Answer = bool | None
"""None: unknown, because a value is missing."""
Test = Callable[[Mapping[str, Any]], Answer]
Operand = Callable[[Mapping[str, Any]], Value | None]

_STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""
_TOKEN = re.compile(rf"{_STRING}|<>|&&|\|\||===|=>|=<|[=!<>]=|[=!&|;`#\u060c\u2018-\u201f\u00ab\u00bb]|\w+")
_TWO_STRINGS = re.compile(rf"(?:{_STRING})\s*(?=['\"])")
_OTHER_SPELLINGS = {
    **{"=": "==", "===": "==", "<>": "!=", "=>": ">=", "=<": "<=", "&&": "and", "&": "and", "||": "or", "|": "or"},
    **{"!": "not", "\u060c": "a comma (,)", ";": "and", "`": "the name alone", "#": "no comment"},
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u00ab\u00bb", "a straight quotation mark (')"),
}
"""What other languages and keyboards write -> what is written here."""
_OTHER_WORDS = {"null": "None", "none": "None", "true": "True", "false": "False"}
_OTHER_WORDS |= {"like": "'PART' in NAME", "between": "1 <= NAME <= 5"}
_WORDS = ("and", "or", "not", "in", "is")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


@dataclass(frozen=True)
class Condition:
    """A condition on the values of an utterance or record.

    Attributes:
        text: as the user wrote it.
        names: the values that it reads, in the order of the text.
        literals: (name, text) of each text that a value is compared with, for equality.
    """

    text: str
    names: tuple[str, ...]
    literals: tuple[tuple[str, str], ...]
    _test: Test

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition.

        Raises:
            InputError: naming each place that is not allowed, and what would be right.
        """
        line = re.sub(r"\s", " ", text).strip()
        if not line:
            raise InputError(f"--where: is empty; write a condition such as {EXAMPLE}")
        heading = f"--where {line}: cannot be read; {ALLOWED}"
        raise_if_any(heading, list(_other_spellings(line)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of backslashes in texts, which are taken as they are
                tree = ast.parse(line, mode="eval")
        except SyntaxError as error:
            place = f" at character {error.offset}" if error.offset and error.offset <= len(line) else " at the end"
            other = f"a name that is no word, or a word of Python, is written {MISC}['NAME']"
            raise_if_any(heading, [f"{error.msg}{place}; a condition is such as {EXAMPLE}; {other}"])
        except (ValueError, RecursionError, MemoryError) as error:  # NUL, numbers of 5,000 digits, many parentheses
            raise InputError(f"{heading} ({type(error).__name__}: {error})") from error
        translation = _Translation(line)
        test = translation.test(tree.body)
        if not translation.names and not translation.problems:
            translation.problems.append(f"it names no value, so it is the same for all; write such as {EXAMPLE}")
        raise_if_any(heading, list(dict.fromkeys(translation.problems)))
        return cls(line, tuple(dict.fromkeys(translation.names)), tuple(translation.literals), test)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the condition is true of these values; false also if it is unknown."""
        return self.answer(values) is True

    def answer(self, values: Mapping[str, Any]) -> Answer:
        """Return whether the condition is true; None if that is unknown, because a value is missing."""
        return self._test(values)


def _other_spellings(line: str) -> Iterator[str]:
    """Yield a problem for each part that is written otherwise here. Texts in quotes are passed over."""
    for found in _TOKEN.finditer(line):
        part, at = found[0], f"at character {found.start() + 1}"
        right = _OTHER_SPELLINGS.get(part) or _OTHER_WORDS.get(part.casefold())
        if part.casefold() in _WORDS and part.casefold() != part:
            right = part.casefold()
        if right and right != part:
            yield f"{part} {at}: write {right}"
        elif part[0] in "'\"" and _TWO_STRINGS.match(line, found.start()):
            yield f"{part} {at}: write a comma (,) between two texts"


class _Translation:
    """Translates a parsed condition into a test.

    Attributes:
        names, literals: as of :class:`Condition`.
        problems: what is not allowed.
    """

    def __init__(self, line: str) -> None:
        self.names: list[str] = []
        self.literals: list[tuple[str, str]] = []
        self.problems: list[str] = []
        self._line = line

    def test(self, node: ast.expr, depth: int = 0) -> Test:
        """Return the test of a part that is true or false."""
        if depth > DEEPEST:
            return self._refuse(node, f"is more than {DEEPEST} levels deep")
        if isinstance(node, ast.BoolOp):
            tests = [self.test(part, depth + 1) for part in node.values]
            return _all_of(tests) if isinstance(node.op, ast.And) else _not(_all_of([_not(test) for test in tests]))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _not(self.test(node.operand, depth + 1))
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return _all_of([self._comparison(node, op, left, right) for op, left, right in pairs])
        what = "; a list stands in parentheses" if isinstance(node, ast.Tuple) else ""
        return self._refuse(node, f"must be a comparison, such as duration > 1{what}")

    def _comparison(self, node: ast.expr, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Test:
        if isinstance(op, ast.In | ast.NotIn):
            test = self._membership(left, right)
            return _not(test) if isinstance(op, ast.NotIn) else test
        if isinstance(op, ast.Is | ast.IsNot) and not _is_none(right):
            return self._refuse(node, "is and is not are for None only; write == or !=")
        if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
            test = self._equality(left, right)
            return _not(test) if isinstance(op, ast.NotEq | ast.IsNot) else test
        one, other = self._operand(left), self._operand(right)
        if _is_none(left) or _is_none(right):
            return self._refuse(node, "None has no order; write NAME is None")
        return lambda values: _in_order(one(values), other(values), type(op))

    def _equality(self, left: ast.expr, right: ast.expr) -> Test:
        one, other = self._operand(left), self._operand(right)
        if _is_none(left) or _is_none(right):
            return lambda values: one(values) is None and other(values) is None
        self._note_literal(left, [right])
        self._note_literal(right, [left])
        return lambda values: is_equal(one(values), other(values))

    def _membership(self, left: ast.expr, right: ast.expr) -> Test:
        """Return the test of ``left in right``, where right is a list, one value, or the name of a text."""
        if self._name(right) is not None:  # a part of a text
            one, other = self._operand(left), self._operand(right)
            return lambda values: _is_part(one(values), other(values))
        elements = right.elts if isinstance(right, ast.Tuple | ast.List | ast.Set) else [right]
        if not elements:
            return self._refuse(right, "is an empty list")
        self._note_literal(left, elements)
        one, none_is_in = self._operand(left), any(_is_none(element) for element in elements)
        constants = [e.value for e in elements if isinstance(e, ast.Constant)]
        texts = {_normal(value) for value in constants if isinstance(value, str)}
        others = [self._operand(e) for e in elements if not (isinstance(e, ast.Constant) and isinstance(e.value, str))]

        def test(values: Mapping[str, Any]) -> Answer:
            value = one(values)
            if value is None:
                return True if none_is_in else None
            if _normal(value) in texts if isinstance(value, str) else any(is_equal(value, text) for text in texts):
                return True
            answers = [is_equal(value, element(values)) for element in others]
            return True if True in answers else False if none_is_in or None not in answers else None

        return test

    def _operand(self, node: ast.expr) -> Operand:
        """Return the value of a name or a constant; the value is None if it is missing."""
        if (name := self._name(node)) is not None:
            self.names.append(name)
            return lambda values: plain_value(values.get(name))
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, inner = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
            if isinstance(inner, ast.Constant) and type(inner.value) in (int, float):
                return lambda values: sign * inner.value
        elif isinstance(node, ast.Constant) and type(node.value) in (str, int, float, bool, type(None)):
            return lambda values: node.value
        what = "must be a name, a text in quotes or a number"
        if isinstance(node, ast.BinOp):
            what += f"; nothing is computed, and a name that is no word is written {MISC}['NAME']"
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            what += "; a list stands after in or not in"
        self._refuse(node, what)
        return lambda values: None

    @staticmethod
    def _name(node: ast.expr) -> str | None:
        """Return the name that ``NAME`` or ``misc['NAME']`` stands for; None for another part."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == MISC:
            key = node.slice
            return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        return None

    def _note_literal(self, named: ast.expr, others: Sequence[ast.expr]) -> None:
        if (name := self._name(named)) is not None:
            values = [other.value for other in others if isinstance(other, ast.Constant)]
            self.literals += [(name, value) for value in values if isinstance(value, str)]

    def _refuse(self, node: ast.expr, what: str) -> Test:
        start = len(self._line.encode()[: node.col_offset].decode())  # columns are counted in bytes
        part = ast.get_source_segment(self._line, node) or ""
        part = f"{part[:LONGEST_SHOWN]}..." if len(part) > LONGEST_SHOWN else part
        self.problems.append(f"{part} at character {start + 1}: {what}")
        return lambda values: None


def _all_of(tests: Sequence[Test]) -> Test:
    def test(values: Mapping[str, Any]) -> Answer:
        found: Answer = True
        for part in tests:
            answer = part(values)
            if answer is False:
                return False
            found = None if answer is None else found
        return found

    return test


def _not(test: Test) -> Test:
    return lambda values: None if (answer := test(values)) is None else not answer


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def plain_value(value: Any) -> Value | None:
    """Return a value that can be compared; None for one that says nothing (blank, NaN) or is a list or structure."""
    if not isinstance(value, str | int | float) or value != value or (isinstance(value, str) and not value.strip()):
        return None
    return value


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def number_in(value: Value) -> float | None:
    """Return a number, also of a text that is one; None for other texts and for true and false."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    return None if isinstance(value, bool) else value


def is_equal(one: Value | None, other: Value | None) -> Answer:
    """Return whether two values are equal: numbers as numbers, texts letter by letter; None if one is missing."""
    if one is None or other is None:
        return None
    if isinstance(one, str) and isinstance(other, str):
        return _normal(one) == _normal(other)
    if isinstance(one, bool) or isinstance(other, bool):  # tables write true as a text
        return str(one).casefold() == str(other).casefold()
    numbers = number_in(one), number_in(other)
    return None not in numbers and numbers[0] == numbers[1]


def _in_order(one: Value | None, other: Value | None, op: type[ast.cmpop]) -> Answer:
    """Return whether two values are in an order: numbers by size, else texts by their letters; a mixture is unknown."""
    if one is None or other is None:
        return None
    numbers = number_in(one), number_in(other)
    left, right = (one, other) if isinstance(one, str) and isinstance(other, str) and None in numbers else numbers
    if left is None or right is None:
        return None
    return {ast.Lt: left < right, ast.LtE: left <= right, ast.Gt: left > right, ast.GtE: left >= right}[op]


def _is_part(part: Value | None, text: Value | None) -> Answer:
    return None if part is None or text is None else _normal(str(part)) in _normal(str(text))
