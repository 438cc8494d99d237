"""`python -m criteria_cli`."""

import sys

from criteria_cli.cli.app import main

sys.exit(main())
