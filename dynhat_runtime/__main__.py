"""`python -m dynhat_runtime` is the command `dynhat`."""

from dynhat_runtime.cli import main

main()
