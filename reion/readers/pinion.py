"""The layout of PINION: `rho_z8.397.npz`, `nsrc_z8.397.npz`, `xHII_z8.397.npz`.

Byte level: `.npy` bytes (see `reion.readers.npy`) under `.npz` names, arrays of shape (x, y, z). `rho` is the
overdensity rho / mean - 1, `xHII` the ionised fraction. The files lack the unit of `nsrc` and the size of the
box: settings must give both. `irate` and `mask` are not read: ionisation rates and masks are read only
through a mapping, which is for files of other layouts.
"""

from reion.readers.npy_series import series_format

FORMAT = series_format(
    name="pinion",
    description="PINION's rho_z*.npz, nsrc_z*.npz, xHII_z*.npz (.npy bytes under .npz names)",
    ending="npz",
    units={"n_igm": "overdensity", "n_src": "", "xi": "1"},
    source_code="C2-Ray, PINION",
)
