"""Logging to stderr: human-readable lines, or one JSON object per line."""

import json
import logging
import sys
from typing import Final

from modelshare.wire.text import visible


def log_to_stderr(*, as_json: bool = False, verbose: bool = False) -> None:
    """Configures logging for the whole program."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _HumanReadable())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for noisy in ("asyncio", "aiohttp", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


_PREFIXES: Final = {logging.WARNING: "warning: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}


class _HumanReadable(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(mark)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.mark = _PREFIXES.get(record.levelno, "")
        return visible(super().format(record), keep="\n")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"at": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
