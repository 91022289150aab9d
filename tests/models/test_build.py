"""What the networks promise: shapes, symmetries, dense evaluation equal to one neighbourhood at a time."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from reion.config import load_config  # noqa: E402
from reion.errors import InputError  # noqa: E402
from reion.models.build import build_model, build_network  # noqa: E402
from reion.models.normalizer import Normalizer  # noqa: E402
from reion.models.stems import PhotonBalance  # noqa: E402
from reion.registry import NETWORKS  # noqa: E402
from reion_kernels import N_SYMMETRIES, symmetry  # noqa: E402

SMALL = {
    "reion": [
        "model.smoothing_cells=[3,3,5]",
        "model.diffusion_cells=[3,5,3]",
        "model.width=6",
        "model.hidden=5",
        "model.blocks=2",
    ],
    "transport": [
        "model.smoothing_mpc=[4,7]",
        "model.diffusion_mpc=[4,6,4]",
        "model.farthest_mpc=6",
        "model.width=6",
        "model.hidden=5",
        "model.blocks=2",
    ],
    "unet": ["model.filters=[3,4,5]"],
    "pinion": ["model.filters=[3,4,5]", "model.dense=[6,4]", "model.mask_smoothing_cells=[3,5]"],
    "patch": ["model.filters=[3,4]", "model.dense=[8,4]"],
    "voxel": ["model.hidden=[5,3]"],
}


def small_model(name, *settings):
    return build_model(load_config(settings=[f"model.name={name}", *SMALL[name], *settings]))


def normalizer_for(model):
    n = len(model.stem.channels)
    return Normalizer(
        channels=tuple(model.stem.channels),
        scale=tuple(model.stem.scale),
        transform=tuple(model.stem.transform),
        mean=tuple(np.linspace(-0.5, 0.5, n)),
        std=tuple(np.linspace(0.8, 1.2, n)),
        redshift_mean=8.0,
        redshift_std=2.0,
        xi_mean=0.4,
        xi_std=0.3,
    )


GENERATORS = (4, 8, 24)
"""Three turns and reflections of which all `N_SYMMETRIES` are made: what they leave as it is, all do."""


def random_fields(shape, seed=0):
    """Gas, and sources that have emitted about half a photon for each atom: xi is neither 0 nor 1."""
    rng = np.random.default_rng(seed)
    return {
        "n_igm": (4e-31 * rng.lognormal(0, 0.4, shape)).astype(np.float32),
        "n_ion": np.where(rng.random(shape) < 0.05, rng.lognormal(3.3, 1, shape), 0).astype(np.float32),
    }


def predict(network, fields, radius_cells, redshift=8.0, stride_cells=1):
    shape = fields["n_igm"].shape
    width = [(radius_cells, radius_cells + -n % stride_cells) for n in shape]
    inputs = {name: np.pad(values, width, mode="wrap")[None] for name, values in fields.items()}
    inputs["redshift"] = np.array([redshift], np.float32)
    if len(network.inputs) == 4:
        inputs["max_mfp"] = np.array([15.0], np.float32)
    answer = network(inputs, training=False)
    xi = keras.ops.convert_to_numpy(answer["xi"] if isinstance(answer, dict) else answer)[0]
    assert xi.shape == tuple(n + -n % stride_cells for n in shape)
    return xi[tuple(map(slice, shape))]


@pytest.fixture(scope="module", params=NETWORKS.own)
def network(request):
    model = small_model(request.param)
    return model, build_network(model, normalizer_for(model))


def test_the_radius_is_what_it_says(network):
    model, net = network
    predict(net, random_fields((7, 9, 8)), model.radius_cells, stride_cells=model.stride_cells)


def test_xi_is_a_fraction_and_depends_on_every_input(network):
    model, net = network
    fields = random_fields((8, 8, 8))
    xi = predict(net, fields, model.radius_cells)
    assert xi.min() >= 0
    assert xi.max() <= 1
    for name in fields:
        changed = {**fields, name: fields[name] * 2}
        assert not np.allclose(predict(net, changed, model.radius_cells), xi, rtol=1e-3, atol=1e-7)
    assert not np.allclose(predict(net, fields, model.radius_cells, redshift=6.0), xi, rtol=1e-3, atol=1e-7)


def test_a_rolled_box_gives_the_rolled_answer(network):
    model, net = network
    stride = model.stride_cells
    fields = random_fields((8, 7, 9) if stride == 1 else (2 * stride, stride, 3 * stride))
    shift = tuple(stride * cells for cells in (3, -2, 5))
    rolled = {name: np.roll(values, shift, (0, 1, 2)) for name, values in fields.items()}
    expected = np.roll(predict(net, fields, model.radius_cells), shift, (0, 1, 2))
    np.testing.assert_allclose(predict(net, rolled, model.radius_cells), expected, atol=1e-6)


@pytest.mark.slow
def test_a_turned_box_gives_the_turned_answer_where_that_is_promised(network):
    model, net = network
    fields = random_fields((8, 8, 8))
    xi = predict(net, fields, model.radius_cells)
    deviation = 0.0
    for index in GENERATORS:
        turned = {name: symmetry(values, index) for name, values in fields.items()}
        difference = predict(net, turned, model.radius_cells) - symmetry(xi, index)
        deviation = max(deviation, float(np.abs(difference).max()))
    if model.symmetric:
        assert deviation < 1e-5
    else:
        assert deviation > 1e-5


def test_the_generators_make_every_turn_and_reflection():
    box = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    made, fresh = {box.tobytes()}, [box]
    while fresh:
        turned = [np.ascontiguousarray(symmetry(one, index)) for one in fresh for index in GENERATORS]
        fresh = list({one.tobytes(): one for one in turned if one.tobytes() not in made}.values())
        made |= {one.tobytes() for one in fresh}
    assert len(made) == N_SYMMETRIES


def test_without_the_symmetric_kernel_the_promise_is_not_made():
    model = small_model("reion", "model.symmetric=false")
    assert not model.symmetric
    assert model.trunk.count_params() > small_model("reion").trunk.count_params()


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_dense_evaluation_of_patch_equals_neighbourhood_by_neighbourhood(pooling, shared):
    model = small_model("patch", f"model.pooling={pooling}", f"model.shared_branch={shared}")
    net = build_network(model, normalizer_for(model))
    radius = model.radius_cells
    assert radius == 4
    fields = random_fields((6, 5, 7))
    dense = predict(net, fields, radius)
    padded = {name: np.pad(values, radius, mode="wrap") for name, values in fields.items()}
    corners = list(np.ndindex(*dense.shape))
    side = 2 * radius + 1
    neighbourhoods = {
        name: np.stack([values[x : x + side, y : y + side, z : z + side] for x, y, z in corners])
        for name, values in padded.items()
    }
    neighbourhoods["redshift"] = np.full(len(corners), 8.0, np.float32)
    one_by_one = keras.ops.convert_to_numpy(net(neighbourhoods, training=False)).reshape(dense.shape)
    np.testing.assert_allclose(one_by_one, dense, atol=1e-5)


def test_pinion_has_the_parameters_of_the_paper():
    # 1,130,252: what the paper's code counts for its 7^3 network of three input channels.
    model = build_model(load_config(settings=["model.name=pinion"]))
    assert len(model.stem.channels) == 3
    assert sum(int(np.prod(weight.shape)) for weight in model.trunk.trainable_weights) == 1_130_252


def test_the_mask_of_pinion_is_the_photons_around_a_cell():
    config = load_config(settings=["model.name=pinion", "model.mask_smoothing_cells=[3,5]"])
    stem = build_model(config).stem
    fields = random_fields((9, 8, 10))
    expected = fields["n_ion"].astype(np.float64)
    for width in (3, 5):
        shifts = range(-(width // 2), width // 2 + 1)
        for axis in range(3):
            expected = np.mean([np.roll(expected, shift, axis) for shift in shifts], axis=0)
    np.testing.assert_allclose(stem.prepare(fields)[2], expected, rtol=1e-5, atol=1e-4)
    wrapped = {name: np.pad(values, stem.radius_cells, mode="wrap")[None] for name, values in fields.items()}
    layer = keras.ops.convert_to_numpy(stem(wrapped))[0]
    np.testing.assert_allclose(layer[..., 2], np.log1p(expected), rtol=1e-4, atol=1e-5)


def test_the_unet_asks_for_whole_strides():
    with pytest.raises(InputError, match="multiple of 4"):
        load_config(settings=["model.name=unet", "training.crop_cells=10"])


def test_a_wider_patch_sees_further():
    model = small_model("patch", "model.radius_cells=6")
    net = build_network(model, normalizer_for(model))
    assert predict(net, random_fields((5, 5, 5)), 6).shape == (5, 5, 5)


def test_a_normalised_target_comes_back_as_a_fraction():
    model = small_model("voxel", "model.target=normalised", "training.loss.kind=mse")
    normalizer = normalizer_for(model)
    net = build_network(model, normalizer)
    fields = random_fields((5, 5, 5))
    xi = predict(net, fields, 0)
    stem = keras.ops.convert_to_numpy(model.stem({name: values[None] for name, values in fields.items()}))
    channels = (stem - np.array(normalizer.mean)) / np.array(normalizer.std)
    raw = keras.ops.convert_to_numpy(model.trunk([channels.astype(np.float32), np.zeros((1, 1), np.float32)]))
    np.testing.assert_allclose(xi, np.clip(0.4 + 0.3 * raw[0, ..., 0], 0, 1), atol=1e-5)


def mean_of_shifts(values, width):
    for axis in range(3):
        values = np.mean([np.roll(values, s, axis) for s in range(-(width // 2), width // 2 + 1)], axis=0)
    return values


def brute_force_balance(stem, fields):
    """The stem's channels by their definition, with shifted copies of the box."""
    photons = fields[stem.photon_field].astype(np.float64) * stem.photons_scale
    atoms = fields["n_igm"].astype(np.float64) * stem.atoms_scale + stem.floor
    smooth, smooth_atoms = photons + stem.floor, atoms
    channels = [np.log(smooth / smooth_atoms)]
    for width in stem.smoothing_cells:
        smooth, smooth_atoms = mean_of_shifts(smooth, width), mean_of_shifts(smooth_atoms, width)
        channels.append(np.log(smooth / smooth_atoms))
    for time in stem.shining_times:
        left, ionised = photons * time, np.zeros_like(atoms)
        for step, width in enumerate([1, *stem.diffusion_cells]):
            left = mean_of_shifts(left, width)
            used = np.where(left < atoms - ionised, left, atoms - ionised)
            left, ionised = left - used, ionised + used
            if step and (step % 2 == 0 or step == len(stem.diffusion_cells)):
                channels += [ionised / atoms, np.log((left + stem.floor) / atoms)]
    return np.stack([*channels, np.log(atoms)])


