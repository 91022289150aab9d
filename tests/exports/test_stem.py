"""A file whose first stage is written node by node, and anew for other cells."""

from __future__ import annotations
