"""`python -m compressbench`."""

from compressbench.cli import main

main()
