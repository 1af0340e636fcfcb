"""`python -m modelshare` is the command `modelshare`."""

from modelshare.cli import main

main()
