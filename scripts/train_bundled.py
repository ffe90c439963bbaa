"""Train the bundled ensemble from its recipe: three seeds, stored in half precision with their weights.

    python scripts/train_bundled.py --data sample_data/region --out sample_data/ensemble

Takes about a quarter of an hour on two cores.
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
    options = parser.parse_args()

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


def _train(seed: int, data: Path, output: Path, overrides: list[str]) -> Path:
    settings = [f"data.train={data}", f"output={output}", f"seed={seed}", *overrides]
    command = [sys.executable, "-P", "-m", "training.run", "--config", "bundled", "--set", *settings]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Path(result.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
