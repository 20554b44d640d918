"""Puts the planted components where the ranks that layouts are tried on find them too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
