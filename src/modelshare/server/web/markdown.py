"""Model cards: Markdown by strangers, as HTML that can do no harm.

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
"""Of a card are rendered; the rest is in the file, which is listed."""
_MAX_BRACKETS: Final = 2_000
"""Opening ones: what each may be the beginning of is looked for in all that follows."""
_MAX_MARKS: Final = 12_000
"""Characters that may mean something other than themselves."""
_MARKS: Final = "[]*_`~<!&\\"
_MAX_COLUMNS: Final = 200
"""Of a table."""
_MAX_CELLS: Final = 20_000
"""Of tables; rows that lack some are filled up, so a few characters may ask for many."""
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
    """The card as HTML, its front matter left out; headings begin at the second level, under the page's own."""
    text = front_matter.split(text[:MAX_CHARACTERS].replace("\r\n", "\n")).body
    if _takes_long(text):
        return Markup('<pre tabindex="0">{}</pre>').format(text)
    html = _parser().render(text)
    return Markup(  # noqa: S704 - what nh3 lets pass is safe, and that is all there is
        nh3.clean(
            html,
            tags=_TEXT | _BLOCKS | _HEADINGS | _TABLES,
            attributes=_ATTRIBUTES,
            set_tag_attribute_values={"pre": {"tabindex": "0"}, "table": {"tabindex": "0"}},  # to scroll by keyboard
            url_schemes=_SCHEMES,
            link_rel="nofollow noopener noreferrer ugc",
            clean_content_tags={"script", "style", "title", "textarea", "noscript", "iframe", "svg", "math"},
        )
    )


async def prepare(text: str) -> None:
    """Renders the card in a thread, since a long one takes a while; `card` then has it from memory."""
    await asyncio.to_thread(card, text)


def coded(text: str) -> Markup:
    """A sentence of ours, what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704 - all of it was escaped


def _takes_long(text: str) -> bool:
    """Whether it is no prose by far: work grows faster than its length then."""
    return (
        text.count("[") > _MAX_BRACKETS
        or sum(map(text.count, _MARKS)) > _MAX_MARKS
        or any(line.count("|") > _MAX_COLUMNS for line in text.splitlines())
        or sum(map(_cells, _BLANK_LINE.split(text))) > _MAX_CELLS
    )


def _cells(block: str) -> int:
    """Of the table that these lines may be: it has as many columns as one of them at most."""
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
    """A link, so that opening a page tells nobody of its reader; words alone where it is in a link already."""
    token = tokens[index]
    words = Markup.escape(token.content or "image")
    if token.meta["in_link"]:
        return str(words)
    return str(Markup('<a href="{}">{} ↗</a>').format(token.attrs.get("src", ""), words))
