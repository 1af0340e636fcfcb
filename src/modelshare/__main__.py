"""Makes `python -m modelshare` equivalent to the command `modelshare`."""

from modelshare.cli import main

main()
