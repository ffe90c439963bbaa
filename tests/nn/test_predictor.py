import json

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import nn

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import ConfigError, DataError, DeviceError
from napari_glacier.core.tiling import Window
from napari_glacier.nn import memory
from napari_glacier.nn.cleaning import Cleaning
from napari_glacier.nn.crf import CrfSettings, refine
from napari_glacier.nn.ensemble import Ensemble
from napari_glacier.nn.inference import EnsembleRunner
from napari_glacier.nn.postprocess import (
    classify,
    close_classes,
    fill_small_holes,
    open_classes,
    remove_small_components,
)
from napari_glacier.nn.predictor import Prediction, Predictor, Progress
from napari_glacier.nn.scene import band_gaps, gaps_warning


def _finish(run) -> tuple[Prediction, list[Progress]]:
    steps = []
    while True:
        try:
            steps.append(next(run))
        except StopIteration as end:
            return end.value, steps


def _predict(members, scene, weights=None, **settings) -> Prediction:
    usual = {"tta": "off", "device": "cpu", "precision": "fp32", "batch_size": 4, "engine": "torch"}
    return _finish(Predictor(Ensemble(members, weights), **(usual | settings)).run(scene))[0]


def _direct(member, scene) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(member.model(torch.from_numpy(scene.image_CHW)[None])[0], 0).numpy()


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.tensor([0.1, 0.9, 0.4, -1.0]).reshape(1, 4, 1, 1)
        return logits.expand(len(x), 4, *x.shape[-2:])


class Forgetful(nn.Module):
    """Runs out of memory above a number of images or a number of pixels on a side."""

    def __init__(self, network: nn.Module, max_images: int = 1000, max_side: int = 10_000) -> None:
        super().__init__()
        self.network, self.max_images, self.max_side = network, max_images, max_side
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.max_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        if max(x.shape[-2:]) > self.max_side:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        self.batches.append(len(x))
        return self.network(x)


def test_one_window_equals_a_direct_pass(make_member, make_scene) -> None:
    member, scene = make_member(), make_scene(70, 90)
    ours = _predict([member], scene)
    np.testing.assert_allclose(ours.probabilities_KHW, _direct(member, scene), atol=1e-6)
    np.testing.assert_array_equal(ours.index_HW, ours.probabilities_KHW.argmax(0))
    np.testing.assert_allclose(ours.entropy_HW, scipy.stats.entropy(ours.probabilities_KHW, axis=0, base=4), atol=1e-5)
    assert not ours.mutual_information_HW.any()
    assert ours.valid_HW.all()
    assert ours.index_HW.dtype == np.uint8
    assert ours.probabilities_KHW.dtype == np.float32


def test_ensemble_of_a_model_with_itself_is_the_model(make_member, make_scene) -> None:
    member, scene = make_member(), make_scene()
    alone, twice = _predict([member], scene), _predict([member, member], scene, weights=[0.3, 0.7])
    np.testing.assert_allclose(twice.probabilities_KHW, alone.probabilities_KHW, atol=1e-6)
    assert twice.mutual_information_HW.max() < 1e-6


def test_members_with_other_channels_and_normalisation(make_member, make_scene) -> None:
    scene = make_scene(60, 50, gap_px=9)
    plain = make_member(0)
    few = make_member(
        1, channels=("B10", "valid", "B2"), normalisation=Normalisation((1.0, 0.0, -2.0), (2.0, 1.0, 0.5))
    )
    ours = _predict([plain, few], scene, weights=[1, 3])
    b2, b10 = (scene.image_CHW[CANONICAL_BANDS.index(band)] for band in ("B2", "B10"))
    by_hand = np.stack([(b10 - 1) / 2, np.ones_like(b2), (b2 + 2) / 0.5]) * scene.valid_HW
    with torch.no_grad():
        second = torch.softmax(few.model(torch.from_numpy(by_hand.astype(np.float32))[None])[0], 0).numpy()
    first = _direct(plain, scene)
    mean = 0.25 * first + 0.75 * second
    np.testing.assert_allclose(ours.probabilities_KHW, mean * scene.valid_HW, atol=1e-5)
    information = 0.25 * scipy.stats.entropy(first, mean, base=4) + 0.75 * scipy.stats.entropy(second, mean, base=4)
    np.testing.assert_allclose(ours.mutual_information_HW, information * scene.valid_HW, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (150, 101), (33, 260)])
