"""Arab countries and their dialects, as the names of folders and files of data sets write them."""

import re
from collections.abc import Container, Iterable

DIALECTS = {
    "Algeria": "Algerian",
    "Bahrain": "Bahraini",
    "Comoros": "Comorian",
    "Djibouti": "Djiboutian",
    "Egypt": "Egyptian",
    "Iraq": "Iraqi",
    "Jordan": "Jordanian",
    "Kuwait": "Kuwaiti",
    "Lebanon": "Lebanese",
    "Libya": "Libyan",
    "Mauritania": "Mauritanian",
    "Morocco": "Moroccan",
    "Oman": "Omani",
    "Palestine": "Palestinian",
    "Qatar": "Qatari",
    "Saudi Arabia": "Saudi",
    "Somalia": "Somali",
    "Sudan": "Sudanese",
    "Syria": "Syrian",
    "Tunisia": "Tunisian",
    "UAE": "Emirati",
    "Yemen": "Yemeni",
}
"""Country -> its dialect, both as Casablanca names them."""
_OTHER_NAMES = {"ksa": "Saudi Arabia", "saudiarabia": "Saudi Arabia", "unitedarabemirates": "UAE", "emirates": "UAE"}
_BY_NAME = {
    **{country.casefold(): country for country in DIALECTS},
    **{dialect.casefold(): country for country, dialect in DIALECTS.items()},
    **_OTHER_NAMES,
}


def country_of(names: Iterable[str]) -> str | None:
    """Return the country that the names of a file and its folders name as a whole word; None for none or several."""
    found = set()
    for name in names:
        words = re.findall(r"[^\W\d_]+", name.casefold())
        found |= {_BY_NAME[word] for word in (*words, "".join(words)) if word in _BY_NAME}
    return found.pop() if len(found) == 1 else None


def country_attributes(names: Iterable[str], attributes: Container[str]) -> dict[str, str]:
    """Return the country and dialect that names of folders tell, as ``misc`` holds them.

    Args:
        attributes: the keys of ``misc`` that columns give; these are not told from names.
    """
    if "country" in attributes or not (country := country_of(names)):
        return {}
    has_dialect = "dialect" in attributes or "accent" in attributes
    return {"country": country} | ({} if has_dialect else {"dialect": DIALECTS[country]})
