"""`python -m streaming_conversion`."""

import sys

from streaming_conversion.cli import main

if __name__ == "__main__":
    sys.exit(main())