@pytest.mark.parametrize("tta", ["off", 8])
def test_blending_a_constant_gives_the_constant(make_member, make_scene, size, tta) -> None:
    ours = _predict([make_member(network=Constant())], make_scene(*size), window_px=64, overlap_px=16, tta=tta)
    expected = torch.softmax(torch.tensor([0.1, 0.9, 0.4, -1.0]), 0).numpy()
    np.testing.assert_allclose(ours.probabilities_KHW, np.broadcast_to(expected[:, None, None], (4, *size)), atol=1e-6)
    assert (ours.index_HW == 1).all()


def test_windows_leave_no_seams(make_member, make_scene) -> None:
    """A network that looks no further than the rim cannot tell how a scene was cut."""
    member, scene = make_member(), make_scene(150, 170)
    whole = _predict([member], scene)
    cut = _predict([member], scene, window_px=64, overlap_px=16)
    np.testing.assert_allclose(cut.probabilities_KHW, whole.probabilities_KHW, atol=1e-6)
    blunt = _predict([member], scene, window_px=64, overlap_px=0)
    assert np.abs(blunt.probabilities_KHW - whole.probabilities_KHW).max() > 1e-4, "it does look around itself"


@pytest.mark.parametrize("tta", ["off", 6])
def test_batch_size_changes_nothing(make_member, make_scene, tta) -> None:
    members, scene = [make_member(0), make_member(1)], make_scene(130, 100, gap_px=20)
    results = [
        _predict(members, scene, window_px=48, overlap_px=12, tta=tta, batch_size=size).probabilities_KHW
        for size in (1, 5, 64)
    ]
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=1e-6)


def test_a_scene_cut_off_lower_down_gives_the_same_pixels(make_member, make_scene) -> None:
    member, scene = make_member(), make_scene(200, 64)
    cut = type(scene)(scene.image_CHW[:, :152], scene.valid_HW[:152])
    settings = {"window_px": 64, "overlap_px": 20}
    whole, part = (_predict([member], s, **settings).probabilities_KHW for s in (scene, cut))
    # Windows start at rows 0, 44, 88 in both: rows before 132, where the next would start, see the same.
    np.testing.assert_allclose(part[:, :132], whole[:, :132], atol=1e-6)


def test_symmetric_input_gives_symmetric_output_with_eight_views(make_member, make_scene) -> None:
    scene = make_scene(48, 48)
    image = scene.image_CHW
    for axes in ((1,), (2,)):
        image = image + np.flip(image, axes)
    scene.image_CHW = (image + image.transpose(0, 2, 1)).astype(np.float32)
    p = _predict([make_member()], scene, tta=8).probabilities_KHW
    for moved in (p[:, ::-1], p[:, :, ::-1], p.transpose(0, 2, 1), np.rot90(p, axes=(1, 2))):
        np.testing.assert_allclose(moved, p, atol=1e-6)
    plain = _predict([make_member()], scene).probabilities_KHW
    assert np.abs(plain - plain[:, ::-1]).max() > 1e-3


def test_views_of_oblong_scenes_are_averaged(make_member, make_scene) -> None:
    member, scene = make_member(), make_scene(40, 66)
    total = np.zeros((4, 40, 66))
    for flip in (False, True):
        for k in range(4):
            image = np.rot90(np.flip(scene.image_CHW, 2) if flip else scene.image_CHW, k, (1, 2))
            p = np.rot90(_direct(member, type(scene)(image.copy(), None)), -k, (1, 2))
            total += np.flip(p, 2) if flip else p
    np.testing.assert_allclose(_predict([member], scene, tta=8).probabilities_KHW, total / 8, atol=1e-6)


