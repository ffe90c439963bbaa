from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.nn.crf import CrfSettings, band_statistics, refine, refine_rows

SMALL = CrfSettings(iterations=2, radius=1, dilation=2, appearance_sigma_bands=0.8)


def _scene(num_classes: int, height: int, width: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Probabilities, image and valid mask; edges of the image are those of the truth, the probabilities noisy."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(num_classes, height, width)), (0, 4, 4))
    truth = fields.argmax(0)
    means = rng.uniform(3_000, 30_000, (5, num_classes))
    image = (means[:, truth] + rng.normal(0, 400, (5, height, width))).astype(np.float32)
    logits = 1.2 * (np.arange(num_classes)[:, None, None] == truth) + rng.normal(0, 1, (num_classes, height, width))
    probabilities = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
    valid = np.ones((height, width), bool)
    valid[: height // 4, : width // 3] = False
    valid[height // 2, width // 2] = False
    return probabilities, image, valid, truth


def _by_loops(probabilities: np.ndarray, image: np.ndarray, valid: np.ndarray, how: CrfSettings) -> np.ndarray:
    """The formula as it stands in the module, pixel by pixel, in float64."""
    num_classes, height, width = probabilities.shape
    colours = image.astype(np.float64)
    colours = (colours - colours[:, valid].mean(1)[:, None, None]) / colours[:, valid].std(1)[:, None, None]
    steps = [how.dilation * k for k in range(-how.radius, how.radius + 1)]
    window = [(a, b) for a in range(-60, 61) for b in range(-60, 61) if (a, b) != (0, 0)]
    window = [(a, b) for a, b in window if (a in steps and b in steps) or max(abs(a), abs(b)) == 1]

    def spatial(a: int, b: int, sigma: float) -> float:
        return np.exp(-(a * a + b * b) / (2 * sigma**2))

    total_a = sum(spatial(a, b, how.appearance_sigma_px) for a, b in window)
    total_s = sum(spatial(a, b, how.smooth_sigma_px) for a, b in window)
    unary = -np.log(np.maximum(probabilities.astype(np.float64), 1e-6))
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(how.iterations):
        new = probabilities.astype(np.float64)
        for y in range(height):
            for x in range(width):
                if not valid[y, x]:
                    continue
                energy = unary[:, y, x].copy()
                for a, b in window:
                    if not (0 <= y + a < height and 0 <= x + b < width and valid[y + a, x + b]):
                        continue
                    unlike = np.mean((colours[:, y, x] - colours[:, y + a, x + b]) ** 2)
                    k = how.appearance_weight / total_a * spatial(a, b, how.appearance_sigma_px)
                    k *= np.exp(-unlike / (2 * how.appearance_sigma_bands**2))
                    k += how.smooth_weight / total_s * spatial(a, b, how.smooth_sigma_px)
                    for label in range(num_classes):
                        energy[label] += k * sum(q[m, y + a, x + b] for m in range(num_classes) if m != label)
                new[:, y, x] = np.exp(-energy) / np.exp(-energy).sum()
        q = new
    return q


@pytest.mark.parametrize(
    ("num_classes", "how"),
    [(4, SMALL), (2, replace(SMALL, iterations=3, radius=2, dilation=1)), (3, replace(SMALL, smooth_weight=0.0))],
)
def test_against_a_loop_over_pixels(num_classes: int, how: CrfSettings) -> None:
    probabilities, image, valid, _ = _scene(num_classes, 13, 17)
    probabilities[:, 6, 6] = 0
    probabilities[0, 6, 6] = 1
    ours = refine(probabilities, image, valid, how)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, _by_loops(probabilities, image, valid, how), atol=2e-5)
    assert np.abs(ours - probabilities).max() > 0.1


def test_pieces_with_a_halo_give_the_pixels_of_the_whole() -> None:
    how = CrfSettings(iterations=3)
    assert how.halo_px == 18
    probabilities, image, valid, _ = _scene(4, 150, 131)
    statistics = band_statistics(image, valid)
    whole = refine(probabilities, image, valid, how, statistics=statistics)
    for rows, cols in ((slice(40, 77), slice(0, 131)), (slice(0, 50), slice(60, 99)), (slice(81, 150), slice(25, 131))):
        around = tuple(
            slice(max(s.start - how.halo_px, 0), min(s.stop + how.halo_px, n)) for s, n in ((rows, 150), (cols, 131))
        )
        piece = refine(probabilities[:, *around], image[:, *around], valid[around], how, statistics=statistics)
        inner = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip((rows, cols), around, strict=True))
        np.testing.assert_array_equal(piece[:, *inner], whole[:, rows, cols])
    # One pixel less is not enough: the halo is as long as said, not longer.
    short = refine(probabilities[:, 23:], image[:, 23:], valid[23:], how, statistics=statistics)[:, 17]
    assert (short != whole[:, 40]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_strips_written_back_at_once_give_the_same_map(dtype) -> None:
    how = CrfSettings(iterations=4)
    probabilities, image, valid, _ = _scene(3, 300, 140)
    probabilities = probabilities.astype(dtype)
    statistics = band_statistics(image, valid)
    whole = refine(probabilities, image, valid, how, statistics=statistics)
    asked = []

    def read(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return image[:, start:stop]

    in_place = probabilities.astype(np.float32)
    heights = []
    for rows, refined in refine_rows(in_place, read, valid, statistics, how, piece_px=64):
        in_place[:, rows] = refined
        heights.append(rows.stop - rows.start)
    np.testing.assert_array_equal(in_place, whole)
    assert heights == [64, 64, 64, 64, 44]
    assert max(asked) == 64 + 2 * how.halo_px


def test_nodata_neither_sends_nor_receives() -> None:
    probabilities, image, valid, _ = _scene(4, 40, 50)
    ours = refine(probabilities, image, valid)
    np.testing.assert_array_equal(ours[:, ~valid], probabilities[:, ~valid])
    wild = image.copy()
    wild[:, ~valid] = np.nan
    other = probabilities.copy()
    other[:, ~valid] = np.array([0, 0, 0, 1])[:, None]
    np.testing.assert_array_equal(refine(other, wild, valid)[:, valid], ours[:, valid])
    wild = wild.astype(np.float64)
    wild[:, ~valid] = -1.7e308  # the fill value of some real files
    np.testing.assert_array_equal(refine(other, wild, valid)[:, valid], ours[:, valid])
    nothing = np.zeros_like(valid)
    np.testing.assert_array_equal(refine(probabilities, wild, nothing), probabilities)


def test_probabilities_stay_probabilities_and_runs_repeat() -> None:
    probabilities, image, valid, truth = _scene(4, 80, 70, seed=5)
    before = probabilities.copy()
    ours = refine(probabilities, image, valid)
    np.testing.assert_array_equal(probabilities, before)
    np.testing.assert_array_equal(refine(probabilities, image, valid), ours)
    np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)
    share = [(p.argmax(0) == truth)[valid].mean() for p in (probabilities, ours)]
    assert share[1] > share[0] + 0.2
    off = refine(probabilities, image, valid, CrfSettings(iterations=0))
    np.testing.assert_allclose(off, probabilities, atol=1e-6)


def test_threads_change_nothing_and_are_left_as_they_were() -> None:
    probabilities, image, valid, _ = _scene(3, 90, 130)
    statistics, before = band_statistics(image, valid), torch.get_num_threads()
    found = []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            strips = refine_rows(probabilities, image, valid, statistics, piece_px=40)
            found.append(np.concatenate([strip for _, strip in strips], axis=1))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_every_neighbour_is_heard() -> None:
    # A dilated window alone would never let a pixel reach the one beside it.
    probabilities = np.full((2, 41, 41), 0.5, np.float32)
    probabilities[:, 20, 20] = 0.01, 0.99
    ours = refine(probabilities, np.ones((1, 41, 41)), np.ones((41, 41), bool), CrfSettings(iterations=1))
    moved = ours[1] > 0.5 + 1e-6
    expected = np.zeros((41, 41), bool)
    expected[14:27:2, 14:27:2] = True
    expected[19:22, 19:22] = True
    np.testing.assert_array_equal(moved, expected)


def test_statistics_are_those_of_the_valid_pixels() -> None:
    _, image, valid, _ = _scene(3, 90, 30)
    image[1] = 7.0
    image[2] += 1e6
    image[0, ~valid] = np.inf
    for rows_at_once in (1, 7, 256):
        ours = band_statistics(image, valid, rows_at_once)
        chosen = image[:, valid].astype(np.float64)
        np.testing.assert_allclose(ours.mean_C, chosen.mean(1), rtol=1e-6)
        np.testing.assert_allclose(np.delete(ours.std_C, 1), np.delete(chosen.std(1), 1), rtol=1e-5)
        assert ours.std_C[1] == 1
    nothing = band_statistics(image, np.zeros_like(valid))
    np.testing.assert_array_equal(nothing.std_C, 1)


def test_gpu_agrees_with_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    probabilities, image, valid, _ = _scene(4, 120, 90)
    on_gpu = refine(probabilities, image, valid, device="cuda")
    np.testing.assert_allclose(on_gpu, refine(probabilities, image, valid), atol=1e-4)


@pytest.mark.parametrize(("appearance_weight", "closeness"), [(0.0, 0.2), (3.0, 0.35)])
def test_agrees_with_pydensecrf_where_both_see_the_same_pixels(appearance_weight: float, closeness: float) -> None:
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    probabilities, image, _, truth = _scene(3, 96, 96, seed=2)
    image, sigma, valid = image[:1], 3.0, np.ones(truth.shape, bool)
    # The window cuts nothing off. pydensecrf's kernel counts the pixel itself (1 of 57), and its lattice is an
    # approximation, the worse the more dimensions there are: hence one band.
    how = CrfSettings(
        radius=9, dilation=1, appearance_sigma_px=sigma, smooth_sigma_px=sigma, appearance_sigma_bands=0.5,
        appearance_weight=appearance_weight,
    )  # fmt: skip
    colours = (image - image.mean()) / image.std() / how.appearance_sigma_bands
    places = np.stack(np.mgrid[:96, :96]).reshape(2, -1) / sigma
    features = np.concatenate([places, colours.reshape(1, -1)])
    area = 2 * np.pi * sigma**2 - 1
    field = densecrf.DenseCRF(truth.size, 3)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(probabilities).reshape(3, -1)))
    for weight, chosen in ((how.smooth_weight, places), (appearance_weight, features)):
        field.addPairwiseEnergy(
            np.ascontiguousarray(chosen, np.float32), compat=weight / area, normalization=densecrf.NO_NORMALIZATION
        )
    theirs = np.array(field.inference(how.iterations)).reshape(3, 96, 96)
    ours = refine(probabilities, image, valid, how)
    changed = np.abs(theirs - probabilities).mean()
    assert np.abs(ours - theirs).mean() < closeness * changed
    assert (ours.argmax(0) != theirs.argmax(0)).mean() < 0.05


@pytest.mark.parametrize(
    "wrong",
    [{"iterations": -1}, {"radius": 0}, {"dilation": 0}, {"smooth_weight": -1.0}, {"appearance_weight": float("nan")},
     {"smooth_sigma_px": 0.0}, {"appearance_sigma_bands": float("inf")}],
)  # fmt: skip
def test_impossible_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="CRF"):
        CrfSettings(**wrong)


def test_arrays_that_do_not_fit() -> None:
    probabilities, image, valid, _ = _scene(3, 20, 20)
    with pytest.raises(DataError, match="two or more classes"):
        refine(probabilities[:1], image, valid)
    with pytest.raises(DataError, match="valid mask"):
        refine(probabilities[:, 1:], image, valid)
    with pytest.raises(DataError, match="An image of shape"):
        refine(probabilities, image[:3], valid, statistics=band_statistics(image, valid))
