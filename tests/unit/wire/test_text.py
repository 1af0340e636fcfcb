"""Names and texts hold nothing that steers a terminal or makes them read as others; what does is shown by number."""

import json
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from modelshare.wire.text import PLAIN, Line, Name, Text, check_text, fits_name, fits_text, plain, readable, visible

STEERING = "\0\x07\x08\x1b\x7f\x85\x9b\u2028\u2029\ud800\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = "\u200b\u200e\u200f\u061c\u00ad\u2060\ufeff\ufff9\U000e0041"
PEOPLE = [
    *("Ada", "Żółć", "株式会社", "a b", "O'Neil & Sons <x>"),
    *("\u062d\u0627\u0633\u0648\u0628", "\u05de\u05d7\u05e9\u05d1"),  # Arabic, Hebrew
    *("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0915\u094d\u200d\u0937", "👩\u200d💻"),  # with joiners
]
name, line, text = (TypeAdapter(kind) for kind in (Name, Line, Text))


@pytest.mark.parametrize("given_name", PEOPLE)
def test_names_of_people_of_the_world_are_names(given_name: str) -> None:
    assert name.validate_python(given_name) == given_name
    assert name.validate_python(f" {given_name} ") == given_name
    assert visible(given_name) == given_name


@pytest.mark.parametrize("character", [*STEERING.replace("\ud800", ""), *INVISIBLE, "\n", "\r", "\t"])
def test_what_is_no_part_of_a_name_is_named(character: str) -> None:
    for where in ("a{}b", "{}a", "a{}", "{}"):
        with pytest.raises(ValidationError, match=f"leave out U\\+{ord(character):04X}"):
            name.validate_python(where.format(character))
        assert character not in visible(where.format(character))
    with pytest.raises(ValidationError):
        line.validate_python(f"a{character}")


@pytest.mark.parametrize("character", STEERING.replace("\ud800", ""))
def test_texts_have_lines_but_steer_nothing(character: str) -> None:
    assert (
        text.validate_python("# Title\r\n\n\ta \u200f\u05e9\u05dc\u05d5\u05dd\n")
        == "# Title\r\n\n\ta \u200f\u05e9\u05dc\u05d5\u05dd\n"
    )
    with pytest.raises(ValidationError, match=f"leave out U\\+{ord(character):04X}"):
        text.validate_python(f"# Title\n{character}")


def test_blanks_are_no_name() -> None:
    for blanks in ("", " ", "\u3000\u00a0"):
        with pytest.raises(ValidationError):
            name.validate_python(blanks)
    assert line.validate_python("") == line.validate_python("  ") == ""


@given(st.text(st.characters(exclude_categories=[])))
def test_what_is_shown_is_what_names_hold(anything: str) -> None:
    shown = visible(anything, keep="\n")
    assert all(fits_name(character) or character == "\n" for character in shown)
    assert all(map(fits_text, shown))
    assert check_text(shown) == shown
    encoded = json.dumps(anything, ensure_ascii=False)
    assert json.loads(visible(encoded)) == json.loads(json.dumps(anything)), "in JSON it is the same value"


def test_what_names_hold_none_of_is_all_that_unicode_calls_invisible_or_a_control() -> None:
    joiners = "\u200c\u200d"
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            assert fits_name(character) == (character in joiners), f"U+{ord(character):04X}"
        elif unicodedata.category(character) != "Cn":
            assert fits_name(character), f"U+{ord(character):04X}"


@given(st.text(st.characters(exclude_categories=[])))
def test_a_line_made_plain_fits_the_pattern(anything: str) -> None:
    assert re.match(PLAIN, plain(anything, 100))
    assert bool(re.match(PLAIN, anything)) == fits_name(anything)


@given(st.text())
def test_what_is_read_is_a_text(given_text: str) -> None:
    assert fits_text(readable(given_text))
    assert readable(given_text) == given_text or not fits_text(given_text)
