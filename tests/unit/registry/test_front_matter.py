"""Front matter in every form that people and tools give it: licence and tags are read, and none of it becomes prose."""

import codecs
import time
from pathlib import Path

import pytest
from huggingface_hub.repocard import metadata_load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelshare.server.registry.inspection import Facts
from modelshare.server.registry.inspection.front_matter import split
from unit.registry.samples import inspect_bytes, llama_gguf

YAML = "license: apache-2.0\ntags: [alpha, beta]\nlanguage: [en]\n"
CARD = f"---\n{YAML}---\n# Title\n\nA model for tests.\n"
INDENTED = "    ".join(YAML.splitlines(keepends=True))


def with_card(text: str | bytes, name: str = "README.md") -> Facts:
    return inspect_bytes({"m.gguf": llama_gguf(), name: text if isinstance(text, bytes) else text.encode()})


def assert_read(facts: Facts) -> None:
    assert (facts.license, facts.tags, facts.languages) == ("apache-2.0", ("alpha", "beta"), ("en",))
    assert facts.description == "A model for tests."
    assert facts.card is not None
    assert "license" not in facts.card
    assert "alpha" not in facts.card


@pytest.mark.parametrize(
    "text",
    [
        f"\n\n{CARD}",
        f" \t\n{CARD}",
        f"\ufeff\n\ufeff{CARD}",
        f"<!-- managed by a tool -->\n{CARD}",
        f"<!-- a\nb -->\n\n<!-- c -->{CARD}",
        f"<!--\n---\n{YAML}---\n-->\n# Title\n\nA model for tests.\n",
        CARD.replace("---", "--- "),
        CARD.replace("---\n", "  ---\n", 1),
        CARD.replace("\n", "\r\n"),
        CARD.replace("\n", "\r"),
        CARD.replace("---\n#", "...\n#"),
        CARD.replace("---\n#", "...\n---\n#"),
        CARD.replace("[alpha, beta]", "\n\t- alpha\n\t- beta"),
        CARD.replace("[alpha, beta]", "&t [alpha, beta]\nalso: *t"),
        CARD.replace("license:", "License:").replace("tags:", "Tags:"),
        CARD.replace("license:", "licence:"),
    ],
)
def test_what_is_read_without_a_word(text: str) -> None:
    facts = with_card(text)
    assert_read(facts)
    assert facts.warnings == ()


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (CARD.replace("---\n#", "\n#"), "is not closed by a line of ---"),
        (CARD.replace("---\n#", "#"), "is not closed by a line of ---"),
        (CARD.replace("---\n# Title\n", ""), "is not closed by a line of ---"),
        (CARD.replace("---\n#", "\n#") + "\n---\n\nMore: of it [.\n", "is not closed by a line of ---"),
        (CARD.removeprefix("---\n"), "does not begin with a line of ---"),
        (CARD.replace("---\n", "").replace("# Title", "\n# Title"), "does not begin with a line of ---"),
        (f"# Title\n\n{CARD}", "is not at the beginning"),
        (f"```yaml\n{YAML}```\n# Title\n\nA model for tests.\n", None),
        (f"```\n---\n{YAML}---\n```\n# Title\n\nA model for tests.\n", None),
        (f"```markdown\n{CARD}```\n", None),
        (f"~~~yml\n{YAML}~~~\n\nA model for tests.\n", None),
        (f"---\ntags: [alpha, beta]\nlanguage: en\n---\n{CARD}", "appears more than once"),
        (f"---\nlicense: apache-2.0\n---\n{CARD.removeprefix('---').lstrip()}", "appears more than once"),
        (CARD.replace("---", "----"), None),
    ],
)
def test_what_is_read_though_other_programs_may_not(text: str, because: str | None) -> None:
    facts = with_card(text)
    assert_read(facts)
    if because is not None:
        assert [warning for warning in facts.warnings if f"The front matter of README.md {because}" in warning]