def test_a_scene_is_not_turned_for_a_model_that_has_learnt_upright_crops(make_member, make_scene) -> None:
    upright, turned, scene = make_member(upright=True), make_member(seed=1), make_scene(40, 66)
    both = _predict([upright, turned], scene, tta=8)
    assert [record["num_views"] for record in both.provenance["members"]] == [1, 8]
    alone = _predict([upright], scene).probabilities_KHW
    np.testing.assert_array_equal(_predict([upright], scene, tta=8).probabilities_KHW, alone)
    other = _predict([turned], scene, tta=8).probabilities_KHW
    np.testing.assert_allclose(both.probabilities_KHW, (alone + other) / 2, atol=1e-6)
    # Its size may change: training shrinks and enlarges crops.
    two = _predict([upright], scene, tta=8, scales=[1, 1.5])
    assert two.provenance["members"][0]["num_views"] == 2
    np.testing.assert_array_equal(two.probabilities_KHW, _predict([upright], scene, scales=[1, 1.5]).probabilities_KHW)


def test_nodata_is_background_and_windows_without_data_are_skipped(make_member, make_scene) -> None:
    network = Forgetful(make_member().model)
    scene = make_scene(64, 256, gap_px=130)
    run = Predictor(
        Ensemble([make_member(network=network)]), tta=2, device="cpu", window_px=64, overlap_px=0, batch_size=64
    ).run(scene)
    prediction, steps = _finish(run)
    assert sum(network.batches) == 2 * 2  # of four windows two hold data, in two views
    assert steps[-1].done == steps[-1].total == 4 * 2
    assert not prediction.index_HW[:, :130].any()
    assert not prediction.entropy_HW[:, :130].any()
    np.testing.assert_array_equal(prediction.valid_HW, scene.valid_HW)
    assert prediction.provenance["valid_share"] == pytest.approx(126 / 256, abs=1e-6)


def test_a_scene_without_data(make_member, make_scene) -> None:
    prediction = _predict([make_member()], make_scene(40, 40, gap_px=40))
    assert not prediction.index_HW.any()
    assert not prediction.valid_HW.any()


def test_progress_grows_and_closing_stops(make_member, make_scene) -> None:
    network = Forgetful(make_member().model)
    predictor = Predictor(
        Ensemble([make_member(network=network), make_member(1)]),
        tta=6,
        device="cpu",
        window_px=32,
        overlap_px=8,
        batch_size=3,
        engine="torch",
    )
    _, steps = _finish(predictor.run(make_scene(100, 80)))
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert steps[-1].done == steps[-1].total == 4 * 4 * 6 * 2 - 4 * 6 * 2  # windows start at 0, 24, 48 (72)
    network.batches.clear()
    run = predictor.run(make_scene(100, 80))
    next(run), next(run)
    before = len(network.batches)
    run.close()
    assert len(network.batches) == before <= 1
    with pytest.raises(StopIteration):
        next(run)


def test_a_smaller_batch_when_memory_runs_out(make_member, make_scene) -> None:
    scene = make_scene(100, 100)
    network = Forgetful(make_member().model, max_images=3)
    settings = {"window_px": 40, "overlap_px": 8, "tta": 6, "batch_size": 16}
    ours = _predict([make_member(network=network)], scene, **settings)
    assert max(network.batches) <= 3
    assert ours.provenance["batch_size"] == 3
    assert [step.split(": ")[1] for step in ours.provenance["memory_steps"]] == [
        "batch 12 -> 6.",  # two whole windows of a row in six views
        "batch 6 -> 3.",
    ]
    unhindered = _predict([make_member()], scene, **settings)
    np.testing.assert_allclose(ours.probabilities_KHW, unhindered.probabilities_KHW, atol=1e-6)


