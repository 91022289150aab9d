"""A file whose first stage is written node by node, and anew for other cells."""

from __future__ import annotations

import numpy as np
import pytest

from reion.config import load_config
from reion.errors import InputError
from reion.models.build import build_model, build_network
from reion.prediction.cells import at_cell_size
from reion.prediction.emulator import Emulator
from reion.readers import load_sample
from reion.simulation.contract import CELL_SIZE_TOLERANCE
