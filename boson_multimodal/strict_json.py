"""Parse JSON that people write, in which a name that stands twice would hide a value."""

import json
from collections import Counter
from typing import Any


def parse_json(text: str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: if it is no JSON, names a field twice, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"it has {twice[0]!r} twice")
    return dict(pairs)
