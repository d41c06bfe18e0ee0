"""``python -m rl.tabletop``, which writes data sets."""

import sys

from rl.tabletop.dataset import main

if __name__ == "__main__":
    sys.exit(main())
