"""Reads text files in the encodings that editors use."""

import codecs
import re
from typing import Final

from modelshare.server.registry.inspection.reader import RangeReader, head

_MARKS: Final = (  # in this order: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 400  # bytes
_BINARY = re.compile(rb"[\0-\x08\x0e-\x1f]")


def read_text(reader: RangeReader, max_bytes: int) -> tuple[str, str | None]:
    """The text in the file's first `max_bytes`, and any problem with it, as the end of a sentence."""
    data = head(reader, max_bytes)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), None
    if unmarked := _without_mark(data[:_SAMPLE]):
        return data.decode(unmarked, "replace"), None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=reader.size <= max_bytes), None
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    if _BINARY.search(data):
        return text, None
    odd = text.count("\ufffd")
    if sum(not character.isascii() for character in text) - odd >= odd:
        return text, "contains bytes that are not UTF-8, shown as �. Save it as UTF-8."
    return data.decode("cp1252", "replace"), "is not UTF-8 and was read as Windows-1252. Save it as UTF-8."


def _without_mark(sample: bytes) -> str | None:
    """Detects UTF-16 without a byte order mark: in Latin text, every other byte is zero."""
    if len(sample) < 4 or len(sample) % 2:  # noqa: PLR2004 - two characters say too little otherwise
        sample = sample[:-1]
    low, high = sample[::2], sample[1::2]
    if low and all(low) and not any(high):
        return "utf-16-le"
    return "utf-16-be" if high and all(high) and not any(low) else None
