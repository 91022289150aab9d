"""An emulator that can be sent to other processes."""

from __future__ import annotations

import math
from functools import cached_property

from reion.jobs.resources import thread_limit
from reion.jobs.workers import Portable
from reion.prediction.emulator import Emulator
from reion.prediction.sessions import Device


class PortableEmulator(Portable):
    """An emulator that can be sent to other processes, and opens one session in each."""

    def __init__(self, emulator: Emulator, device: Device) -> None:
        self._content, self._device = emulator.file_content, device
        self._cell_size_mpc = emulator.card.cell_size_mpc
        self.emulator = emulator

    @cached_property
    def emulator(self) -> Emulator:
        """The emulator, with a session of this process."""
        emulator = Emulator(self._content, device=self._device, threads=thread_limit())
        if math.isclose(self._cell_size_mpc, emulator.card.cell_size_mpc, rel_tol=1e-9):
            return emulator
        return emulator.at_cell_size(self._cell_size_mpc)
