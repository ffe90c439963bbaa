"""How large networks are in training; written by scripts/network_sizes.py, which measures them.

`kept` and `kept_half` are the bytes that a step keeps for its backward pass, for each pixel of each crop: in float32,
and in bfloat16. `features` are those by which a pixel is described, where single pixels can be learnt.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class NetworkSize(NamedTuple):
    """Parameters, and bytes a pixel."""

    parameters: int
    kept: int
    kept_half: int
    features: int = 0


# By architecture and encoder; of those without one to choose the encoder is empty.
NETWORK_SIZES: Mapping[tuple[str, str], NetworkSize] = MappingProxyType(
    {
        ("advanced_unet", ""): NetworkSize(31039372, 6258, 3257),
        ("ba_unet", "resnet34"): NetworkSize(24556872, 1786, 917),
        ("ba_unet", "tu-mobilenetv3_small_050"): NetworkSize(358218, 805, 410),
        ("ba_unet", "tu-mobilenetv3_small_100"): NetworkSize(1478507, 1009, 512),
        ("deeplab_cbam", "resnet34"): NetworkSize(22484381, 1286, 667),
        ("deeplabv3", "resnet34"): NetworkSize(26014148, 1660, 854),
        ("deeplabv3_resnet50", ""): NetworkSize(39640772, 4117, 2082),
        ("deeplabv3plus", "resnet34"): NetworkSize(22444500, 1152, 600),
        ("fcn_resnet50", ""): NetworkSize(32954564, 3940, 1994),
        ("fpn", "resnet34"): NetworkSize(23162052, 922, 485),
        ("glavitu", ""): NetworkSize(10030154, 9438, 4852),
        ("hrnet_w48", "hrnet_w48"): NetworkSize(65848996, 4715, 2366),
        ("linknet", "resnet34"): NetworkSize(21778308, 1433, 740),
        ("manet", "resnet34"): NetworkSize(31790340, 1679, 864),
        ("monai_attentionunet", ""): NetworkSize(1988044, 1563, 789),
        ("monai_dynunet", ""): NetworkSize(17470928, 4057, 2039),
        ("monai_segresnet", ""): NetworkSize(1577012, 1548, 782),
        ("monai_unet", ""): NetworkSize(1627001, 627, 331),
        ("pan", "resnet34"): NetworkSize(21482955, 780, 416),
        ("plain_unet", ""): NetworkSize(31033092, 3308, 1782),
        ("pspnet", "resnet34"): NetworkSize(1521316, 654, 351),
        ("segformer", "resnet34"): NetworkSize(21883588, 1208, 628),
        ("segnet", ""): NetworkSize(29479748, 4984, 2622),
        ("surroundings", ""): NetworkSize(108684, 14028, 9318, 1740),
        ("unet", "efficientnet-b0"): NetworkSize(6252480, 2684, 1350),
        ("unet", "resnet34"): NetworkSize(24443076, 1502, 775),
        ("unet", "tu-tf_efficientnet_lite0"): NetworkSize(5199172, 2374, 1195),
        ("unetplusplus", "resnet34"): NetworkSize(26085316, 3374, 1711),
        ("upernet", "resnet34"): NetworkSize(29606724, 1521, 785),
    }
)
