"""``python -m connectivity.native``: compile the helper where the package lies."""

import sys

from connectivity.native.build import main

sys.exit(main())
