"""Marks and plots: sound SVG, whatever words go in."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web.identicons import mark
from modelshare.server.web.plots import Bar, bars

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=40)
DATA = st.lists(st.builds(Bar, WORDS, st.integers(0, 2**53)), max_size=40)


@given(st.none() | st.text(max_size=60))
def test_a_name_has_one_mark(name: str | None) -> None:
    drawn = mark(name)
    assert drawn == mark(name)
    if name is not None and name.isascii():
        assert drawn == mark(name.upper())
    root = ET.fromstring(drawn)
    assert root.attrib["aria-hidden"] == "true"
    assert "style" not in root.attrib


def test_marks_differ() -> None:
    families = ["llama", "qwen", "mistral", "gemma", "phi", "gpt2", "bert", "falcon", "", "mamba"]
    assert len({mark(family) for family in families}) == len(families)


@given(DATA, WORDS)
def test_bars(data: Sequence[Bar], title: str) -> None:
    root = ET.fromstring(bars(data, title))
    assert root.attrib["aria-label"] == title
    drawn = [element for element in root if element.tag == "rect"]
    assert [element[0].text for element in drawn] == [f"{bar.label}: {bar.value:,}" for bar in data]
    heights = [float(element.attrib["height"]) for element in drawn]
    for element, bar, height in zip(drawn, data, heights, strict=True):
        assert float(element.attrib["y"]) >= 0
        assert float(element.attrib["y"]) + height <= 140.1
        assert (height > 0) == (bar.value > 0)
    for one, height in zip(data, heights, strict=True):
        assert all(height >= other for bar, other in zip(data, heights, strict=True) if bar.value <= one.value)