def test_a_smaller_window_when_one_image_does_not_fit(make_member, make_scene) -> None:
    network = Forgetful(make_member().model, max_side=150)
    ours = _predict([make_member(network=network)], make_scene(300, 280), window_px=512, overlap_px=32, batch_size=2)
    assert ours.provenance["window_px"] == 150
    assert ours.provenance["memory_steps"] == ["Memory ran out on cpu: window 300 -> 150 px."]
    unhindered = _predict([make_member()], make_scene(300, 280), window_px=150, overlap_px=32)
    np.testing.assert_allclose(ours.probabilities_KHW, unhindered.probabilities_KHW, atol=1e-6)


def test_the_end_of_the_ladder(make_member, make_scene) -> None:
    network = Forgetful(make_member().model, max_side=20)
    with pytest.raises(DeviceError, match="even with single windows of 128 px"):
        _predict([make_member(network=network)], make_scene(200, 200))


def test_from_the_gpu_to_the_cpu() -> None:
    usual = memory.ComputeSettings(torch.device("cuda:0"), torch.bfloat16, 512, 128, 16)
    settings = memory.ComputeSettings(torch.device("meta"), torch.bfloat16, 256, 64, 1)
    settings.step_down(usual)
    assert (settings.device.type, settings.window_px, settings.overlap_px) == ("meta", 128, 32)
    settings.step_down(usual)
    assert settings.device.type == "cpu"
    assert (settings.window_px, settings.overlap_px, settings.batch_size) == (512, 128, 4)
    assert settings.dtype in {torch.bfloat16, torch.float32}


def test_other_errors_are_not_taken_for_memory(make_member, make_scene) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        _predict([make_member(network=Broken())], make_scene())


def test_integers_are_adjusted_by_the_scene_and_alike_in_every_run(make_member, make_scene) -> None:
    pytest.importorskip("nncf", reason="extra int8")
    scene, settings = make_scene(150, 140), {"engine": "openvino-int8", "window_px": 64, "overlap_px": 16}
    first, again = (_predict([make_member()], scene, **settings) for _ in range(2))
    (note,) = first.provenance["engine_notes"]
    assert "8-bit integers keep" in note
    np.testing.assert_array_equal(first.probabilities_KHW, again.probabilities_KHW)
    small = _predict([make_member()], make_scene(40, 40), **settings)
    assert "too few windows" in small.provenance["engine_notes"][0]


def test_cleaning_and_thresholds_reach_the_map(make_member, make_scene) -> None:
    scene = make_scene(80, 80)
    plain = _predict([make_member()], scene)
    cleaning = Cleaning(minimum_component_px=30, fill_holes_px=20)
    clean = _predict([make_member()], scene, cleaning=cleaning)
    assert (clean.index_HW != plain.index_HW).any()
    np.testing.assert_array_equal(clean.probabilities_KHW, plain.probabilities_KHW)
    eager = _predict([make_member()], scene, thresholds={"lake": 0.01})
    assert (eager.index_HW == 3).sum() > (plain.index_HW == 3).sum()


def test_every_step_of_cleaning_is_made_in_order(make_member, make_scene) -> None:
    scene = make_scene(80, 80)
    plain = _predict([make_member()], scene)
    cleaning = Cleaning(crf_iterations=3, opening_px=1, closing_px=1, minimum_component_px=9, fill_holes_px=5)
    ours = _predict([make_member()], scene, cleaning=cleaning)
    expected = classify(refine(plain.probabilities_KHW, scene.image_CHW, plain.valid_HW, CrfSettings(iterations=3)))
    expected *= plain.valid_HW
    for step, size in ((open_classes, 1), (close_classes, 1)):
        expected = step(expected, size, plain.valid_HW)
    expected = fill_small_holes(remove_small_components(expected, 9), 5) * plain.valid_HW
    np.testing.assert_array_equal(ours.index_HW, expected)
    np.testing.assert_array_equal(ours.probabilities_KHW, plain.probabilities_KHW)
    with pytest.raises(ConfigError, match="opening_px -1"):
        Cleaning(opening_px=-1)


