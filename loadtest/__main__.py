"""Entry point of `python -m loadtest`."""

import sys

from loadtest.cli import main

sys.exit(main())
