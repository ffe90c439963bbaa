"""SAM 2 as a person asks it: random weights of a tiny size, against transformers' own processor and model."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.prompting import PromptedSam
from napari_glacier.nn.zoo import build_model

# Of the fixture's model.
SIDE_PX = 64


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(1)
    rgb_HW3 = rng.integers(0, 90, (48, 80, 3)).astype(np.uint8)
    rgb_HW3[10:30, 20:50] += 150
    return rgb_HW3


def _librarys_answer(folder: Path, rgb_HW3: np.ndarray, several: bool, **prompt: object) -> np.ndarray:
    import transformers
    from transformers import Sam2Model, Sam2Processor

    # In 5.0 the processor that computes with torch had a name of its own.
    name = "Sam2ImageProcessor" if hasattr(transformers, "Sam2ImageProcessor") else "Sam2ImageProcessorFast"
    side = {"height": SIDE_PX, "width": SIDE_PX}
    processor = Sam2Processor(getattr(transformers, name)(size=side))
    model = Sam2Model.from_pretrained(folder, local_files_only=True).eval()
    inputs = processor(images=rgb_HW3, return_tensors="pt", **prompt)
    with torch.no_grad():
        answer = model(**{key: inputs[key] for key in inputs if key != "original_sizes"}, multimask_output=several)
    masks = processor.post_process_masks(answer.pred_masks, inputs["original_sizes"], binarize=False)[0][0]
    return masks[int(answer.iou_scores[0, 0].argmax())].numpy()


@pytest.mark.parametrize("kind", ["point", "points", "box"])
def test_points_and_boxes_mean_what_they_mean_to_the_library(tiny_sam: Path, picture: np.ndarray, kind: str) -> None:
    sam = PromptedSam.load(tiny_sam, "cpu")
    seen = sam.look(picture)
    # The library counts columns first.
    if kind == "point":
        found_HW = sam.ask(seen, inside=[(20, 35)])
        expected = _librarys_answer(tiny_sam, picture, True, input_points=[[[[35, 20]]]], input_labels=[[[1]]])
    elif kind == "points":
        found_HW = sam.ask(seen, inside=[(20, 35)], outside=[(40, 70)])
        prompt = {"input_points": [[[[35, 20], [70, 40]]]], "input_labels": [[[1, 0]]]}
        expected = _librarys_answer(tiny_sam, picture, False, **prompt)
    else:
        found_HW = sam.ask(seen, box=(10, 20, 30, 50))
        expected = _librarys_answer(tiny_sam, picture, False, input_boxes=[[[20, 10, 50, 30]]])
    assert found_HW.shape == picture.shape[:2]
    # Resizing in bytes, as the library does, rounds: pixels whose logit is all but 0 may differ.
    sure_HW = np.abs(expected) > 0.05 * np.abs(expected).max()
    assert sure_HW.mean() > 0.5
    np.testing.assert_array_equal(found_HW[sure_HW], (expected > 0)[sure_HW])


def test_all_masks_of_a_picture_are_unlike_each_other(tiny_sam: Path, picture: np.ndarray) -> None:
    sam = PromptedSam.load(tiny_sam, "cpu")
    seen = sam.look(picture)
    label_HW = sam.masks_of_all(seen, per_side=4, least_score=-10, least_stability=0)
    assert label_HW.shape == picture.shape[:2]
    assert label_HW.dtype == np.int32
    assert label_HW.max() >= 1
    assert not sam.masks_of_all(seen, per_side=4, least_score=10).any()


def test_masks_much_like_a_better_one_go() -> None:
    from napari_glacier.nn.prompting import _unlike

    masks = torch.zeros(4, 10, 10, dtype=torch.bool)
    masks[0, :5], masks[1, :5, 1:], masks[2, 5:], masks[3, :6] = True, True, True, True
    assert _unlike(masks, torch.tensor([0.7, 0.9, 0.5, 0.6])) == [1, 2]


def test_what_is_missing_is_told_in_a_sentence(tmp_path: Path, tiny_sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no weights of SAM 2 in .*Choose a folder with the config.json"):
        PromptedSam.load(tmp_path)
    weights = tiny_sam / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"are not of SAM 2 .*header"):
        PromptedSam.load(tiny_sam)
    with pytest.raises(ConfigError, match=r"are not of SAM 2 .*header"):
        build_model("sam2", channels=("red", "green", "blue"), num_classes=2, encoder_weights=str(tiny_sam))
    weights.unlink()
    with pytest.raises(ConfigError, match="are not of SAM 2"):
        PromptedSam.load(tiny_sam)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r'needs transformers.*pip install "napari-glacier\[sam2\]"'):
        PromptedSam.load(tiny_sam)