def test_toml_is_read() -> None:
    toml = (
        'license = "apache-2.0"\ntags = ["alpha", "beta"]\nlanguage = ["en"]\ndate = 2024-01-01\nn = 1.5\nis = true\n'
    )
    assert_read(with_card(f"+++\n{toml}+++\n# Title\n\nA model for tests.\n"))
    facts = with_card(f"+++\n{toml}\n# Title\n\nA model for tests.\n")
    assert_read(facts)
    assert facts.warnings == ("The front matter of README.md is not closed by a line of +++.",)
    facts = with_card('+++\nlicense = "mit\n+++\nProse.')
    assert facts.warnings == (
        "The front matter of README.md is not valid TOML, so its licence and tags are not shown.",
    )
    assert (facts.license, facts.description) == (None, "Prose.")


@pytest.mark.parametrize(
    ("encoded", "warning"),
    [
        (codecs.BOM_UTF8 + CARD.encode(), None),
        (codecs.BOM_UTF16_LE + CARD.encode("utf-16-le"), None),
        (codecs.BOM_UTF16_BE + CARD.encode("utf-16-be"), None),
        (codecs.BOM_UTF32_LE + CARD.encode("utf-32-le"), None),
        (CARD.encode("utf-16-le"), None),
        (CARD.encode("utf-16-be"), None),
        (
            CARD.encode() + "\nGr\u00f6\u00dfe".encode("latin-1"),
            "README.md is not UTF-8 and was read as Windows-1252.",
        ),
        (CARD.encode() + b"\n\xc3\xa9\xc3\xa9\xff", "README.md contains bytes that are not UTF-8"),
    ],
    ids=["utf-8", "utf-16-le", "utf-16-be", "utf-32", "le-unmarked", "be-unmarked", "latin-1", "one-bad-byte"],
)
def test_encodings(encoded: bytes, warning: str | None) -> None:
    facts = with_card(encoded)
    assert_read(facts)
    assert len(facts.warnings) == (warning is not None)
    assert not warning or facts.warnings[0].startswith(warning)


def test_windows_letters_are_read_as_such() -> None:
    assert (
        with_card("Gr\u00f6\u00dfe \u2013 5 \u20ac".encode("cp1252")).description == "Gr\u00f6\u00dfe \u2013 5 \u20ac"
    )


def test_a_letter_that_the_bound_cuts_is_no_other_encoding() -> None:
    facts = with_card(("x" * (1 << 20))[:-1] + "\u00e9")
    assert facts.warnings == ("README.md is longer than 100,000 characters; the rest is not shown.",)


@pytest.mark.parametrize(
    ("front_matter", "tags"),
    [
        ("tags: [2024-01-01, 3.5, 0x10, true, null, no]", ("2024-01-01", "3.5", "0x10", "true", "null", "no")),
        ("tags: &a [x]\ndatasets: *a", ("x",)),
        ("tags: x", ("x",)),
        ("tags:\n- !!int 5\n- !custom y", ("5", "y")),
    ],
)
def test_tags(front_matter: str, tags: tuple[str, ...]) -> None:
    assert with_card(f"---\n{front_matter}\n---\n").tags == tags


@pytest.mark.parametrize("front_matter", ["license: {a: b}", "tags: {a: b}", "license: [[mit]]", "tags: [{a: b}]"])
def test_what_is_stated_in_an_odd_form_is_said(front_matter: str) -> None:
    facts = with_card(f"---\n{front_matter}\n---\n")
    key = front_matter.partition(":")[0]
    assert facts.warnings[0].startswith(f"The front matter of README.md states `{key}` in a form that cannot be shown")


@pytest.mark.parametrize(
    "text",
    [
        "Prose first.\n\n```yaml\n---\nlicense: mit\n---\n```\n",
        "---\n\nProse first.\n",
        "-----\nTitle\n-----\n\nProse first.\n",
        "Prose first.\n---\nlicensed: by nobody\n---\n",
        "License: see below\n\n# Title\n",
        "| a |\n|---|\n| license: mit |\n",
        "<!-- license: mit -->\n# T\n\nProse first.",
    ],
)
def test_prose_is_no_front_matter(text: str) -> None:
    found = split(text)
    assert (found.fields, found.body, found.problems) == ({}, text, ())


