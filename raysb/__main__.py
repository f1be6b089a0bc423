"""`python -m raysb` is the `raysb` command."""

import sys

from raysb.cli import main

if __name__ == "__main__":
    sys.exit(main())
