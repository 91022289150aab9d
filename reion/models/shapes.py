"""Shapes that pass through the networks, as names for signatures: Keras ships no types for its tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Field: TypeAlias = Any
"""Keras tensor (batch, x, y, z): one physical field in the units of the data contract."""

Channels: TypeAlias = Any
"""Keras tensor (batch, x, y, z, channel)."""

Conditions: TypeAlias = Any
"""Keras tensor (batch, condition): the redshift, normalised, and what else is one number a snapshot."""

Scalar: TypeAlias = Any
"""Keras tensor of no dimension."""

BoxField: TypeAlias = np.ndarray
"""Array (x, y, z), float32: one field of a whole periodic snapshot."""

BoxChannels: TypeAlias = np.ndarray
"""Array (channel, x, y, z), float32: what a stem makes of a whole periodic snapshot."""
