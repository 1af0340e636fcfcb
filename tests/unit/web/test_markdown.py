"""Model cards by strangers do no harm, whatever they hold."""

import re
import time
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web import markdown
from modelshare.server.web.markdown import card

ATTACKS = [
    "<script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "<object data=x></object><embed src=x>",
    "<a href='javascript:alert(1)'>x</a>",
    "<a href='JaVaScRiPt:alert(1)'>x</a>",
    "<a href='java\tscript:alert(1)'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<a href=' javascript:alert(1)'>x</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>x</a>",
    "<a href='vbscript:x'>x</a>",
    "[x](javascript:alert(1))",
    "[x](javascript&colon;alert(1))",
    "[x]( javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x]: javascript:alert(1)\n\n[x]",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](https://tracker.example/pixel.png)",
    '![x" onerror="alert(1)](https://x.example/a.png)',
    '![x](https://x.example/"onload="alert(1))',
    "[![x](https://x.example/a.png)](https://x.example)",
    "<form action=https://evil.example><input name=password></form>",
    "<style>body{display:none}</style>",
    "<p style='position:fixed;inset:0'>x</p>",
    "<div class='panel' id='main'>x</div>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    "<video src=x onerror=alert(1)><audio src=x><source src=x>",
    "<details open ontoggle=alert(1)><summary>x</summary></details>",
    "<button onclick=alert(1)>x</button>",
    "<h1 onmouseover=alert(1)>x</h1>",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    '``` "onmouseover="alert(1)\nx\n```',
    "<!--><script>alert(1)</script>-->",
    "<textarea></textarea><script>alert(1)</script>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<template><script>alert(1)</script></template>",
    "<a href=https://x.example target=_blank rel=opener>x</a>",
    "<a hx-get=/sign-out hx-trigger=load>x</a>",
    "<p data-dialog data-hx-post='/dashboard/-/new'>x</p>",
    "---\ntitle: <script>alert(1)</script>\n---\nx",
    "| a |\n|---|\n| <script>alert(1)</script> |",
]
TAGS = markdown._TEXT | markdown._BLOCKS | markdown._HEADINGS | markdown._TABLES
SCHEMES = {"", "http", "https", "mailto"}


class Found(HTMLParser):
    """Every tag with its attributes, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def check(text: str) -> Found:
    """No tag, attribute or scheme but the allowed ones."""
    found = Found(str(card(text)))
    for tag, attributes in found.tags:
        assert tag in TAGS
        own = {"a": {"rel"}, "pre": {"tabindex"}, "table": {"tabindex"}}.get(tag, set())
        assert set(attributes) <= markdown._ATTRIBUTES.get(tag, set()) | own
        if tag == "a":
            assert attributes["rel"] == "nofollow noopener noreferrer ugc"
            href = "".join((attributes.get("href") or "").split())
            assert urlsplit(href).scheme.lower() in SCHEMES
    return found


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("around", ["{}", "> {}", "- {}", "*{}*", "# {}", "<div>\n{}\n</div>", "<b>{}"])
def test_attacks(attack: str, around: str) -> None:
    found = check(around.format(attack))
    assert "javascript:" not in "".join(str(attributes.get("href")) for _, attributes in found.tags).lower()


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    check(text)


@given(
    st.lists(
        st.sampled_from([*ATTACKS, "\n", "\n\n", "`", "<", ">", '"', "[", "](", ")", "<a href=", "&#"]), max_size=8
    )
)
def test_attacks_mixed(parts: list[str]) -> None:
    check("".join(parts))


def test_what_cards_are_made_of() -> None:
    html = str(
        card(
            "---\nlicense: mit\n---\n# Tiny\n\nA **small** _model_ for `tests`, ~~old~~.\n\n"
            "| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\nprint('hi')\n```\n\n- one\n- two\n"
        )
    )
    assert "license" not in html
    assert "<h2>Tiny</h2>" in html
    assert "<strong>small</strong> <em>model</em> for <code>tests</code>, <s>old</s>" in html
    assert '<td align="right">2</td>' in html or "<td>2</td>" in html
    assert '<code class="language-python">' in html
    assert html.count("<li>") == 2


def test_images_become_links() -> None:
    html = str(card("![A plot](https://x.example/plot.png)"))
    assert '<a href="https://x.example/plot.png"' in html
    assert "A plot ↗" in html
    inside = str(card("[![badge](https://x.example/b.svg)](https://x.example)"))
    assert inside.count("<a ") == 1
    beside = str(card("[![a](a.svg) b](https://x.example) ![c](c.svg)\n\n![d](d.svg)"))
    assert re.findall(r'href="([^"]*)"', beside) == ["https://x.example", "c.svg", "d.svg"]


def test_many_images_take_no_longer_each() -> None:
    """In the processor's time; with a look at all images for each, it were about eighty times that of the few."""

    def took(images: int) -> float:
        began = time.process_time()
        card.__wrapped__("![](a) " * images)
        return time.process_time() - began

    took(10)
    assert min(took(8500) for _ in range(2)) < 40 * min(took(500) for _ in range(5))


@pytest.mark.parametrize("depth", [1, 5, 6])
def test_headings_are_below_the_pages_own(depth: int) -> None:
    assert f"<h{min(depth + 1, 6)}>x</h" in card(f"{'#' * depth} x")


def test_a_long_card_is_cut() -> None:
    assert len(card("x" * 1_000_000)) < markdown.MAX_CHARACTERS + 100


@pytest.mark.parametrize(
    "text",
    [
        "![" * 30_000,
        "[" * 60_000,
        "[[](" * 15_000,
        "![[" * 20_000,
        "*_" * 30_000,
        "***a" * 15_000,
        "a*_~`[!<&" * 6_500,
        "|" + "a|" * 3000 + "\n|" + "-|" * 3000 + "\n" + "|\n" * 15_000,
        "|".join("a" * 190) + "\n" + "|".join("-" * 190) + "\n" + "a\n" * 29_000,
        "a|b\n-|-\n" + "a|b\n" * 14_000,
        "<b><p>" * 10_000,
        "> " * 30_000,
        "".join(" " * (2 * depth) + "- a\n" for depth in range(240)),
    ],
    ids=lambda text: text[:8].strip(),
)
def test_no_card_takes_long_however_it_is_laid_out(text: str) -> None:
    """In the processor's time: bounds on work, for a card has bounds on its length as well."""
    card.__wrapped__("warm")
    began = time.process_time()
    html = card.__wrapped__(text)
    assert time.process_time() - began < 0.5
    assert html


def test_what_is_no_prose_is_shown_as_it_is_written() -> None:
    assert str(card("<b>" + "[" * 3000)) == '<pre tabindex="0">&lt;b&gt;' + "[" * 3000 + "</pre>"
    rows = "a|b|c\n-|-|-\n" + "1|2|3\n" * 1000
    assert "<table" in card(rows + "\n" + rows)
    wide = "|" + "a|" * 300 + "\n|" + "-|" * 300
    assert "<table" not in card(wide)
    assert "<table" in card("|" + "a|" * 50 + "\n|" + "-|" * 50)
