"""Teachers: trained models whose soft answers a student learns from (Hinton et al. 2015).

Teachers see the student's own augmented crops. Theirs may be other architectures, fewer channels in another
order, and other statistics; the classes must be the same.

Shapes: N images, C channels, K classes, H rows, W columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.config import DistillConfig
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.checkpoint import LoadedModel
from napari_glacier.nn.ensemble import Ensemble, resolve_models


def load_teachers(config: DistillConfig, scheme: ClassScheme, channels: Sequence[str]) -> Ensemble:
    """Load the teachers and check that they can teach.

    Raises
    ------
    CheckpointError
        If one is missing or damaged.
    ConfigError
        If one knows other classes, or takes a channel that the student is not given.
    """
    teachers = resolve_models(config.teachers)
    if teachers.scheme.class_names != scheme.class_names:
        raise ConfigError(
            f"The teachers know the classes {', '.join(teachers.scheme.class_names)}; the training masks hold "
            f"{', '.join(scheme.class_names)}. Choose teachers of the same classes."
        )
    lacking = [name for name in teachers.channels if name not in channels]
    if lacking:
        raise ConfigError(
            f"A teacher takes the channels {', '.join(teachers.channels)}, but data.channels lacks "
            f"{', '.join(lacking)}. Add them, or choose other teachers."
        )
    return teachers


class Teachers:
    """The teachers on the training device.

    Parameters
    ----------
    ensemble : Ensemble
    temperature : float
    channels : sequence of str
        Of the student's input.
    normalisation : Normalisation
        Of the student's input.
    device : torch.device
    """

    def __init__(
        self,
        ensemble: Ensemble,
        temperature: float,
        channels: Sequence[str],
        normalisation: Normalisation,
        device: torch.device,
    ) -> None:
        self._temperature = temperature
        self._weights = ensemble.weights
        self._networks = [m.model.to(device).to(memory_format=torch.channels_last).eval() for m in ensemble.members]
        self._inputs = [_Translation(member, channels, normalisation, device) for member in ensemble.members]

    @torch.no_grad()
    def soft_targets(self, image_NCHW: Tensor) -> Tensor:
        """Averaged probabilities at the temperature, float32 (N, K, H, W), for a batch of the student's input."""
        mean_NKHW: Tensor | None = None
        for network, translate, weight in zip(self._networks, self._inputs, self._weights, strict=True):
            logits_NKHW = network(translate(image_NCHW)).float()
            part_NKHW = weight * (logits_NKHW / self._temperature).softmax(1)
            mean_NKHW = part_NKHW if mean_NKHW is None else mean_NKHW + part_NKHW
        assert mean_NKHW is not None
        return mean_NKHW


class _Translation:
    """Turns the student's input into a teacher's: its channels, in its units."""

    def __init__(
        self, teacher: LoadedModel, channels: Sequence[str], normalisation: Normalisation, device: torch.device
    ) -> None:
        card = teacher.card
        planes = [list(channels).index(name) for name in card.channels]
        student_mean, student_std = (torch.tensor(values)[planes] for values in (normalisation.mean, normalisation.std))
        mean, std = torch.tensor(card.normalisation.mean), torch.tensor(card.normalisation.std)
        scale, shift = student_std / std, (student_mean - mean) / std
        self._planes = torch.tensor(planes, device=device)
        self._scale = scale.view(1, -1, 1, 1).to(device)
        self._shift = shift.view(1, -1, 1, 1).to(device)

    def __call__(self, image_NCHW: Tensor) -> Tensor:
        # Nodata is 0 in every channel, before and after.
        is_data_N1HW = (image_NCHW != 0).any(1, keepdim=True)
        chosen_NCHW = image_NCHW[:, self._planes] * self._scale + self._shift
        return (chosen_NCHW * is_data_N1HW).contiguous(memory_format=torch.channels_last)
