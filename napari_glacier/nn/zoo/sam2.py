"""SAM 2 (Ravi et al. 2024) as a trainable network, an optional extra through transformers.

A 1x1 convolution makes a composite of three planes from the channels; SAM 2's image encoder, frozen, reads it; and
learned prompts, a few tokens per class in the place of points and boxes, ask its mask decoder for one mask per class.
The masks are the logits. Composite, prompts and decoder are trained.

The heads by which SAM 2 ranks several masks of one prompt are left out: each prompt here has one mask.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.encoders import RGB_PLANE

_GRID_PX = 32  # the encoder's deepest stride, and its first window (8) times its patch (4)

# The published sizes of the image encoder: width of its first stage, its attention heads, blocks of each stage, blocks
# that attend to the whole image, windows of each stage, and side of the learned background position; then the width of
# the mask decoder and of its inner layers.
_TINY: Mapping[str, Any] = MappingProxyType(
    {
        "width": 96,
        "heads": 1,
        "blocks": (1, 2, 7, 2),
        "global_blocks": (5, 7, 9),
        "windows": (8, 4, 14, 7),
        "background": 7,
        "decoder_width": 256,
        "decoder_inner": 2048,
    }
)
_SIZES = MappingProxyType(
    {
        "tiny": _TINY,
        "small": {**_TINY, "blocks": (1, 2, 11, 2), "global_blocks": (7, 10, 13)},
        "base_plus": {
            **_TINY,
            "width": 112,
            "heads": 2,
            "blocks": (2, 3, 16, 3),
            "global_blocks": (12, 16, 20),
            "background": 14,
        },
        "large": {
            **_TINY,
            "width": 144,
            "heads": 2,
            "blocks": (2, 6, 36, 4),
            "global_blocks": (23, 33, 43),
            "windows": (8, 4, 16, 8),
        },
    }
)


class FrozenImageEncoder(nn.Module):
    """SAM 2's image encoder without gradients of its own; gives maps at strides 4, 8 and 16."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision.requires_grad_(False)

    def forward(self, composite_N3HW: torch.Tensor) -> list[torch.Tensor]:
        return list(self.vision(composite_N3HW).fpn_hidden_states)


class Sam2Segmenter(nn.Module):
    """SAM 2 with a learned composite and learned prompts; takes images of any size.

    Parameters
    ----------
    sam : nn.Module
        A Sam2Model of transformers, whose parts are taken over.
    channel_names : sequence of str
        The composite starts as red, green, blue where these are among them, else as the mean of all channels.
    num_classes, image_px, prompts_per_class : int
        Images are resized to squares of `image_px`, as SAM 2 does itself.
    """

    def __init__(
        self, sam: Any, channel_names: Sequence[str], num_classes: int, image_px: int, prompts_per_class: int
    ) -> None:
        super().__init__()
        self.image_px = image_px
        self.composite = nn.Conv2d(len(channel_names), 3, kernel_size=1)
        self._start_composite(channel_names)
        self.encoder = FrozenImageEncoder(sam.vision_encoder)
        self.positions = sam.shared_image_embedding
        # What SAM 2 adds to the image's features where there is neither a mask to start from nor an earlier frame.
        blank = sam.no_memory_embedding.detach().reshape(-1) + sam.prompt_encoder.no_mask_embed.weight.detach()[0]
        self.blank = nn.Parameter(blank.reshape(1, -1, 1, 1))
        # Small enough for the decoder's own tokens to stand out, unlike enough for the classes to part.
        self.prompts = nn.Parameter(0.1 * torch.randn(num_classes, prompts_per_class, blank.numel()))
        self.decoder = _single_mask(sam.mask_decoder)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, num_classes, H, W), for images of any H and W."""
        size = image_NCHW.shape[-2:]
        square = functional.interpolate(
            self.composite(image_NCHW), (self.image_px, self.image_px), mode="bilinear", align_corners=False
        )
        fine, middle, coarse = self.encoder(square)
        count = len(coarse)
        masks_NK1HW = self.decoder(
            image_embeddings=coarse,
            image_positional_embeddings=self._grid_positions(coarse).expand(count, -1, -1, -1),
            sparse_prompt_embeddings=self.prompts.expand(count, -1, -1, -1),
            dense_prompt_embeddings=self.blank,
            multimask_output=False,
            high_resolution_features=[self.decoder.conv_s0(fine), self.decoder.conv_s1(middle)],
        )[0]
        return functional.interpolate(masks_NK1HW[:, :, 0], size, mode="bilinear", align_corners=False)

    def _grid_positions(self, coarse_NCHW: torch.Tensor) -> torch.Tensor:
        """SAM 2's encoding of the centre of every cell of the coarse map, shape (1, C, h, w)."""
        height, width = coarse_NCHW.shape[-2:]
        y = (torch.arange(height, device=coarse_NCHW.device) + 0.5) / height
        x = (torch.arange(width, device=coarse_NCHW.device) + 0.5) / width
        centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
        encoded: torch.Tensor = self.positions(centres)
        return encoded.permute(2, 0, 1)[None]

    @torch.no_grad()
    def _start_composite(self, channel_names: Sequence[str]) -> None:
        nn.init.zeros_(self.composite.bias)  # type: ignore[arg-type]
        self.composite.weight.fill_(1 / len(channel_names))
        planes = {RGB_PLANE[name]: position for position, name in enumerate(channel_names) if name in RGB_PLANE}
        if len(planes) == 3:
            self.composite.weight.zero_()
            for plane, position in planes.items():
                self.composite.weight[plane, position] = 1.0