@pytest.mark.parametrize("overlap_px", [0, 8, 20])
def test_an_interrupted_job_goes_on_and_gives_the_same_pixels(make_member, make_scene, tmp_path, overlap_px) -> None:
    scene = make_scene(150, 70)
    scene.valid_HW[60:75, :] = False
    settings = {"window_px": 32, "overlap_px": overlap_px, "tta": 2, "batch_size": 3}
    whole = _predict([make_member(), make_member(1)], scene, **settings)
    reads = 0
    read = scene.read

    def counted(window, bands):
        nonlocal reads
        reads += 1
        return read(window, bands)

    scene.read = counted
    usual = {"device": "cpu", "precision": "fp32", "engine": "torch"}
    predictor = Predictor(Ensemble([make_member(), make_member(1)]), **(usual | settings))
    _finish(predictor.run(scene))
    reads_in_all = reads
    run = predictor.run(scene, tmp_path / "job")
    for progress in run:
        if progress.done > 0.6 * progress.total:
            break
    run.close()
    reads = 0
    resumed, steps = _finish(predictor.run(scene, tmp_path / "job"))
    assert steps[1].done > 0
    assert steps[-1].done == steps[-1].total
    assert reads < reads_in_all
    for name in ("index_HW", "probabilities_KHW", "entropy_HW", "mutual_information_HW", "valid_HW"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    # Another model's job is another one.
    other = Predictor(Ensemble([make_member(2)]), **(usual | settings))
    assert next(iter(_finish(other.run(scene, tmp_path / "job"))[1][1:])).done == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"window_px": 8},
        {"overlap_px": 1024},
        {"batch_size": 0},
        {"tta": 5},
        {"thresholds": {"x": 1}},
    ],
)
def test_wrong_settings(make_member, settings) -> None:
    with pytest.raises(ConfigError):
        Predictor(Ensemble([make_member()]), device="cpu", **settings)


def test_input_far_from_training_is_said(make_member, make_scene, caplog) -> None:
    scene = make_scene()
    familiar = _predict([make_member()], scene)
    assert familiar.provenance["warnings"] == []
    scene.image_CHW[4] = scene.image_CHW[4] * 40 + 290  # kelvin where digital numbers were seen, say
    (warning,) = _predict([make_member()], scene).provenance["warnings"]
    shift = abs(scene.image_CHW[4].mean())
    assert f"{shift:.1f} standard deviations away" in warning
    assert "B10" in warning
    assert "B6" not in warning
    assert not caplog.records, "a warning is said by who shows the prediction, once"


def test_a_synthetic_model_says_so(make_member, make_scene) -> None:
    (warning,) = _predict([make_member(synthetic=True)], make_scene()).provenance["warnings"]
    assert "trained on synthetic scenes" in warning


def test_a_missing_band_gets_its_training_mean(make_member, make_dataset) -> None:
    root = make_dataset(grid=(1, 1))
    normalisation = Normalisation((15000.0,) * 5, (9000.0,) * 5)
    (scene,) = plan_scenes(open_dataset(root))
    image, valid = scene.read(scene.whole, CANONICAL_BANDS)
    member = make_member(normalisation=normalisation)
    for file in (root / "Band5").iterdir():
        file.unlink()
    (root / "Band5").rmdir()
    (scene,) = plan_scenes(open_dataset(root))
    ours = _predict([member], scene)
    assert "has no B10" in ours.provenance["warnings"][0]
    image[4] = 15000
    inputs = torch.from_numpy(normalisation.apply(image, valid))
    with torch.no_grad():
        expected = torch.softmax(member.model(inputs[None])[0], 0).numpy() * valid
    np.testing.assert_allclose(ours.probabilities_KHW, expected, atol=1e-5)


