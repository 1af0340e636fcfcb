"""Renders model cards: untrusted Markdown to safe HTML.

CommonMark with tables (markdown-it-py), then an allow-list of tags and attributes (nh3): no script, style, form or
frame, and nothing that a browser would fetch from elsewhere: an image becomes a link to it.
"""

import asyncio
import functools
import re
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from modelshare.server.registry.inspection import front_matter

MAX_CHARACTERS: Final = 60_000
"""Characters of a card that are rendered; the rest is in the listed file."""
_MAX_BRACKETS: Final = 2_000
"""Opening brackets: for each, the parser searches all of the following text."""
_MAX_MARKS: Final = 12_000
"""Characters with a special meaning."""
_MARKS: Final = "[]*_`~<!&\\"
_MAX_COLUMNS: Final = 200
"""Per table."""
_MAX_CELLS: Final = 20_000
"""In all tables; short rows are filled up, so that a few characters may create many."""
_TEXT: Final = {
    "a",
    "abbr",
    "b",
    "br",
    "code",
    "del",
    "em",
    "i",
    "kbd",
    "q",
    "s",
    "samp",
    "strong",
    "sub",
    "sup",
    "var",
}
_BLOCKS: Final = {"blockquote", "dd", "details", "dl", "dt", "hr", "li", "ol", "p", "pre", "summary", "ul"}
_HEADINGS: Final = {"h2", "h3", "h4", "h5", "h6"}
_TABLES: Final = {"table", "tbody", "td", "th", "thead", "tr"}
_ATTRIBUTES: Final[dict[str, set[str]]] = {
    "a": {"href", "title"},
    "abbr": {"title"},
    "code": {"class"},
    "ol": {"start"},
    "td": {"align", "colspan", "rowspan"},
    "th": {"align", "colspan", "rowspan"},
}
_BLANK_LINE: Final = re.compile(r"\n[ \t\r]*\n")
_CODE: Final = re.compile(r"`([^`]+)`")
_SCHEMES: Final = {"http", "https", "mailto"}


@functools.lru_cache(maxsize=256)
def card(text: str) -> Markup:
    """The card as HTML, without front matter. Headings start at the second level, below the page's."""
    text = front_matter.split(text[:MAX_CHARACTERS].replace("\r\n", "\n")).body
    if _takes_long(text):
        return Markup('<pre tabindex="0">{}</pre>').format(text)
    html = _parser().render(text)
    return Markup(  # noqa: S704 - sanitized by nh3
        nh3.clean(
            html,
            tags=_TEXT | _BLOCKS | _HEADINGS | _TABLES,
            attributes=_ATTRIBUTES,
            set_tag_attribute_values={"pre": {"tabindex": "0"}, "table": {"tabindex": "0"}},  # for keyboards
            url_schemes=_SCHEMES,
            link_rel="nofollow noopener noreferrer ugc",
            clean_content_tags={"script", "style", "title", "textarea", "noscript", "iframe", "svg", "math"},
        )
    )


async def prepare(text: str) -> None:
    """Renders the card in a thread, since a long one takes a while; `card` then returns it from a cache."""
    await asyncio.to_thread(card, text)


def coded(text: str) -> Markup:
    """A message of the platform as HTML, with text in backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704 - escaped


def _takes_long(text: str) -> bool:
    """Whether rendering would take long: for some unusual texts, it is not linear."""
    return (
        text.count("[") > _MAX_BRACKETS
        or sum(map(text.count, _MARKS)) > _MAX_MARKS
        or any(line.count("|") > _MAX_COLUMNS for line in text.splitlines())
        or sum(map(_cells, _BLANK_LINE.split(text))) > _MAX_CELLS
    )


def _cells(block: str) -> int:
    """An upper bound of the cells, if these lines are a table."""
    lines = block.splitlines()
    bars = max((line.count("|") for line in lines), default=0)
    return (bars + 1) * len(lines) if bars else 0


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.core.ruler.push("headings", _lower_headings)
    parser.core.ruler.push("images", _mark_images_in_links)
    parser.add_render_rule("image", _image)
    return parser


def _lower_headings(state: Any) -> None:
    for token in state.tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"


def _mark_images_in_links(state: Any) -> None:
    for block in state.tokens:
        depth = 0
        for token in block.children or ():
            if token.type in {"link_open", "link_close"}:
                depth += token.nesting
            elif token.type == "image":
                token.meta["in_link"] = depth > 0


def _image(_: object, tokens: list[Token], index: int, *__: object) -> str:
    """A link instead of an image, so that pages make no requests to other sites; only its text within a link."""
    token = tokens[index]
    words = Markup.escape(token.content or "image")
    if token.meta["in_link"]:
        return str(words)
    return str(Markup('<a href="{}">{} ↗</a>').format(token.attrs.get("src", ""), words))