def sam2(
    in_channels: int,
    num_classes: int,
    *,
    size: str | Mapping[str, Any] = "tiny",
    image_px: int = 1024,
    prompts_per_class: int = 2,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    size : str or mapping
        ``tiny``, ``small``, ``base_plus`` or ``large``; or what differs from ``tiny``: ``width``, ``heads``,
        ``blocks``, ``global_blocks``, ``windows``, ``background``, ``decoder_width``, ``decoder_inner``.
    image_px : int
        Side of the square that images are resized to, a multiple of 32; SAM 2 was trained on 1024.
    prompts_per_class : int
    encoder_weights : str or Path, optional
        Local folder with weights of SAM 2 of this size in the form of transformers (``config.json`` and
        ``model.safetensors``), for encoder and decoder; None: random. Nothing is downloaded.
    channel_names : sequence of str
        Names of the channels, for the composite to start from.

    Raises
    ------
    ConfigError
        If transformers is not installed, the size is unknown, or the folder holds no such weights.
    """
    try:
        from transformers import Sam2Config, Sam2Model
    except ImportError as error:
        raise ConfigError(
            "Model sam2 needs transformers, which is not installed. "
            'Install it with: pip install "napari-glacier[sam2]".'
        ) from error
    if image_px < _GRID_PX or image_px % _GRID_PX:
        raise ConfigError(
            f"image_px is {image_px}; SAM 2 takes multiples of {_GRID_PX}. Use 1024 or 512, for instance."
        )
    if prompts_per_class < 1:
        raise ConfigError(f"prompts_per_class is {prompts_per_class}; sam2 needs at least one prompt for each class.")
    config = Sam2Config(**_config(_known_size(size), image_px))
    sam = Sam2Model(config) if encoder_weights is None else _pretrained(Sam2Model, config, Path(encoder_weights), size)
    return Sam2Segmenter(sam, channel_names or ("",) * in_channels, num_classes, image_px, prompts_per_class)


def _known_size(size: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(size, str):
        if size not in _SIZES:
            raise ConfigError(f"There is no SAM 2 of size {size!r}. Choose from: {', '.join(_SIZES)}.")
        return _SIZES[size]
    unknown = set(size) - set(_TINY)
    if unknown:
        raise ConfigError(
            f"A size of SAM 2 has no {', '.join(sorted(map(str, unknown)))}. Choose from: {', '.join(_TINY)}."
        )
    return {**_TINY, **size}


def _config(size: Mapping[str, Any], image_px: int) -> dict[str, Any]:
    """Arguments of Sam2Config."""
    widths = [size["width"] * 2**stage for stage in range(4)]
    heads = [size["heads"] * 2**stage for stage in range(4)]
    width = size["decoder_width"]
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": widths[0],
                "num_attention_heads": heads[0],
                "image_size": [image_px, image_px],
                "blocks_per_stage": list(size["blocks"]),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": heads,
                "global_attention_blocks": list(size["global_blocks"]),
                "window_size_per_stage": list(size["windows"]),
                "window_positional_embedding_background_size": [size["background"]] * 2,
            },
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[image_px // stride] * 2 for stride in (4, 8, 16)],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {"hidden_size": width, "image_size": image_px},
        "mask_decoder_config": {
            "hidden_size": width,
            "iou_head_hidden_dim": width,
            "mlp_dim": size["decoder_inner"],
        },
    }


def _pretrained(sam2_model: Any, config: Any, folder: Path, size: object) -> Any:
    mend = "Give a local folder with the config.json and model.safetensors of that size, or set model.arguments.size."
    if not (folder / "config.json").is_file():
        raise ConfigError(f"There are no SAM 2 weights in {folder}: it is no folder with a config.json. {mend}")
    try:
        sam, found = sam2_model.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(f"The weights in {folder} are not of SAM 2 of size {size} ({reason}). {mend}") from error
    wrong = [str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[kind]]
    if wrong:
        raise ConfigError(
            f"The weights in {folder} are not of SAM 2 of size {size} ({len(wrong)} tensors differ: "
            f"{', '.join(sorted(wrong)[:3])} …). {mend}"
        )
    return sam


def _single_mask(decoder: Any) -> Any:
    """Reduce SAM 2's mask decoder, in place, to what its first mask needs."""
    # While evaluating, it would exchange masks that it finds unstable for another: not what was trained.
    decoder.dynamic_multimask_via_stability = False
    decoder.num_mask_tokens = 1
    decoder.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps[:1]
    decoder.iou_prediction_head = nn.Identity()
    decoder.pred_obj_score_head = nn.Identity()
    return decoder