def test_a_scene_without_any_band_of_a_member_is_refused(make_member, make_dataset, tmp_path) -> None:
    picture_HW = np.random.default_rng(0).integers(0, 256, (40, 50)).astype("u1")
    for name, mode in (("a1", "L"), ("b2", "RGB")):
        folder = tmp_path / name / "images"
        folder.mkdir(parents=True)
        Image.fromarray(picture_HW).convert(mode).save(folder / f"{name}.png")
    (grey,), (colours,) = (plan_scenes(open_dataset(tmp_path / name)) for name in ("a1", "b2"))
    (satellite,) = plan_scenes(open_dataset(make_dataset(grid=(1, 1))))
    glacier = make_member(name="ice")
    salt = make_member(channels=("grey",), name="salt")
    index = make_member(channels=("NDSI", "valid"), name="index")
    for member, scene, said in (
        (glacier, grey, r"a1 has the bands grey; the model ice looks at B2, B3, B4, B6, B10 .*\(--model\)"),
        (glacier, colours, "b2 has the bands grey, red, green, blue; the model ice looks at B2"),
        (index, grey, "the model index looks at B3, B6"),
        (salt, satellite, "has the bands B2, B3, B4, B6, B10; the model salt looks at grey"),
    ):
        for members in ([member], [make_member(channels=("valid",)), member]):
            with pytest.raises(DataError, match=said):
                _predict(members, scene)
    # One band is enough to go on.
    assert "has no B2" in _predict([make_member(channels=("grey", "B2"))], grey).provenance["warnings"][0]


@pytest.fixture
def two_tiles_one_without_swir(make_dataset):
    """A mosaic of two tiles, its pixels with all bands, and where B6 was taken away."""
    root = make_dataset(grid=(1, 2))
    (scene,) = plan_scenes(open_dataset(root))
    image_CHW, valid_HW = scene.read(scene.whole, CANONICAL_BANDS)
    (root / "Band4" / "B6_00_01.tif").unlink()
    (scene,) = plan_scenes(open_dataset(root))
    there_HW = np.ones(scene.shape, bool)
    (place,) = (place for place in scene.placements if place.tile.id == "00_01")
    there_HW[place.slices] = False
    return scene, image_CHW, valid_HW, there_HW


