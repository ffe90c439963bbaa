"""SAM 2 (Ravi et al. 2024) asked by points and boxes: a mask of what they point at, in a picture.

An optional extra through transformers; the weights lie in a folder that a person names, nothing is downloaded. The
picture goes through the large encoder once; each question after that through the small decoder alone.

Shapes: rgb_HW3 uint8, mask_HW bool. M masks, P prompts, h and w of SAM 2's own small masks. Points are (row, column).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch.nn import functional

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.device import pick_device

_MEND = "Choose a folder with the config.json and model.safetensors of a SAM 2, as transformers keeps them."
# What SAM 2 was trained on: ImageNet's colours.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROMPTS_AT_ONCE = 32
# Of masks that overlap more than this, as the intersection over the union, the better one is kept.
_SAME = 0.7


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """What the encoder made of a picture, and the picture's height and width."""

    maps: list[torch.Tensor]
    size: tuple[int, int]


class PromptedSam:
    """A SAM 2 that answers questions about pictures.

    Parameters
    ----------
    model : transformers.Sam2Model
    device : str
        See `pick_device`.
    """

    def __init__(self, model: Any, device: str = "auto") -> None:
        self._device = pick_device(device)
        self._model = model.eval().to(self._device)
        self._side_px = int(model.config.prompt_encoder_config.image_size)

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> "PromptedSam":
        """Load weights from a folder.

        Raises
        ------
        ConfigError
            If transformers is not installed, or the folder holds no such weights.
        """
        try:
            from transformers import Sam2Model
        except ImportError as error:
            raise ConfigError(
                'SAM 2 needs transformers, which is not installed. Install it with: pip install "napari-glacier[sam2]".'
            ) from error
        if not (folder / "config.json").is_file():
            raise ConfigError(f"There are no weights of SAM 2 in {folder}: it is no folder with a config.json. {_MEND}")
        try:
            # Its types know nothing of the second thing it gives.
            load: Any = Sam2Model.from_pretrained
            model, found = load(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
        except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConfigError(f"The weights in {folder} are not of SAM 2 ({reason}). {_MEND}") from error
        # Published files hold the parts for video, too, which are not asked for here.
        wrong = sorted({str(key) for kind in ("missing_keys", "mismatched_keys") for key in found[kind]})
        if wrong:
            raise ConfigError(
                f"The weights in {folder} are not of SAM 2: {len(wrong)} tensors are missing or of another size "
                f"({', '.join(wrong[:3])} …). {_MEND}"
            )
        return cls(model, device)

    @torch.inference_mode()
    def look(self, rgb_HW3: npt.NDArray[np.uint8]) -> SeenPicture:
        """Run the encoder over a picture, resized to the square that SAM 2 takes."""
        picture_13HW = torch.from_numpy(np.ascontiguousarray(rgb_HW3)).to(self._device).permute(2, 0, 1)[None] / 255
        square = functional.interpolate(
            picture_13HW, (self._side_px, self._side_px), mode="bilinear", align_corners=False, antialias=True
        )
        mean, std = (torch.tensor(values, device=self._device).reshape(1, 3, 1, 1) for values in (_MEAN, _STD))
        return SeenPicture(self._model.get_image_embeddings((square - mean) / std), rgb_HW3.shape[:2])

    @torch.inference_mode()
    def ask(
        self,
        seen: SeenPicture,
        inside: Sequence[tuple[float, float]] = (),
        outside: Sequence[tuple[float, float]] = (),
        box: tuple[float, float, float, float] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """What points and a box mean.

        Parameters
        ----------
        seen : SeenPicture
        inside, outside : sequence of (row, column)
            Points of the object, and of what is none of it.
        box : (top, left, bottom, right), optional
            Around the object.

        Returns
        -------
        bool array, shape (H, W)
            Of the masks that SAM 2 offers, the one that it holds best.
        """
        points = [*inside, *outside]
        prompt: dict[str, torch.Tensor] = {}
        if points:
            prompt["input_points"] = self._placed(seen, points)[None, None]
            labels = [1] * len(inside) + [0] * len(outside)
            prompt["input_labels"] = torch.tensor(labels, device=self._device)[None, None]
        if box is not None:
            prompt["input_boxes"] = self._placed(seen, [box[:2], box[2:]]).reshape(1, 1, 4)
        # One point means several things, more leave less to choose: as in SAM 2's own predictor.
        logits_PMhw, scores_PM = self._decode(seen, prompt, several=len(points) + 2 * (box is not None) < 2)
        best_1hw = logits_PMhw[:, int(scores_PM[0].argmax())]
        mask_HW: npt.NDArray[np.bool_] = (self._enlarged(best_1hw, seen.size)[0] > 0).cpu().numpy()
        return mask_HW

    @torch.inference_mode()
    def masks_of_all(
        self, seen: SeenPicture, per_side: int = 16, least_score: float = 0.7, least_stability: float = 0.85
    ) -> npt.NDArray[np.int32]:
        """Objects anywhere in a picture, asked for by a grid of points.

        Parameters
        ----------
        seen : SeenPicture
        per_side : int
            Points along a side.
        least_score : float
            What SAM 2 thinks of a mask, the intersection over the union that it expects.
        least_stability : float
            Intersection over the union of the masks cut at logits of 1 and of -1.

        Returns
        -------
        int32 array, shape (H, W)
            Number of the object, from 1; smaller ones lie over larger ones. 0 where there is none.
        """
        height, width = seen.size
        at = (np.arange(per_side) + 0.5) / per_side
        grid = self._placed(seen, [(row * height, col * width) for row in at for col in at])
        logits, scores = [], []
        for first in range(0, len(grid), _PROMPTS_AT_ONCE):
            prompt = {"input_points": grid[first : first + _PROMPTS_AT_ONCE, None][None]}
            logits_PMhw, scores_PM = self._decode(seen, prompt, several=True)
            stable_PM = _area(logits_PMhw > 1) / _area(logits_PMhw > -1).clamp(min=1)
            good_PM = (scores_PM >= least_score) & (stable_PM >= least_stability) & (_area(logits_PMhw > 0) > 0)
            logits.append(logits_PMhw[good_PM])
            scores.append(scores_PM[good_PM])
        logits_Mhw, scores_M = torch.cat(logits), torch.cat(scores)
        kept = _unlike(logits_Mhw > 0, scores_M)
        label_HW = np.zeros((height, width), np.int32)
        kept.sort(key=lambda number: -int((logits_Mhw[number] > 0).sum()))
        for label, number in enumerate(kept, start=1):
            mask_HW = self._enlarged(logits_Mhw[number][None], seen.size)[0] > 0
            label_HW[mask_HW.cpu().numpy()] = label
        return label_HW

    def _placed(self, seen: SeenPicture, points: Sequence[Sequence[float]]) -> torch.Tensor:
        """Rows and columns of the picture as x and y of the square."""
        rows_cols = np.asarray(points, np.float32).reshape(-1, 2) * self._side_px / np.asarray(seen.size, np.float32)
        return torch.from_numpy(np.ascontiguousarray(rows_cols[:, ::-1])).to(self._device, torch.float32)

    def _decode(
        self, seen: SeenPicture, prompt: dict[str, torch.Tensor], *, several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (P, M, h, w) and scores (P, M) of the masks of prompts."""
        answer = self._model(image_embeddings=seen.maps, multimask_output=several, **prompt)
        return answer.pred_masks[0].float(), answer.iou_scores[0].float()

    @staticmethod
    def _enlarged(logits_Mhw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return functional.interpolate(logits_Mhw[None], size, mode="bilinear", align_corners=False)[0]


def _area(mask: torch.Tensor) -> torch.Tensor:
    return mask.flatten(-2).sum(-1)


def _unlike(mask_Mhw: torch.Tensor, scores_M: torch.Tensor) -> list[int]:
    """Numbers of masks, the best first, without those that are much like a better one."""
    flat = mask_Mhw.flatten(1).float()
    shared = flat @ flat.T
    size_M = flat.sum(1)
    overlap = shared / (size_M[:, None] + size_M[None] - shared)
    kept: list[int] = []
    for number in scores_M.argsort(descending=True).tolist():
        if not kept or float(overlap[number, kept].max()) <= _SAME:
            kept.append(number)
    return kept