@pytest.mark.parametrize("photon_field", ["n_ion", "n_src"])
def test_the_photon_balance_is_its_definition_in_keras_and_by_the_kernels(photon_field):
    stem = PhotonBalance(photon_field, (3, 5, 7), (3, 5, 3, 7, 3), photons_per_source=1.5)
    fields = random_fields((9, 8, 10))
    if photon_field == "n_src":
        fields["n_src"] = fields.pop("n_ion") * 100
    expected = brute_force_balance(stem, fields)
    assert expected.shape[0] == len(stem.channels)
    # In float32 the rarest photons, 1e-3 of an atom, are differences of numbers that are 1e5 times larger.
    np.testing.assert_allclose(stem.prepare(fields), expected, atol=1e-3)
    np.testing.assert_allclose(np.exp(stem.prepare(fields)), np.exp(expected), rtol=1e-5, atol=1e-4)
    wrapped = {name: np.pad(values, stem.radius_cells, mode="wrap")[None] for name, values in fields.items()}
    layer = keras.ops.convert_to_numpy(stem(wrapped))[0]
    np.testing.assert_allclose(layer, np.moveaxis(expected, 0, -1), atol=2e-4)


def test_diffusion_keeps_every_photon():
    stem = PhotonBalance("n_ion", (3,), (3, 3, 5, 3))
    fields = random_fields((12, 12, 12))
    fields["n_ion"] *= np.float32(0.2)
    channels = dict(zip(stem.channels, stem.prepare(fields).astype(np.float64), strict=True))
    atoms = np.exp(channels["density"])
    for step in (2, 4):
        used = channels[f"ionised_1_{step}"] * atoms
        left = np.exp(channels[f"left_1_{step}"]) * atoms - stem.floor
        assert (used + left).sum() == pytest.approx(fields["n_ion"].sum(dtype=np.float64), rel=1e-5)
        assert channels[f"ionised_1_{step}"].min() >= 0
        assert channels[f"ionised_1_{step}"].max() <= 1


