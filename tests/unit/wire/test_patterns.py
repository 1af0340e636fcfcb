import time

import pathspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern
from pydantic import TypeAdapter, ValidationError

from modelshare.wire.patterns import PlainPattern, decision, parse, parse_all

NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: name not in {".", "..", "..."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
GLOBS = st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "."]), min_size=1, max_size=4).map("".join)
SEGMENTS = st.one_of(GLOBS.filter(lambda glob: "**" not in glob), st.just("**"))
LINES = st.tuples(
    st.sampled_from(["", "/"]), st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), st.sampled_from(["", "/"])
).map("".join)


@settings(max_examples=400, deadline=None)
@given(LINES, PATHS)
def test_a_pattern_fits_what_it_fits_for_a_library_of_such_patterns(line: str, path: str) -> None:
    assume(line.strip("/*") and not line.startswith("/**"))  # all of it: nobody writes that, and libraries differ
    assume(not line.endswith("**/"))  # the library takes files too, where git takes folders only
    pattern = parse(line)
    assert pattern is not None
    reference = pathspec.PathSpec([GitIgnoreSpecPattern(line)])
    assert pattern.fits(path) == reference.match_file(path)


@pytest.mark.parametrize(
    ("line", "fits", "does_not"),
    [
        ("*.log", ["a.log", "x/y/a.log", ".log", "a.log/inside"], ["a.log2", "alog"]),
        ("/notes.txt", ["notes.txt"], ["x/notes.txt"]),
        ("data/", ["data/x", "y/data/x"], ["data"]),
        ("a/b", ["a/b", "a/b/c"], ["x/a/b", "a"]),
        ("**/b", ["b", "a/b", "a/a/b/c"], ["a"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/z"], ["b", "a"]),
        (r"\#x", ["#x"], ["x"]),
        (r"\!x", ["!x"], ["x"]),
        (r"a\*", ["a*"], ["ab"]),
        (r"x\ ", ["x "], ["x"]),
        ("x  ", ["x"], ["x  "]),
        ("[^a]", ["b"], ["a"]),
        ("ü*", ["über"], ["uber"]),
    ],
)
def test_patterns(line: str, fits: list[str], does_not: list[str]) -> None:
    pattern = parse(line)
    assert pattern is not None
    assert [path for path in fits if not pattern.fits(path)] == []
    assert [path for path in does_not if pattern.fits(path)] == []


def test_empty_lines_and_comments_are_no_patterns() -> None:
    assert parse_all(["", "  ", "# a comment", "/", "\n"]) == ()


def test_the_last_pattern_that_fits_decides() -> None:
    patterns = parse_all(["logs/", "!logs/keep.txt", "*.txt"])
    assert decision(patterns, "logs/a") is True
    assert decision(patterns[:2], "logs/keep.txt") is False
    assert decision(patterns, "logs/keep.txt") is True
    assert decision(patterns, "model.safetensors") is None


@pytest.mark.parametrize("line", ["*a" * 100 + "b", "**/" * 90 + "x", "[" * 200, "a" * 300, "?*" * 100])
def test_no_pattern_takes_long(line: str) -> None:
    pattern = parse(line)
    assert pattern is not None
    began = time.process_time()
    for _ in range(20):
        pattern.fits("/".join(["a" * 250] * 4))
        pattern.fits("/".join("a" * 120))
    assert time.process_time() - began < 5  # one that tries again and again takes hours


def test_a_pattern_with_many_depths_is_none_to_give() -> None:
    check = TypeAdapter(PlainPattern).validate_python
    assert check("a/**/**/**/**/**/**/b") == "a/**/**/**/**/**/**/b"  # the same as one
    with pytest.raises(ValidationError, match=r"use `\*\*` at most 4 times"):
        check("/".join(["**/a"] * 5))