def test_comments_are_no_description() -> None:
    assert with_card("<!-- managed\nby a tool\n-->\nProse.\n").description == "Prose."


def test_stray_lines_of_yaml_are_no_description() -> None:
    assert with_card("# T\n\nlicense: mit\nmetrics:\n\nProse.\n").description == "Prose."


@pytest.mark.parametrize("name", ["readme.md", "README.MD", "Readme.md"])
def test_the_name_in_any_case(name: str) -> None:
    assert_read(with_card(CARD, name))


def test_the_card_of_the_models_own_folder_fills_up_the_one_at_the_top() -> None:
    gguf = llama_gguf()
    assert_read(inspect_bytes({"model/m.gguf": gguf, "model/README.md": CARD.encode()}))
    top = b"---\nlicense: mit\n---\nAt the top.\n"
    facts = inspect_bytes({"model/m.gguf": gguf, "model/README.md": CARD.encode(), "README.md": top})
    assert (facts.license, facts.tags, facts.description) == ("mit", ("alpha", "beta"), "At the top.")
    bare = inspect_bytes({"model/m.gguf": gguf, "model/README.md": CARD.encode(), "README.md": b"# Only a title\n"})
    assert (bare.license, bare.card) == ("apache-2.0", "# Only a title")


PIECES = st.sampled_from(
    [
        "---",
        "--- ",
        "...",
        "\n",
        "\r\n",
        "\n\n",
        "license: mit",
        "tags: [a]",
        "tags:\n- b",
        " ",
        "# T",
        "Prose",
        "<!-- c -->",
    ]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_at_least_what_the_hub_reads_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(text.encode())
    try:
        theirs = metadata_load(path) or {}
    except Exception:  # noqa: BLE001 - whatever it cannot read, it has no answer for
        return
    ours = split(text.replace("\r\n", "\n")).fields
    assert {key: ours.get(key) for key in ("license", "tags") if key in theirs} == {
        key: theirs[key] for key in ("license", "tags") if key in theirs
    }


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="-+`~<!>.:[]{}&*?|#\t\n ab", max_size=200))
def test_nothing_raises(text: str) -> None:
    split(text)
    split(f"---\nlicense: mit\n{text}")


@pytest.mark.parametrize(
    "unit", ["---\n", "---\nlicense: mit\n", "```\n", "<!--", "<!-- -->", "+++\n", "license: a\n\n", "~~~\n---\n"]
)
def test_no_text_takes_long(unit: str) -> None:
    with_card(unit * (1_000_000 // len(unit)))


@pytest.mark.parametrize(
    "text",
    [
        "license: mit\na" + " " * 400_000 + "\n",
        "---" + " " * 400_000 + "x\n",
        "```" + " " * 400_000 + "x\n",
        "<!--license: a-->" * 50_000,
        "+++\n" + ".".join("a" * 200_000) + " = 1\n+++\n",
        "+++\n[" + ".".join("a" * 10_000) + "]\n" + "".join(f"k{n} = 1\n" for n in range(10_000)) + "+++\n",
        "\n".join("`" * n + "yaml" for n in range(1000, 2, -1)) + "\n" + "\n".join("`" * n for n in range(3, 1001)),
    ],
    ids=["blanks", "opening", "fence", "comments", "dotted", "tables", "fences in fences"],
)
def test_no_card_takes_long(text: str) -> None:
    began = time.process_time()
    split(text)
    assert time.process_time() - began < 20


def test_a_character_beyond_unicode_makes_a_warning() -> None:
    facts = with_card('---\nlicense: "\\UFFFFFFFF"\n---\n# Title\n\nA model for tests.\n')
    assert (facts.license, facts.description) == (None, "A model for tests.")
    assert any("is not valid YAML" in warning for warning in facts.warnings)
