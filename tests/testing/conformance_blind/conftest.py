"""The planted components are imported by name, as a plugin's are: by their place in the project, so that no other module is called so."""

from __future__ import annotations

import sys
from pathlib import Path

if (ROOT := str(Path(__file__).parents[3])) not in sys.path:
    sys.path.append(ROOT)
