import time

import pytest

from modelshare.server.registry.inspection import Facts
from unit.registry.samples import inspect_bytes, llama_gguf


def with_card(text: str | bytes) -> Facts:
    return inspect_bytes({"m.gguf": llama_gguf(), "README.md": text if isinstance(text, bytes) else text.encode()})


def test_front_matter_and_body() -> None:
    facts = with_card(
        "---\nlicense: apache-2.0\nlanguage: [en, no]\ntags: [chat, test, chat]\npipeline_tag: text-generation\n"
        "base_model: org/base\ndatasets:\n- one\n- two\nlibrary_name: transformers\n---\n# Title\n\nA *tiny* [model](https://x).\n"
    )
    assert facts.license == "apache-2.0"
    assert facts.languages == ("en", "no")
    assert facts.tags == ("chat", "test")
    assert facts.pipeline_tag == "text-generation"
    assert facts.base_model == ("org/base",)
    assert facts.datasets == ("one", "two")
    assert facts.library_name == "transformers"
    assert facts.description == "A tiny model."
    assert facts.card == "# Title\n\nA *tiny* [model](https://x)."
    assert facts.warnings == ()


@pytest.mark.parametrize(
    ("front_matter", "licence"),
    [
        ("license: other\nlicense_name: llama3.1", "llama3.1"),
        ("license: other", "other"),
        ("license: mit\nlicense_name: llama3.1", "mit"),
        ("license: [mit, apache-2.0]", "mit, apache-2.0"),
        ("license: {a: b}", None),
        ("license: ''", None),
        ("license: true", "true"),
        ('license: "a\\0b\\nc"', "ab c"),
        ("tags: x", None),
    ],
)
def test_licence(front_matter: str, licence: str | None) -> None:
    assert with_card(f"---\n{front_matter}\n---\n").license == licence


def test_licence_of_the_weights_holds_where_the_card_is_silent() -> None:
    files = {"m.gguf": llama_gguf(**{"general.license": "mit"}), "README.md": b"# x"}
    assert inspect_bytes(files).license == "mit"


@pytest.mark.parametrize(
    ("body", "description"),
    [
        ("", None),
        ("# Only a title", None),
        (
            "![badge](x)\n[![b](c)](d)\n\n<div>html</div>\n\n> quote\n\n- item\n\n1. one\n\n| a | b |\n\n---\n\nProse.",
            "Prose.",
        ),
        ("```python\ncode\n\nmore\n```\nProse after **code**.", "Prose after code."),
        ("~~~\ncode\n~~~\n\n    indented\n\nTwo\nlines.\n\nNext.", "Two lines."),
        ("[only a link](https://x)\n\nReal <b>text</b> with `snake_case_name`.", "Real text with snake_case_name."),
        ("word " * 200, ("word " * 99).strip() + "…"),
        ("x" * 2_000, "x" * 499 + "…"),
    ],
)
def test_description_is_the_first_plain_paragraph(body: str, description: str | None) -> None:
    assert with_card(body).description == description


@pytest.mark.parametrize(
    "front_matter",
    [
        "license: [mit",
        "\t- x: :",
        "a: *nowhere",
        "? [a, b] : c",
        "x: " + "[" * 50_000,
        "tags: [" + "a, " * 100_000 + "]",
        "license: mit\n" * 30_000,
    ],
)
def test_bad_front_matter_is_a_warning(front_matter: str) -> None:
    facts = with_card(f"---\n{front_matter}\n---\nBody.")
    assert facts.license is None
    assert facts.description == "Body."
    assert facts.warnings == (
        "The front matter of README.md is not valid YAML, so its licence and tags are not shown.",
    )


@pytest.mark.parametrize("front_matter", ["- a", "just text", "", "5"])
def test_front_matter_of_another_shape_says_nothing(front_matter: str) -> None:
    facts = with_card(f"---\n{front_matter}\n---\nBody.")
    assert (facts.tags, facts.description, facts.warnings) == ((), "Body.", ())


def test_no_tag_of_the_yaml_is_run() -> None:
    facts = with_card('---\nlicense: !!python/object/apply:os.abort []\ntags: [!!python/name:os.system "x", ok]\n---\n')
    assert facts.license is None
    assert facts.tags == ("x", "ok")


@pytest.mark.parametrize("merge", ["", "<<: "])
def test_alias_bomb_stays_small(merge: str) -> None:
    lines = ["a0: &a0 {x: lol}"]
    for level in range(1, 40):
        inner = f"{merge}[*a{level - 1}, *a{level - 1}]"
        lines.append(f"a{level}: &a{level} {{{inner}}}" if merge else f"a{level}: &a{level} {inner}")
    started = time.process_time()
    facts = with_card("---\n" + "\n".join([*lines, "tags: *a39", "license: mit"]) + "\n---\n")
    assert (facts.license, facts.tags) == ("mit", ())
    assert time.process_time() - started < 5


def test_card_is_bounded_printable_and_storable() -> None:
    facts = with_card(b"Zero\x00 \xff\xfe\x1b[31mred\r\nnext\n" + b"x" * 2_000_000)
    assert facts.card is not None
    assert len(facts.card) == 100_000
    assert facts.card.startswith("Zero \ufffd\ufffd[31mred\nnext\n")
    assert facts.warnings == ("README.md is longer than 100,000 characters; the rest is not shown.",)


@pytest.mark.parametrize("unit", ["[", "![", "](", "<a", "*_", "**", "- ", "- - ", "`", "> ", "\n---"])
def test_no_card_takes_long(unit: str) -> None:
    started = time.process_time()
    with_card("a " + unit * (100_000 // len(unit)))
    assert time.process_time() - started < 5


@pytest.mark.parametrize("unit", ["a,", "[],", "{},", "?,", "a: b,", "*a,", "!t a,", "- a\n", "a: b\n", "? a\n", "["])
def test_no_front_matter_takes_long(unit: str) -> None:
    flow = "," in unit or unit == "["
    began = time.process_time()
    facts = with_card(f"---\nx: &a y\nz: {'[' if flow else ''}\n{unit * (250_000 // len(unit))}\n---\nHello")
    assert time.process_time() - began < 1.5
    assert facts.description == "Hello"


def test_a_card_with_large_tables_of_results_is_read() -> None:
    """Cards of embedding models have some thousand figures."""
    figures = "".join(
        f"  - task:\n      type: Retrieval\n    metrics:\n    - type: map_at_{n}\n      value: {n}\n"
        for n in range(1500)
    )
    facts = with_card(f"---\nlicense: mit\nmodel-index:\n- name: x\n  results:\n{figures}---\nHello")
    assert (facts.license, facts.warnings) == ("mit", ())
