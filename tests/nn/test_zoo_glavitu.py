"""The parts of GlaViTU against their formulas; the whole network is among test_zoo_handwritten's."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.glavitu import (
    GatedFusion,
    TransformerBlock,
    TransformerBranch,
    glavitu,
    modalities_of,
    positions_for,
)


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (CANONICAL_BANDS, [[0, 1, 2, 3], [4]]),
        (("B2", "B10", "elevation", "valid", "B3", "slope"), [[0, 3, 4], [1], [2, 5]]),
        (("",) * 3, [[0, 1, 2]]),
        (("B10",), [[0]]),
    ],
)
def test_modalities_by_channel_name(names: tuple[str, ...], groups: list[list[int]]) -> None:
    assert modalities_of(names) == groups


def test_gated_fusion_formula() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion([[0, 2], [1]], width=4, dropout=0.5).eval()
    x = torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        maps = [fusion.branches[0](x[:, [0, 2]]), fusion.branches[1](x[:, [1]])]
        expected = torch.empty_like(maps[0])
        for n in range(2):
            for row in range(5):
                for column in range(6):
                    pixels = [feature[n, :, row, column] for feature in maps]
                    scores = [
                        float(pixel @ gate.weight[0, :, 0, 0] + gate.bias)
                        for pixel, gate in zip(pixels, fusion.gates, strict=True)
                    ]
                    first = 1 / (1 + torch.exp(torch.tensor(scores[1] - scores[0])))
                    expected[n, :, row, column] = first * pixels[0] + (1 - first) * pixels[1]
        torch.testing.assert_close(fusion(x), expected)


def test_one_modality_has_no_gate() -> None:
    fusion = GatedFusion([[0, 1]], width=4, dropout=0.0).eval()
    x = torch.randn(1, 2, 5, 6)
    assert len(fusion.gates) == 0
    assert torch.equal(fusion(x), fusion.branches[0](x))


def test_fusion_drops_whole_channels_only_while_training() -> None:
    fusion = GatedFusion([[0]], width=64, dropout=0.5)
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        dropped = (fusion.train()(x) == 0).all(dim=(2, 3))
        assert 10 < dropped.sum() < 54
        assert not (fusion.eval()(x) == 0).all(dim=(2, 3)).any()


def test_transformer_block_equals_the_library() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(16, heads=4).eval()
    oracle = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = {
        "norm_attention": "norm1",
        "qkv": "self_attn.in_proj_",
        "project": "self_attn.out_proj",
        "norm_mlp": "norm2",
        "mlp.0": "linear1",
        "mlp.2": "linear2",
    }
    state = {}
    for key, value in block.state_dict().items():
        module, _, kind = key.rpartition(".")
        target = pairs[module]
        state[target + kind if target.endswith("_") else f"{target}.{kind}"] = value + 0.1 * torch.randn_like(value)
    oracle.load_state_dict(state)
    block.load_state_dict(dict(zip(block.state_dict(), state.values(), strict=True)))
    tokens = torch.randn(2, 7, 16)
    torch.testing.assert_close(block(tokens), oracle.train()(tokens))  # in eval mode the oracle takes a fused path


def test_positions_are_interpolated_to_other_sizes() -> None:
    positions = TransformerBranch(8, depth=1, heads=2).positions
    assert positions.shape == (1, 8, 32, 32)  # 512 pixels in patches of 16
    assert positions_for(positions, (32, 32)) is positions
    expected = functional.interpolate(positions, size=(3, 4), mode="bicubic", align_corners=False)
    assert torch.equal(positions_for(positions, (3, 4)), expected)


def test_transformer_knows_places_and_sees_everything() -> None:
    torch.manual_seed(0)
    branch = TransformerBranch(8, depth=1, heads=2).eval()
    with torch.no_grad():
        nn.init.normal_(branch.positions)
        uniform = branch(torch.ones(1, 8, 64, 64))
        assert uniform.shape == (1, 8, 32, 32)
        assert not torch.allclose(uniform[..., 8, 8], uniform[..., 24, 24], atol=1e-4)
        for block in branch.blocks:  # initial attention weights are too small to see
            nn.init.normal_(block.qkv.weight)
            nn.init.normal_(block.project.weight)
        image = torch.randn(1, 8, 128, 128)
        touched = image.clone()
        touched[..., :16, :16] += 1
        difference = (branch(touched) - branch(image)).abs().amax(1)[0]
        assert difference[-4:, -4:].min() > 1e-6  # far beyond the reach of the decoder's four convolutions


def test_join_equals_a_convolution_of_both_maps() -> None:
    model = glavitu(5, 3, width=8, depth=1, channel_names=CANONICAL_BANDS).eval()
    fused, wide = torch.randn(1, 8, 32, 32), torch.randn(1, 8, 16, 16)
    both = torch.cat([fused, functional.interpolate(wide, scale_factor=2, mode="bilinear")], 1)
    weight = torch.cat([model.join_fused.weight, model.join_transformer.weight], 1)
    torch.testing.assert_close(model.join(fused, wide), model.join_norm(functional.conv2d(both, weight)))


def test_width_must_divide_among_the_heads() -> None:
    with pytest.raises(ConfigError, match="width of 10 does not divide among 4 heads"):
        glavitu(5, 2, width=10)
