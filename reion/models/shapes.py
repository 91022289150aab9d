"""Names for the shapes of tensors and arrays, for use in signatures: Keras has no types for its tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Field: TypeAlias = Any
"""Keras tensor (batch, x, y, z): one physical field in the units of the data contract."""

Channels: TypeAlias = Any
"""Keras tensor (batch, x, y, z, channel)."""

Conditions: TypeAlias = Any
"""Keras tensor (batch, condition): the normalised redshift, then other numbers, one per snapshot."""

Scalar: TypeAlias = Any
"""Keras tensor of shape ()."""

BoxField: TypeAlias = np.ndarray
"""Array (x, y, z), float32: one field of a whole periodic snapshot."""

BoxChannels: TypeAlias = np.ndarray
"""Array (channel, x, y, z), float32: the channels that a stem computes from a whole periodic snapshot."""
