"""Recorded frames of the previous version of the link protocol, of every type.

A change that cannot decode them, or that sends frames that the previous version cannot decode, breaks agents and
servers that have not been updated yet.

Never change the recording: each version has its own file.
"""

import json
from pathlib import Path

from modelshare.wire.link import OLDEST_PROTOCOL

_FILE = Path(__file__).with_name(f"link_protocol_{OLDEST_PROTOCOL}.json")
FROM_AGENT, FROM_SERVER = (
    [bytes.fromhex(frame) for frame in frames] for frames in json.loads(_FILE.read_text(encoding="utf-8")).values()
)
