"""`python -m maws_composer.cli`: as `maws-composer`, where that is not on the path."""

import sys

from maws_composer.cli import main

if __name__ == "__main__":
    sys.exit(main())