def test_diffusion_ionises_a_ball_of_as_many_atoms_as_there_are_photons():
    stem = PhotonBalance("n_ion", (3,), (3,) * 40)
    n, photons = 31, 800
    fields = {"n_igm": np.full((n, n, n), 4.2e-31, np.float32), "n_ion": np.zeros((n, n, n), np.float32)}
    atoms = 4.2e-31 * stem.atoms_scale
    fields["n_ion"][15, 15, 15] = photons * atoms
    ionised = stem.prepare(fields)[stem.channels.index("ionised_1_40")]
    assert ionised.sum() == pytest.approx(photons, rel=0.05)
    radius = np.sqrt(((np.indices((n, n, n)) - 15) ** 2).sum(axis=0))
    analytic = (photons * 3 / (4 * np.pi)) ** (1 / 3)
    assert ionised[radius < 0.7 * analytic].min() > 0.9
    assert ionised[radius > 1.6 * analytic].max() < 0.1


def test_cells_without_gas_or_photons_stay_finite():
    stem = PhotonBalance("n_ion", (3, 3), (3, 5))
    empty = {name: np.zeros((6, 6, 6), np.float32) for name in ("n_igm", "n_ion")}
    assert np.isfinite(stem.prepare(empty)).all()


def test_saved_and_loaded_the_network_is_the_same(network, tmp_path):
    model, net = network
    net.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fields = random_fields((4, 4, 8))
    np.testing.assert_array_equal(
        predict(loaded, fields, model.radius_cells), predict(net, fields, model.radius_cells)
    )


def test_the_seed_decides_the_weights():
    first, second, third = (small_model("reion", f"seed={seed}") for seed in (1, 1, 2))
    for a, b in zip(first.trunk.get_weights(), second.trunk.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    weights = zip(first.trunk.get_weights(), third.trunk.get_weights(), strict=True)
    assert any(not np.array_equal(a, b) for a, b in weights)
