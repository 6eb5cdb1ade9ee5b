"""`python -m compressbench`: in a process that is warm already where there is one."""

import sys

from compressbench.warm import delegate

if (code := delegate()) is not None:
    sys.exit(code)

from compressbench.cli import main

main()
