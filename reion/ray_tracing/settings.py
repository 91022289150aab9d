"""Settings of a ray tracing: one schema for TOML file, `--set`, Python call and attributes of the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from reion.physics.mean_free_path import MODELS
from reion.schema import Schema
from reion.simulation.recombinations import clumping_between

DIFFUSE_SHARE = 0.1
"""Where more than this share of the cells emit, faint sources share rays by default."""

TRACED_FIELDS = ("xi", "ionisation_rate")
"""Fields that a ray tracing computes, the second only on request; those of an earlier one are dropped."""


def traced_fields(*, rates: bool) -> tuple[str, ...]:
    """Fields that a ray tracing stores; with `rates` also the photo-ionisation rate."""
    return TRACED_FIELDS if rates else TRACED_FIELDS[:1]


def _known_model(value: float | str) -> float | str:
    if isinstance(value, str) and value not in MODELS:
        raise ValueError(f"expected a length in Mpc or one of {', '.join(MODELS)}; received {value!r}")
    return value


MaxMfp = Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | str, AfterValidator(_known_model)]
"""The comoving radius in Mpc that photons reach, or the name of a mean-free-path model."""


class BlackBody(Schema):
    """Sources that shine as black bodies, from 1 Rydberg to `highest_ry`."""

    kind: Literal["black_body"] = "black_body"
    temperature_k: Annotated[float, Field(ge=1e3, le=1e7)] = 5e4
    highest_ry: Annotated[float, Field(gt=1, le=1e4)] = 10.0


class PowerLaw(Schema):
    """Sources whose luminosity per frequency falls as frequency^-`index`, from 1 Rydberg to `highest_ry`."""

    kind: Literal["power_law"] = "power_law"
    index: Annotated[float, Field(ge=-5, le=10)] = 1.5
    highest_ry: Annotated[float, Field(gt=1, le=1e4)] = 10.0


class RayTracing(Schema):
    """All settings on which the result of a ray tracing depends."""

    max_mfp: MaxMfp | None = None
    """The comoving radius in Mpc that photons reach, or the name of a mean-free-path model. Absent: the
    Simulation's own `max_mfp`."""
    spectrum: Annotated[BlackBody | PowerLaw, Field(discriminator="kind")] = BlackBody()
    temperature_k: Annotated[float, Field(ge=1, le=1e6)] = 1e4
    """Temperature of the gas, which decides how fast it recombines."""
    clumping: Annotated[float, Field(ge=1)] | tuple[tuple[float, float], ...] = 1.0
    """<n^2> / <n>^2 within a cell: a number, or pairs of redshift and number, linear between the
    redshifts."""
    initial_xi: Annotated[float, Field(ge=0, lt=1)] = 2e-4
    """Ionised fraction of every cell at the first snapshot, also where the Simulation holds one."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 3
    """Number of equally long time steps from one snapshot to the next."""
    tolerance: Annotated[float, Field(gt=0, lt=0.1)] = 1e-4
    """Share of the cells that may still change by more than 1e-3 when a step counts as converged."""
    photon_tolerance: Annotated[float, Field(gt=0, lt=0.1)] = 2e-3
    """Photons that may be unaccounted for when a step counts as converged, relative to the emitted
    photons."""
    max_iterations: Annotated[int, Field(ge=1)] = 200
    """Iterations of rays and chemistry after which a step ends in any case."""
    conserve: bool = True
    """Scale each source's rates so that its absorbed and lost photons are the emitted ones; C2-Ray does
    not."""
    faint_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the photons whose sources, the faintest, count as faint: photons that leave the cell of a
    faint source start from the brightest faint source near it. Absent: 0.5 where more than one cell in ten
    emits, otherwise 0."""

    @field_validator("spectrum", mode="before")
    @classmethod
    def _black_body_unless_named(cls, value: Any) -> Any:
        return {"kind": "black_body", **value} if isinstance(value, Mapping) else value

    @field_validator("clumping")
    @classmethod
    def _table_by_redshift(
        cls, value: float | tuple[tuple[float, float], ...]
    ) -> float | tuple[tuple[float, float], ...]:
        if isinstance(value, tuple):
            if not value or any(factor < 1 for _, factor in value):
                raise ValueError("expected pairs of a redshift and a factor of at least 1")
            return tuple(sorted(value))
        return value

    def clumping_at(self, redshift: float) -> float:
        """The clumping factor at a redshift; beyond the table that of its nearest end."""
        if isinstance(self.clumping, tuple):
            return clumping_between(self.clumping, redshift)
        return self.clumping
