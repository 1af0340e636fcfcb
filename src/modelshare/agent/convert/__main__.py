"""`python -m modelshare.agent.convert FOLDER FILE --type f16`: converts safetensors to GGUF in a separate process.

Exits with 0 when FILE is complete. If it cannot be converted, the last line of output is a human-readable reason, and
the exit code is `TOLD`. For any other exit code, the output is for the operator. Exits as well when its standard input
closes.
"""

import argparse
import sys
from pathlib import Path

from modelshare.agent.convert.cache import TOLD
from modelshare.agent.convert.gguf_file import WeightType, convert
from modelshare.agent.convert.values import ConversionError
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
    except ConversionError as error:
        return _told(str(error))
    except OSError as error:
        return _told(f"the agent's disk failed: {error.strerror or 'no reason given'}.")
    return 0


def _told(reason: str) -> int:
    print(reason, flush=True)  # noqa: T201  the agent reads it
    return TOLD


if __name__ == "__main__":
    sys.exit(main())
