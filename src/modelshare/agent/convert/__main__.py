"""`python -m modelshare.agent.convert FOLDER FILE --type f16`: safetensors to GGUF, in a process of its own.

Exits with 0 when FILE is there, and with 1 and one sentence when it cannot be. Ends with whoever holds its standard
input open.
"""

import argparse
import sys
from pathlib import Path

from modelshare.agent.convert.gguf_file import WeightType, convert
from modelshare.agent.convert.source import ConversionError
from modelshare.agent.engines import lifeline


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", type=WeightType, choices=list(WeightType), default=WeightType.F16)
    arguments = parser.parse_args()
    lifeline.attach()
    try:
        convert(arguments.folder, arguments.file, arguments.type)
    except (ConversionError, OSError) as error:
        print(error, flush=True)  # noqa: T201  the agent reads it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
