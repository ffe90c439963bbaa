import pytest
import torch

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.config import DistillConfig
from napari_glacier.core.errors import CheckpointError, ConfigError
from training.distill import Teachers, load_teachers

BANDS = ("B2", "B3", "B4", "B6", "B10")


def test_teachers_see_their_own_channels_in_their_own_units(make_checkpoint):
    """Against each teacher run by hand on data in the data's own units."""
    paths = [str(make_checkpoint("a")), str(make_checkpoint("b"))]
    channels = ("valid", *reversed(BANDS))  # more, and in another order
    ensemble = load_teachers(DistillConfig(teachers=paths), get_scheme("glacier4"), channels)
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(2, 5, 32, 48, generator=generator) * 30_000
    is_data = torch.rand(2, 1, 32, 48, generator=generator) > 0.2
    student = Normalisation((0.0, *[15_000.0] * 5), (1.0, *[8_000.0 + k for k in range(5)]))
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (student.mean, student.std))
    image = (torch.cat([torch.ones(2, 1, 32, 48), raw.flip(1)], 1) - mean) / std * is_data
    teachers = Teachers(ensemble, 3.0, channels, student, torch.device("cpu"))
    made = teachers.soft_targets(image)
    expected = torch.zeros_like(made)
    with torch.no_grad():
        for member, weight in zip(ensemble.members, ensemble.weights, strict=True):
            theirs = (raw - 20_000.0) / 9_000.0 * is_data
            expected += weight * (member.model(theirs) / 3.0).softmax(1)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert not made.requires_grad


def test_teachers_that_cannot_teach_are_refused(make_checkpoint):
    path = str(make_checkpoint("a"))
    with pytest.raises(ConfigError, match="lacks B10"):
        load_teachers(DistillConfig(teachers=[path]), get_scheme("glacier4"), BANDS[:-1])
    with pytest.raises(ConfigError, match="The teachers know the classes background, glacier, debris, lake"):
        load_teachers(DistillConfig(teachers=[path]), get_scheme("glacier2"), BANDS)
    with pytest.raises(CheckpointError, match="no model"):
        load_teachers(DistillConfig(teachers=["nowhere"]), get_scheme("glacier4"), BANDS)
