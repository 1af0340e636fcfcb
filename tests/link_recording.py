"""Every kind of frame of the link protocol's version before, as its code encoded it. A change that cannot read them, or
that sends what their readers cannot read, breaks agents and servers that were not updated yet.

Never change what was recorded: the next version gets a file of its own.
"""

import json
from pathlib import Path

from modelshare.wire.link import OLDEST_PROTOCOL

_FILE = Path(__file__).with_name(f"link_protocol_{OLDEST_PROTOCOL}.json")
FROM_AGENT, FROM_SERVER = (
    [bytes.fromhex(frame) for frame in frames] for frames in json.loads(_FILE.read_text(encoding="utf-8")).values()
)
