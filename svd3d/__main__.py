"""`python -m svd3d` is the command `svd3d`."""

import sys

from svd3d.cli import main

if __name__ == "__main__":
    sys.exit(main())
