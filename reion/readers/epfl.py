"""The layout of the EPFL student project: `rho_z8.397.npy`, `nsrc_z8.397.npy`, `xHII_z8.397.npy`.

Byte level: `.npy` (see `reion.readers.npy`), arrays of shape (x, y, z). `rho` is the comoving baryon density
in g cm-3, `xHII` the ionised fraction. The files lack the unit of `nsrc` and the size of the box: settings
must give both.
"""

from reion.readers.npy_series import series_format

FORMAT = series_format(
    name="epfl",
    description="the EPFL project's rho_z*.npy, nsrc_z*.npy, xHII_z*.npy",
    ending="npy",
    units={"n_igm": "g cm-3", "n_src": "", "xi": "1"},
    source_code="C2-Ray, EPFL layout",
)
