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
