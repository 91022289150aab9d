"""The schema of a ray tracing takes what makes sense and names what does not."""

from __future__ import annotations

import pytest

from reion.errors import InputError
from reion.ray_tracing.settings import PowerLaw, RayTracing
from reion.schema import load_schema


def test_settings_are_toml():
    tracing = load_schema(RayTracing, settings=["max_mfp=30", "spectrum.kind=power_law", "spectrum.index=2"])
    assert tracing.max_mfp == 30.0
    assert tracing.spectrum == PowerLaw(index=2.0)


def test_clumping_between_redshifts():
    tracing = load_schema(RayTracing, settings=["clumping=[[6, 3.0], [12, 1.0]]"])
    assert [tracing.clumping_at(redshift) for redshift in (13.0, 12.0, 9.0, 5.0)] == [1.0, 1.0, 2.0, 3.0]
    assert RayTracing(clumping=2.5).clumping_at(8.0) == 2.5


@pytest.mark.parametrize(
    "setting",
    [
        "max_mfp=-1",
        "max_mfp=far",
        "clumping=0.5",
        "clumping=[[6, 0.5]]",
        "clumping=[]",
        "steps=0",
        "spectrum.kind=line",
        "temperature=1e4",
        "tolerance=1",
    ],
)
def test_what_makes_no_sense(setting):
    with pytest.raises(InputError, match="does not fit") as error:
        load_schema(RayTracing, settings=[setting])
    assert setting.partition("=")[0].partition(".")[0] in error.value.message