@pytest.mark.parametrize("window_px", [512, 48])
def test_a_band_missing_in_one_tile_is_the_training_mean_there(
    make_member, two_tiles_one_without_swir, window_px
) -> None:
    scene, image_CHW, valid_HW, there_HW = two_tiles_one_without_swir
    channels = ("B2", "B6", "NDSI", "NDWI", "valid")
    normalisation = Normalisation((15000.0, 9000.0, 0.3, 0.2, 0.0), (9000.0, 7000.0, 0.5, 0.4, 1.0))

    class Pointwise(nn.Module):
        """Each channel weighs in: what is not set to the mean shows."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("kc,bchw->bkhw", torch.arange(1.0, 21.0).reshape(4, 5).sin(), x)

    member = make_member(network=Pointwise(), channels=channels, normalisation=normalisation)
    ours = _predict([member], scene, window_px=window_px, overlap_px=12)

    b2, b3, _, b6, _ = image_CHW.astype(np.float64)
    with np.errstate(invalid="ignore"):
        ndsi, ndwi = (np.where(valid_HW, (band - b6) / (band + b6), 0) for band in (b3, b2))
    by_hand = [(b2 - 15000) / 9000]
    by_hand += [(b6 - 9000) / 7000 * there_HW, (ndsi - 0.3) / 0.5 * there_HW, (ndwi - 0.2) / 0.4 * there_HW]
    inputs = np.stack([*by_hand, np.ones(scene.shape)]) * valid_HW
    expected = torch.softmax(member.model(torch.from_numpy(inputs.astype(np.float32))[None])[0], 0).numpy()
    np.testing.assert_allclose(ours.probabilities_KHW, expected * valid_HW, atol=1e-5)


def test_bands_missing_in_tiles_are_said_once_and_are_no_drift(make_member, two_tiles_one_without_swir) -> None:
    scene, image_CHW, valid_HW, there_HW = two_tiles_one_without_swir
    seen_CN = image_CHW[:, valid_HW & there_HW]
    # Narrow, so that the zeros of the missing band would lie far outside.
    normalisation = Normalisation(tuple(seen_CN.mean(1).tolist()), tuple((0.5 * seen_CN.std(1)).tolist()))
    members = [make_member(seed, normalisation=normalisation) for seed in range(2)]
    (warning,) = _predict(members, scene).provenance["warnings"]
    assert "tile 00_01 has no B6" in warning
    assert "B2" not in warning
    for place in scene.placements:
        scene.dataset.tile(place.tile.id).bands.pop("B10")  # type: ignore[attr-defined]
    (warning,) = _predict(members, scene).provenance["warnings"]
    assert "tile 00_00 has no B10; tile 00_01 has no B6, B10" in warning


def test_parts_of_a_scene_know_their_missing_bands(two_tiles_one_without_swir) -> None:
    scene, _, _, there_HW = two_tiles_one_without_swir
    (gap,) = band_gaps(scene, ("B2", "B6"))
    assert not band_gaps(scene, ("B2", "B10"))
    for window in (Window(0, 0, 64, 70), Window(10, 60, 20, 30), Window(0, 64, 64, 64), Window(0, 0, 64, 64)):
        found = np.ones((window.height, window.width), bool)
        if (where := gap.within(window)) is not None:
            found[where] = False
        np.testing.assert_array_equal(found, there_HW[window.slices])


def test_a_long_list_of_tiles_is_cut_short(make_dataset) -> None:
    root = make_dataset(grid=(3, 4), size_px=16)
    for file in sorted((root / "Band5").iterdir())[1:]:
        file.unlink()
    (scene,) = plan_scenes(open_dataset(root))
    (text,) = gaps_warning(scene, CANONICAL_BANDS, band_gaps(scene, CANONICAL_BANDS))
    assert "tiles 00_01, 00_02, 00_03, 01_00, 01_01, 01_02, 01_03, 02_00 and 3 more have no B10" in text


def test_provenance_is_plain(make_member, make_scene) -> None:
    provenance = _predict([make_member(), make_member(1)], make_scene(), weights=[3, 1], tta=2).provenance
    assert json.loads(json.dumps(provenance, allow_nan=False)) == provenance
    assert [member["weight"] for member in provenance["members"]] == [0.75, 0.25]
    assert provenance["tta"] == "2"
    assert provenance["dtype"] == "float32"


def test_windows_spread_over_devices_give_the_pixels_of_one(make_member, make_scene, monkeypatch) -> None:
    scene = make_scene(150, 130)
    settings = {"window_px": 40, "overlap_px": 8, "tta": 2}
    alone = _predict([make_member(), make_member(1)], scene, **settings)
    used = []
    original = EnsembleRunner.__call__

    def noted(self, pieces, tick):
        used.append(id(self))
        return original(self, pieces, tick)

    monkeypatch.setattr(EnsembleRunner, "__call__", noted)
    # Two processors in the place of two GPUs.
    monkeypatch.setattr(Predictor, "_places", lambda self, settings: [settings, settings.on(torch.device("cpu"))])
    together = _predict([make_member(), make_member(1)], scene, **settings)
    assert len(set(used)) == 2
    np.testing.assert_array_equal(together.probabilities_KHW, alone.probabilities_KHW)
