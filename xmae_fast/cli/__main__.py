"""`python -m xmae_fast.cli`, which torchrun starts."""

import sys

from xmae_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
