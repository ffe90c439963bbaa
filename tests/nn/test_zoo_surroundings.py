"""Features of surroundings against scipy and against loops; the network in the trainer's and the engines' hands."""

import numpy as np
import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.nn.engines import make_engine
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.predictor import Prediction, Predictor, Progress
from napari_glacier.nn.scene import Scene
from napari_glacier.nn.zoo import build_model
from napari_glacier.nn.zoo.surroundings import Grid, Surroundings, greatest_of_squares, means_of_squares

USUAL = Normalisation((20_000.0,) * 5, (9_000.0,) * 5)
CHANNELS = ("B3", "valid", "B10")
SIDES = {"sides_px": (3, 9), "extremes_px": (3, 9), "relative_px": (17,), "slopes_px": (5,), "steepness_px": (3, 9)}


def _tent(side: int) -> np.ndarray:
    line = np.ones(side)
    line[[0, -1]] = 0.5
    return np.outer(line, line) / (side - 1) ** 2


@pytest.fixture
def image() -> torch.Tensor:
    """Two crops (2, 3, H, W) with holes of nodata, one of them as large as a square."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, (2, 2, 40, 53)).astype(np.float32)
    valid = rng.random((2, 40, 53)) < 0.8
    valid[0, 10:32, 20:45] = False
    values *= valid[:, None]
    return torch.from_numpy(np.stack([values[:, 0], valid, values[:, 1]], 1).astype(np.float32))


def _by_hand(values_HW: np.ndarray, valid_HW: np.ndarray) -> dict[str, np.ndarray]:
    """Every feature of one channel by scipy; NaN where nothing counts."""

    def mean(plane_HW: np.ndarray, side: int) -> np.ndarray:
        sums = ndimage.convolve(plane_HW * valid_HW, _tent(side), mode="constant")
        weights = ndimage.convolve(valid_HW.astype(float), _tent(side), mode="constant")
        return np.where(weights > 1e-9, sums / np.maximum(weights, 1e-9), 0)

    values_HW = values_HW.astype(float)
    found = {"value": values_HW}
    for side in (3, 9):
        found[f"mean {side}"] = mean(values_HW, side)
        found[f"deviation {side}"] = np.sqrt(np.maximum(mean(values_HW**2, side) - mean(values_HW, side) ** 2, 1e-6))
    found["relative 17"] = values_HW - mean(values_HW, 17)
    for side in (3, 9):
        for name, sign in (("greatest", 1), ("least", -1)):
            present_HW = np.where(valid_HW, sign * values_HW, -1e4)
            found[f"{name} {side}"] = ndimage.maximum_filter(present_HW, side, mode="constant", cval=-1e4)
    smooth_HW = np.pad(mean(values_HW, 5), 1, mode="edge")
    down_HW = (smooth_HW[2:, 1:-1] - smooth_HW[:-2, 1:-1]) * 2.5
    right_HW = (smooth_HW[1:-1, 2:] - smooth_HW[1:-1, :-2]) * 2.5
    found |= {"down": down_HW, "right": right_HW}
    for side in (3, 9):
        found[f"steepness {side}"] = mean(np.hypot(down_HW, right_HW), side)
    return {name: plane_HW * valid_HW for name, plane_HW in found.items()}


def test_features_are_what_scipy_makes_of_the_valid_pixels(image):
    look = Surroundings(CHANNELS, **SIDES)
    groups = list(look(image))
    assert tuple(group.shape[1] for group in groups) == look.num_features
    found_NFHW = torch.cat(groups, 1).numpy()
    # By feature, then by channel.
    for n in range(2):
        valid_HW = image[n, 1].numpy() > 0
        for c, channel in enumerate((0, 2)):
            expected = _by_hand(image[n, channel].numpy(), valid_HW)
            order = ["value", "mean 3", "deviation 3", "mean 9", "deviation 9", "relative 17"]
            order += ["greatest 3", "least 3", "greatest 9", "least 9", "down", "right", "steepness 3", "steepness 9"]
            assert len(order) * 2 == found_NFHW.shape[1]
            for f, name in enumerate(order):
                np.testing.assert_allclose(found_NFHW[n, 2 * f + c], expected[name], atol=2e-4, err_msg=name)


def test_what_nodata_holds_is_never_seen(image):
    look = Surroundings(CHANNELS, **SIDES)
    other = image.clone()
    other[:, [0, 2]] = torch.where(image[:, 1:2] > 0, other[:, [0, 2]], 77.0)
    for mine, theirs in zip(look(image), look(other), strict=True):
        assert torch.equal(mine, theirs)


def test_without_a_mask_a_pixel_of_zeros_is_nodata(image):
    masked = Surroundings(CHANNELS, **SIDES)
    bare = Surroundings(("B3", "B10"), **SIDES)
    for mine, theirs in zip(masked(image), bare(image[:, [0, 2]]), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("grid", [Grid(0, 0, 1), Grid(2, 1, 3), Grid(39, 52, 64)])
def test_a_grid_takes_its_pixels_from_the_whole(image, grid):
    look = Surroundings(CHANNELS, **SIDES)
    for on_grid, everywhere in zip(look(image, grid), look(image), strict=True):
        torch.testing.assert_close(on_grid, everywhere[..., grid.row :: grid.step, grid.col :: grid.step])


def test_squares_near_the_border_of_small_images():
    planes = torch.randn(1, 1, 2, 3)
    sides = dict(means_of_squares(planes, [3, 65]))
    torch.testing.assert_close(sides[65][0, 0], torch.full((2, 3), float(planes.sum()) / 64**2))
    expected = ndimage.convolve(planes[0, 0].numpy(), _tent(3), mode="constant")
    np.testing.assert_allclose(sides[3][0, 0], expected, atol=1e-6)
    ((_, greatest),) = greatest_of_squares(planes, [33], -9.0)
    assert (greatest == planes.max()).all()
    assert list(means_of_squares(planes, [])) == []


@pytest.mark.parametrize(
    ("arguments", "reach_px"),
    # 64 px for the widest mean; a slope's surroundings reach 32 + 32 + 1.
    [({}, 64), ({"more_looks": [{"slopes_px": (65,), "steepness_px": (65,)}]}, 65)],
)
def test_windows_agree_but_for_what_they_do_not_see(arguments, reach_px):
    """A pixel with all that it looks at inside gets the same answer from every window; one a pixel nearer does not."""
    model = build_model("surroundings", channels=CHANNELS, num_classes=2, width=16, **arguments).eval()
    assert model.reach_px == reach_px
    scene = torch.randn(1, 3, 200, 220)
    scene[:, 1] = 1
    with torch.no_grad():
        whole, part = model.describe(scene), model.describe(scene[..., 20:, 30:])
        maps = model(scene), model(scene[..., 20:, 30:])
    inside = reach_px
    for all_of_it, seen in ((whole, part), maps):
        torch.testing.assert_close(
            seen[..., inside:, inside:], all_of_it[..., 20 + inside :, 30 + inside :], atol=1e-4, rtol=1e-4
        )
    assert not torch.allclose(part[..., inside - 1, :], whole[..., 19 + inside, 30:], atol=1e-4, rtol=1e-4)


OTHER_SQUARES = {"sides_px": (5,), "extremes_px": (), "relative_px": (9,), "slopes_px": (5,), "steepness_px": (3,)}
LOOKS = {"more_looks": [OTHER_SQUARES, {"sides_px": (33,)}], "width": 16}


def test_each_look_learns_by_a_loss_of_its_own(image):
    torch.manual_seed(2)
    model = build_model("surroundings", channels=CHANNELS, num_classes=3, dropout=0.0, **LOOKS).train()
    features = model.describe(image, Grid(0, 0, 3))
    mean, *each = model(features)
    assert (len(each), mean.requires_grad, model.auxiliary_weights) == (3, False, (1 / 3,) * 3)
    torch.testing.assert_close(mean.exp(), torch.stack([logits.softmax(1) for logits in each]).mean(0))
    for number, logits in enumerate(each):
        model.zero_grad()
        logits.square().sum().backward(retain_graph=True)
        learning = {name.split(".")[1] for name, weight in model.named_parameters() if weight.grad is not None}
        assert learning == {str(number)}


def test_the_mean_of_probabilities_of_all_looks_counts(image):
    """Against networks of one look each that are given its weights."""
    torch.manual_seed(2)
    model = build_model("surroundings", channels=CHANNELS, num_classes=3, **LOOKS)
    model.train()(image)  # statistics
    model.eval()
    probabilities = []
    for number, squares in enumerate(({}, *LOOKS["more_looks"])):
        one = build_model("surroundings", channels=CHANNELS, num_classes=3, width=16, **squares).eval()
        start = f"looks.{number}."
        state = {key.removeprefix(start): value for key, value in model.state_dict().items() if key.startswith(start)}
        one.load_state_dict(state)
        probabilities.append(one(image).softmax(1))
    expected = torch.stack(probabilities).mean(0)
    torch.testing.assert_close(model(image).exp(), expected)
    assert not torch.allclose(probabilities[0], expected, atol=1e-2)


def test_a_checkpoint_of_one_perceptron_maps_as_it_did(image, make_card, tmp_path):
    """By its tensors, as such files have always had them, and numpy."""
    rng = np.random.default_rng(8)
    groups, units = (16 * 2, 10 * 2, 12 * 2), 128
    state = {f"scales.{g}.running_mean": rng.normal(0, 1, n) for g, n in enumerate(groups)}
    state |= {f"scales.{g}.running_var": rng.uniform(0.5, 2, n) for g, n in enumerate(groups)}
    state |= {"first.weight": rng.normal(0, 0.1, (units, sum(groups), 1, 1)), "first.bias": rng.normal(0, 1, units)}
    for norm in ("rest.0", "rest.4"):
        state |= {f"{norm}.weight": rng.normal(1, 0.1, units), f"{norm}.bias": rng.normal(0, 1, units)}
        state |= {f"{norm}.running_mean": rng.normal(0, 1, units), f"{norm}.running_var": rng.uniform(1, 2, units)}
    state |= {"rest.3.weight": rng.normal(0, 0.1, (units, units, 1, 1)), "rest.3.bias": rng.normal(0, 1, units)}
    state |= {"head.weight": rng.normal(0, 0.1, (2, units, 1, 1)), "head.bias": rng.normal(0, 1, 2)}
    tensors = {key: torch.from_numpy(value).float() for key, value in state.items()}
    counts = ("scales.0", "scales.1", "scales.2", "rest.0", "rest.4")
    tensors |= {f"{norm}.num_batches_tracked": torch.tensor(9) for norm in counts}
    path = tmp_path / "model.safetensors"
    card = make_card(CHANNELS, "glacier2", architecture="surroundings", arguments={"dropout": 0.2})
    model = build_model("surroundings", channels=CHANNELS, num_classes=2, dropout=0.2)
    save_checkpoint(path, model, card)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(tensors)
    save_file(tensors, path, metadata)
    found = load_checkpoint(path).model(image).detach().numpy()

    def standardised(values_FM, mean, variance, eps):
        return (values_FM - mean[:, None]) / np.sqrt(variance[:, None] + eps)

    values_FM = model.describe(image).double().numpy()
    values_FM = np.concatenate([*values_FM.reshape(2, sum(groups), -1)], axis=1)
    mean, variance = (np.concatenate([state[f"scales.{g}.running_{of}"] for g in range(3)]) for of in ("mean", "var"))
    values_FM = np.clip(standardised(values_FM, mean, variance, 1e-6), -4, 4)
    for conv, norm in (("first", "rest.0"), ("rest.3", "rest.4")):
        values_FM = state[f"{conv}.weight"][..., 0, 0] @ values_FM + state[f"{conv}.bias"][:, None]
        values_FM = standardised(values_FM, state[f"{norm}.running_mean"], state[f"{norm}.running_var"], 1e-5)
        values_FM = np.maximum(values_FM * state[f"{norm}.weight"][:, None] + state[f"{norm}.bias"][:, None], 0)
    values_KM = state["head.weight"][..., 0, 0] @ values_FM + state["head.bias"][:, None]
    expected = values_KM.reshape(2, 2, 40, 53).swapaxes(0, 1)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("arguments", [{}, {"more_looks": [{"sides_px": [3, 17]}]}])
def test_features_may_come_in_the_place_of_an_image(image, arguments):
    model = build_model("surroundings", channels=CHANNELS, num_classes=3, **arguments).eval()
    with torch.no_grad():
        logits = model(image)
        features = model.describe(image, Grid(1, 2, 5))
        assert features.shape == (2, model.num_features, 8, 11)
        torch.testing.assert_close(model(features), logits[..., 1::5, 2::5])
        singles = features[:, :, 3, 4][..., None, None]
        torch.testing.assert_close(model(singles)[..., 0, 0], logits[..., 16, 22])


def test_half_precision_leaves_the_features_alone(image):
    model = build_model("surroundings", channels=CHANNELS, num_classes=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.describe(image), torch.cat(list(model.surroundings(image)), 1))


def test_features_are_scaled_while_learning_as_they_will_be_when_predicted(image):
    model = build_model("surroundings", channels=CHANNELS, num_classes=2).eval()
    model.scales.train()
    model(image)
    other = image * 2
    learnt = model(other)
    assert torch.equal(learnt, model.eval()(other))


def test_engines_compute_it_in_float32_and_agree(make_card, tmp_path):
    torch.manual_seed(3)
    channels = ("B3", "B6", "B10", "NDSI", "ratio", "valid")
    arguments = {"width": 16, "more_looks": [{"sides_px": [3, 17], "slopes_px": [5]}]}
    model = build_model("surroundings", channels=channels, num_classes=2, **arguments)
    window = torch.randn(2, 6, 128, 96)
    window[:, 5] = (torch.rand(2, 128, 96) < 0.9).float()
    window[:, :5] *= window[:, 5:]
    model.train()(window)  # statistics
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, make_card(channels, "glacier2", architecture="surroundings", arguments=arguments))
    engines = {}
    for kind in ("torch", "openvino"):
        if kind == "openvino":
            pytest.importorskip("openvino")
        engine, note = make_engine(
            load_checkpoint(path),
            torch.device("cpu"),
            torch.bfloat16,
            window_px=(128, 96),
            kind=kind,
            cache_dir=tmp_path / "cache",
        )
        assert note is None
        engines[engine.name] = engine.probabilities(window)
    assert set(engines) == {"torch float32 channels-last", "OpenVINO f32"}
    exact = torch.softmax(model.eval()(window).detach(), 1)
    for probabilities in engines.values():
        torch.testing.assert_close(probabilities, exact, atol=1e-3, rtol=0)
    # Features are not kept for the next window: with five members and the shapes of a scene that was 16 GB.
    before = psutil.Process().memory_info().rss
    engine.probabilities(torch.randn(1, 6, 768, 768))
    assert psutil.Process().memory_info().rss - before < model.num_features * 768 * 768 * 4 / 2


def test_it_takes_part_in_ensembles(make_card, tmp_path):
    paths = []
    for name, arguments in (("surroundings", {"width": 8}), ("plain_unet", {"base": 4})):
        path = tmp_path / f"{name}.safetensors"
        model = build_model(name, channels=("B3", "valid"), num_classes=2, **arguments)
        save_checkpoint(path, model, make_card(("B3", "valid"), "glacier2", architecture=name, arguments=arguments))
        paths.append(path)
    assert [member.card.architecture for member in Ensemble([load_checkpoint(path) for path in paths]).members] == [
        "surroundings",
        "plain_unet",
    ]


def _mapped(predictor: Predictor, scene: Scene) -> tuple[Prediction, list[Progress]]:
    told, steps = [], predictor.run(scene)
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return end.value, told


def test_a_scene_is_never_turned_for_it(make_dataset, make_checkpoint, make_card, tmp_path):
    """Beside a network that is asked for all views, and with windows of any size."""
    scene = plan_scenes(open_dataset(make_dataset(grid=(3, 3))))[0]
    torch.manual_seed(1)
    model = build_model("surroundings", channels=CANONICAL_BANDS, num_classes=4, width=16)
    path = tmp_path / "surroundings.safetensors"
    save_checkpoint(
        path,
        model,
        make_card(CANONICAL_BANDS, architecture="surroundings", arguments={"width": 16}, normalisation=USUAL),
    )
    upright, turned = load_checkpoint(path), load_checkpoint(make_checkpoint())
    usual = {"device": "cpu", "engine": "torch", "precision": "fp32"}
    alone, told = _mapped(Predictor(Ensemble([upright]), tta=8, **usual), scene)
    assert told[-1].total == 1
    once, _ = _mapped(Predictor(Ensemble([upright]), tta="off", **usual), scene)
    np.testing.assert_array_equal(alone.probabilities_KHW, once.probabilities_KHW)
    both, told = _mapped(Predictor(Ensemble([upright, turned]), tta=8, **usual), scene)
    assert told[-1].total == 9
    assert [record["num_views"] for record in both.provenance["members"]] == [1, 8]
    other, _ = _mapped(Predictor(Ensemble([turned]), tta=8, **usual), scene)
    np.testing.assert_allclose(
        both.probabilities_KHW, (alone.probabilities_KHW + other.probabilities_KHW) / 2, atol=2e-3
    )
    # 64 px around a pixel are within the rim that windows leave to each other.
    in_parts, _ = _mapped(Predictor(Ensemble([upright]), window_px=180, overlap_px=172, **usual), scene)
    np.testing.assert_allclose(in_parts.probabilities_KHW, once.probabilities_KHW, atol=2e-3)


@pytest.mark.parametrize(
    ("channels", "arguments", "complaint"),
    [
        (("valid",), {}, "Only the channel valid is given"),
        (("B3",), {"sides_px": [3, 8]}, r"Squares of \[8\] px"),
        (("B3",), {"steepness_px": [1]}, r"Squares of \[1\] px"),
        (("B3",), {"depth": 0}, "both are 1 or more"),
        (("B3",), {"more_looks": [{"width": 3}]}, "more_looks names width; a look has sides_px,"),
    ],
)
def test_what_cannot_be_built_is_said(channels, arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_model("surroundings", channels=channels, num_classes=2, **arguments)
