"""Licences as sources spell them, brought to the few values that a filter knows."""

import re
from collections.abc import Collection
from typing import cast, get_args

from render.config import Licence

KNOWN: tuple[str, ...] = get_args(Licence)
ORDER = ("by", "nc", "sa", "nd")
ELEMENTS = {
    **{word: word for word in (*ORDER, "cc0")},
    "attribution": "by",
    "noncommercial": "nc",
    "sharealike": "sa",
    "noderivatives": "nd",
    "noderivs": "nd",
    "zero": "cc0",
    "dedication": "cc0",
}
"""What a word of a licence's name stands for."""
SILENT = {
    *("cc", "creative", "commons", "public", "domain", "license", "licence", "version"),
    *("international", "unported", "generic", "universal"),
}
"""Words that change nothing. Any other word makes a licence unknown, so that none is read too generously."""
URL = re.compile(r"https?://(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/([a-z-]+)(?:/[\w.]+)*/?")
SPLIT_WORD = re.compile(r"\b(non|no|share)[ -]+(?=commercial|deriv|alike)")
VERSION = re.compile(r"\bv?\d(?:\.\d)+\b")


def normalise(text: str | None) -> Licence | None:
    """The licence that `text` names, or None if it is missing, unknown or not certain.

    >>> normalise("by-nc-sa"), normalise("CC-BY-4.0"), normalise("https://creativecommons.org/licenses/by/4.0/")
    ('cc-by-nc-sa', 'cc-by', 'cc-by')
    >>> normalise("CC Attribution - no AI") is None
    True
    """
    name = (text or "").strip().lower()
    if url := URL.fullmatch(name):
        name = url[1]
    words = re.findall(r"[^\W_]+", VERSION.sub(" ", SPLIT_WORD.sub(r"\1", name)))
    if any(word not in ELEMENTS and word not in SILENT for word in words):
        return None
    elements = {ELEMENTS[word] for word in words if word in ELEMENTS}
    found = "cc0" if elements == {"cc0"} else "-".join(["cc", *(e for e in ORDER if e in elements)])
    exact = found in KNOWN and elements <= {*found.split("-")}
    return cast(Licence, found) if exact else None


def permitted(text: str | None, allowed: Collection[str]) -> bool:
    """Whether a filter lets an object of this licence through; an empty filter lets all through."""
    return not allowed or normalise(text) in allowed
