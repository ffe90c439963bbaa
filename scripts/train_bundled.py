"""Train the bundled ensemble from its recipe: three seeds, stored in half precision with their weights.

    python scripts/train_bundled.py --data sample_data/region --out sample_data/ensemble

Takes about a quarter of an hour on two cores. With ``--cards`` nothing is trained: the members that are there get the
fingerprints of the tiles that they were trained on, where the region's statistics are those of their cards.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

MEMBERS = 3


def main() -> None:
    """Train each member with `training.run`, then write the checkpoints and the ensemble file."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=root / "sample_data" / "region")
    parser.add_argument("--out", type=Path, default=root / "sample_data" / "ensemble")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    parser.add_argument("--cards", action="store_true", help="only write which tiles the members have learnt from")
    options = parser.parse_args()
    if options.cards:
        for seed in range(MEMBERS):
            _write_seen_tiles(options.out / f"member_{seed}.safetensors", options.data)
        return

    from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(MEMBERS):
            run = _train(seed, options.data, Path(folder), options.set)
            loaded = load_checkpoint(run / "best.safetensors")
            path = options.out / f"member_{seed}.safetensors"
            card = replace(loaded.card, name=f"bundled member {seed}")
            save_checkpoint(path, loaded.model, card, half=True)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {dict(loaded.card.metrics)}")
    members = [{"path": f"member_{seed}.safetensors", "weight": 1.0} for seed in range(MEMBERS)]
    text = "# Three seeds of the recipe `bundled`, trained on the SYNTHETIC sample region alone.\n"
    (options.out / "ensemble.yaml").write_text(
        text + yaml.safe_dump({"name": "bundled (synthetic)", "members": members}, sort_keys=False), encoding="utf-8"
    )


def _write_seen_tiles(path: Path, data: Path) -> None:
    """Name the training tiles in a member's card by their fingerprints, as a run does; weights stay as they are."""
    import torch

    from napari_glacier.core.config_files import load_config
    from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
    from training.data import scan
    from training.source import open_training_data

    loaded = load_checkpoint(path)
    found = open_training_data(load_config("bundled", [f"data.train={data}"]))
    read = scan(found.train, found.scheme)
    if read.normalisation != loaded.card.normalisation:
        sys.exit(f"{data} is not what {path.name} was trained on: its bands have other means. Train it again.")
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    save_checkpoint(path, loaded.model, replace(loaded.card, seen_tiles=tuple(sorted(read.seen_tiles))), half=True)
    after = load_checkpoint(path).model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    print(f"{path}: {len(read.seen_tiles)} tiles, {path.stat().st_size / 1e6:.1f} MB")


def _train(seed: int, data: Path, output: Path, overrides: list[str]) -> Path:
    settings = [f"data.train={data}", f"output={output}", f"seed={seed}", *overrides]
    command = [sys.executable, "-P", "-m", "training.run", "--config", "bundled", "--set", *settings]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(result.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
