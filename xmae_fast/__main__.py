"""`python -m xmae_fast`: the command `xmae-fast`."""

import sys

from xmae_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
