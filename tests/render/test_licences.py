"""Licences: every spelling of a source means the same, and none is read too generously."""

from itertools import permutations
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render import licences
from render.config import Licence

KNOWN = get_args(Licence)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        # Objaverse
        ("by", "cc-by"),
        ("by-sa", "cc-by-sa"),
        ("by-nc", "cc-by-nc"),
        ("by-nc-sa", "cc-by-nc-sa"),
        ("by-nd", "cc-by-nd"),
        ("by-nc-nd", "cc-by-nc-nd"),
        ("cc0", "cc0"),
        # Sketchfab, Thingiverse, Fuel, SPDX, addresses
        ("CC Attribution", "cc-by"),
        ("CC Attribution-NonCommercial-ShareAlike", "cc-by-nc-sa"),
        ("Creative Commons - Attribution", "cc-by"),
        ("Creative Commons - Attribution - Share Alike", "cc-by-sa"),
        ("Creative Commons - Attribution - Non-Commercial - No Derivatives", "cc-by-nc-nd"),
        ("Creative Commons - Public Domain Dedication", "cc0"),
        ("Creative Commons Attribution 4.0 International", "cc-by"),
        ("Creative Commons Attribution Non Commercial 4.0 International", "cc-by-nc"),
        ("CC0 Public Domain", "cc0"),
        ("CC0 1.0 Universal", "cc0"),
        ("CC-BY-4.0", "cc-by"),
        ("CC-BY-NC-SA-3.0", "cc-by-nc-sa"),
        ("CC0-1.0", "cc0"),
        ("https://creativecommons.org/licenses/by/4.0/", "cc-by"),
        ("http://creativecommons.org/licenses/by-nc-nd/3.0/us/", "cc-by-nc-nd"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
    ],
)
def test_spellings_of_the_sources(text, meant):
    assert licences.normalise(text) == meant
    assert licences.normalise(f"  {text.upper()} ") == meant


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "Standard", "Editorial", "MIT License", "All rights reserved", "Public Domain"),
        *("Creative Commons", "cc-sa", "cc-by-nd-sa", "cc0 by", "CC-BY-4.0 OR MIT", "Licensed by John"),
        *("CC Attribution - no AI", "Public Domain Mark 1.0", "odc-by", "not CC0", "GPL-3.0", "no by"),
        *("https://evil.example/creativecommons.org/licenses/by/4.0/", "by the way"),
    ],
)
def test_what_is_not_certain_is_unknown_and_passes_no_filter(text):
    assert licences.normalise(text) is None
    assert not licences.permitted(text, KNOWN)
    assert licences.permitted(text, ())


@given(st.sampled_from(KNOWN), st.data())
def test_the_order_of_elements_and_their_spelling_do_not_matter(licence, data):
    long = {"by": "Attribution", "nc": "NonCommercial", "sa": "Share Alike", "nd": "NoDerivs", "cc0": "CC0"}
    elements = licence.removeprefix("cc-").split("-")
    order = data.draw(st.sampled_from(list(permutations(elements))))
    words = [data.draw(st.sampled_from([word, long[word], word.upper()])) for word in order]
    text = data.draw(st.sampled_from(["-", " ", " - ", "/"])).join(words)
    assert licences.normalise(text) == licence
    assert [allowed for allowed in KNOWN if licences.permitted(text, (allowed,))] == [licence]


@given(st.text(max_size=40))
def test_any_text_is_known_or_unknown(text):
    assert licences.normalise(text) in (None, *KNOWN)


def test_a_normalised_licence_stays_what_it_is():
    assert [licences.normalise(licence) for licence in KNOWN] == list(KNOWN)
