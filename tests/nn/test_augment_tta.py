import numpy as np
import pytest
import torch

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.augment_tta import views


@pytest.mark.parametrize(("tta", "count"), [("off", 1), (2, 2), (6, 6), (8, 8), ("8", 8)])
def test_views_invert_exactly_and_differ(tta, count: int) -> None:
    x = torch.randn(2, 3, 5, 7)
    chosen = views(tta)
    assert len(chosen) == count
    assert torch.equal(chosen[0].apply(x), x)
    for view in chosen:
        assert torch.equal(view.invert(view.apply(x)), x)
    seen = {view.apply(torch.arange(9).reshape(3, 3)).numpy().tobytes() for view in chosen}
    assert len(seen) == count


def test_eight_views_are_the_square_group() -> None:
    square = np.arange(16).reshape(4, 4)
    ours = {view.apply(torch.from_numpy(square)).numpy().tobytes() for view in views(8)}
    group = {np.rot90(base, k).tobytes() for base in (square, square.T) for k in range(4)}
    assert ours == group


def test_six_views_are_identity_flips_and_rotations() -> None:
    square = np.arange(16).reshape(4, 4)
    ours = {view.apply(torch.from_numpy(square)).numpy().tobytes() for view in views(6)}
    wanted = [np.rot90(square, k) for k in range(4)] + [square[:, ::-1], square[::-1]]
    assert ours == {image.tobytes() for image in wanted}


def test_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="off, 2, 6 or 8"):
        views(3)


def _bilinear(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation where the borders of the image, not its corner pixels' centres, stay in place."""

    def along(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(place).astype(int)
        return low, np.minimum(low + 1, length - 1), place - low

    top, bottom, v = along(plane.shape[0], height)
    left, right, u = along(plane.shape[1], width)
    upper = plane[top][:, left] * (1 - u) + plane[top][:, right] * u
    lower = plane[bottom][:, left] * (1 - u) + plane[bottom][:, right] * u
    return upper * (1 - v[:, None]) + lower * v[:, None]


def test_scaled_views_against_a_formula() -> None:
    x = torch.randn(2, 3, 21, 34)
    shapes = {0.75: (16, 26), 1.25: (26, 43), 1.0: (21, 34)}
    chosen = views(8, (1, 0.75, 1.25))
    assert [view.scale for view in chosen] == [1] * 8 + [0.75] * 8 + [1.25] * 8
    assert chosen[:8] == views(8)
    assert len({view.name for view in chosen}) == 24
    for k, view in enumerate(chosen):
        resized = np.stack([_bilinear(p, *shapes[view.scale]) for p in x.reshape(6, 21, 34).double().numpy()])
        wanted = views(8)[k % 8].apply(torch.from_numpy(resized).reshape(2, 3, *shapes[view.scale]))
        seen = view.apply(x)
        assert seen.shape[-2:] == view.shape_of(21, 34) == wanted.shape[-2:]
        torch.testing.assert_close(seen, wanted.float(), atol=1e-4, rtol=0)
        back = view.invert(seen, (21, 34))
        upright = views(8)[k % 8].invert(seen).reshape(6, *shapes[view.scale]).double().numpy()
        wanted_back = np.stack([_bilinear(plane, 21, 34) for plane in upright]).reshape(2, 3, 21, 34)
        torch.testing.assert_close(back, torch.from_numpy(wanted_back).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_scaled_probabilities_come_back_as_probabilities_in_place(scale: float) -> None:
    ramp = torch.linspace(0, 1, 40).expand(30, 40)
    probabilities = torch.stack([ramp, 1 - ramp])
    for view in views(8, [scale]):
        back = view.invert(view.apply(probabilities), (30, 40))
        torch.testing.assert_close(back.sum(0), torch.ones(30, 40))
        # A ramp is its own interpolation, away from the border: nothing has moved by a part of a pixel.
        torch.testing.assert_close(back[..., 2:-2], probabilities[..., 2:-2], atol=1e-5, rtol=0)


def test_scaled_nodata_stays_at_the_mean() -> None:
    x = torch.full((1, 40, 40), 3.0)
    x[:, :, :20] = 0
    for view in views("off", [0.75, 1.25]):
        seen = view.apply(x)
        edge = int(20 * view.scale)
        assert not seen[..., : edge - 1].any()
        right = seen[..., edge + 1 :]
        torch.testing.assert_close(right, torch.full_like(right, 3))
        assert ((seen >= 0) & (seen < 3.0001)).all()


def test_tiny_images_keep_a_pixel() -> None:
    view = views("off", [0.25])[0]
    x = torch.ones(2, 1, 1)
    assert view.apply(x).shape == (2, 1, 1)
    assert torch.equal(view.invert(view.apply(x), (1, 1)), x)


@pytest.mark.parametrize("scales", [[], [0], [1, 1], [-1, 1], [float("nan")], [8], ["1"], [True]])
def test_wrong_scales(scales) -> None:
    with pytest.raises(ConfigError, match="different numbers"):
        views(6, scales)
