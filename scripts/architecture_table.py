"""Print the table of architectures in docs/training.md: python scripts/architecture_table.py"""

import importlib.util

from napari_glacier.core.bands import CANONICAL_BANDS


def main() -> None:
    """Build every architecture with its defaults for five bands and four classes, and count."""
    from napari_glacier.nn.zoo import build_model, model_names, optional_extra, takes_encoder

    print("| `model.name` | parameters, millions | encoder | needs |")
    print("|---|---|---|---|")
    for name in model_names():
        extra = optional_extra(name)
        if extra is not None and importlib.util.find_spec({"sam2": "transformers"}.get(extra, extra)) is None:
            continue
        model = build_model(name, channels=CANONICAL_BANDS, num_classes=4)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        digits = 1 if millions >= 1 else 2
        usual = "timm's hrnet_* only" if name == "hrnet_w48" else "any, resnet34 by default"
        encoder = usual if takes_encoder(name) else "its own"
        print(f"| `{name}` | {millions:.{digits}f} | {encoder} | {f'`[{extra}]`' if extra else ''} |")


if __name__ == "__main__":
    main()
