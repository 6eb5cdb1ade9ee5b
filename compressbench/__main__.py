"""`python -m compressbench`: in a process forked by the fork server where there is one."""

import sys

from compressbench.fork_server import delegate

if (code := delegate()) is not None:
    sys.exit(code)

from compressbench.cli import main

main()
