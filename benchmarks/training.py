"""How fast the trainer is, as ratios of one run.

    python benchmarks/training.py [--quick] [--json FILE] [--data DATASET] [--encoder NAME]

`trainer_over_bare_step`
    Crops per second of the whole trainer (reading, sampling, augmentation, masked loss, metrics, events) over
    those of the bare step: forward, cross-entropy, backward and optimiser on random tensors with the same
    network, number format and memory settings.
`trainer_over_usual_loop`
    The same over a plain loop with the same network, written the usual way around segmentation-models-pytorch
    and albumentations: float32, a loader, the libraries' focal and Dice losses, AdamW.

Further rows take the usual step to the bare one setting by setting, to say where the factor comes from.

Every contestant is a process of its own that makes a few updates a turn; ratios are medians over the rounds. Before
its turn the trainer's loader may have two batches ready, a sixth of those it then uses.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The script's own folder is not searched, and must not be later on: this file is called as the package is.
sys.path.append(str(Path(__file__).parent))
import contest

sys.path.pop()

UPDATES_A_TURN = 12
_WARM_UP = 3
_MORE_THAN_ENOUGH = 1000
BATCH, CROP_PX, CHANNELS, CLASSES = 8, 256, 5, 4
# GPUs need larger batches to be busy.
GPU_BATCH, GPU_CROP_PX = 32, 512
# name -> (number format, channels-last, memory settings, fused optimiser, float32 for convolutions of single channels)
STEPS = {
    "float32, as usual": ("off", False, False, False, False),
    "+ channels-last": ("off", True, False, False, False),
    "+ bfloat16": ("auto", True, False, False, False),
    "+ fused AdamW": ("auto", True, False, True, False),
    "+ memory kept by the allocator": ("auto", True, True, True, False),
    "+ single channels in float32": ("auto", True, True, True, True),
}
BARE = "+ single channels in float32"
TRAINER, USUAL = "trainer", "usual loop"


def main() -> None:
    """Run all contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small network, few updates: tries the code, not the speed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--data", type=Path, help="training data of four classes; the bundled region by default")
    parser.add_argument("--encoder", metavar="NAME", help="of the network (resnet34)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--as", dest="contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant is not None:
        _compete(options)
        return
    names = [*STEPS, USUAL, TRAINER]
    command = [sys.executable, "-P", str(Path(__file__).resolve()), *(["--quick"] if options.quick else [])]
    command += ["--data", str(options.data)] if options.data is not None else []
    command += ["--encoder", options.encoder] if options.encoder is not None else []
    answers = contest.hold(command, names, 2 if options.quick else options.rounds)
    _report({name: [pace for (pace,) in turns] for name, turns in answers.items()}, options)


def _report(paces: dict[str, list[float]], options: argparse.Namespace) -> None:
    def ratio(a: str, b: str) -> float:
        return contest.ratio(paces[a], paces[b])

    print(f"{'':<34}{'crops/s':>9}{'over usual step':>17}")
    for name, values in paces.items():
        print(f"{name:<34}{statistics.median(values):>9.2f}{ratio(name, 'float32, as usual'):>17.2f}")
    figures: dict[str, Any] = {
        "trainer_over_bare_step": ratio(TRAINER, BARE),
        "trainer_over_usual_loop": ratio(TRAINER, USUAL),
        "crops_per_s": {name: statistics.median(values) for name, values in paces.items()},
    }
    share = _share_of_peak(paces, options)
    if share is not None:
        figures["share_of_peak"] = share
        print(f"share of the GPU's matrix peak     {share:.1%}")
    print(f"\ntrainer_over_bare_step   {figures['trainer_over_bare_step']:.3f}   (goal 0.95)")
    print(f"trainer_over_usual_loop  {figures['trainer_over_usual_loop']:.2f}    (goal 2.5)")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _share_of_peak(paces: dict[str, list[float]], options: argparse.Namespace) -> float | None:
    """Floating-point work of the trainer over what a large matrix product reaches on the same GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    from torch.utils.flop_counter import FlopCounterMode

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    peak = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    batch, crop_px = _size(options.quick)
    network = _network(options).cuda()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(batch, CHANNELS, crop_px, crop_px, device="cuda")).square().mean().backward()
    return statistics.median(paces[TRAINER]) / batch * counter.get_total_flops() / peak


def _compete(options: argparse.Namespace) -> None:
    """Be one contestant: warm up, then make a turn of updates for each line that comes in."""
    if options.contestant == TRAINER or (options.contestant in STEPS and STEPS[options.contestant][2]):
        # By its path, so that nothing of the package (and with it torch) is loaded before.
        from napari_glacier.nn.device import tune_allocator

        tune_allocator()
    if options.contestant == TRAINER:
        _be_trainer(options)
        return
    update = _usual_loop(options) if options.contestant == USUAL else _bare_step(options)
    batch, _ = _size(options.quick)

    def turn() -> float:
        started = time.perf_counter()
        for _ in range(_updates(options.quick)):
            update()
        _wait_for_device()
        return _updates(options.quick) * batch / (time.perf_counter() - started)

    for _ in range(_WARM_UP):
        update()
    _wait_for_device()
    contest.compete(lambda: [turn()])


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _updates(quick: bool) -> int:
    return 3 if quick else UPDATES_A_TURN


def _size(quick: bool) -> tuple[int, int]:
    """Batch and side of the crops."""
    import torch

    if quick:
        return 2, 64
    return (GPU_BATCH, GPU_CROP_PX) if torch.cuda.is_available() else (BATCH, CROP_PX)


def _encoder(options: argparse.Namespace) -> str:
    return options.encoder or ("resnet18" if options.quick else "resnet34")


def _network(options: argparse.Namespace) -> Any:
    from napari_glacier.nn.zoo import build_model

    return build_model("ba_unet", channels=CHANNELS, num_classes=CLASSES, encoder=_encoder(options))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _bare_step(options: argparse.Namespace) -> Callable[[], None]:
    import torch
    from torch.nn import functional

    from training.precision import Precision

    amp, channels_last, _, fused, exact = STEPS[options.contestant]
    device = torch.device(_device())
    precision = Precision(amp, device)  # type: ignore[arg-type]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = _network(options).to(device).to(memory_format=layout).train()
    if exact:
        precision.prepare(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused)
    batch, crop_px = _size(options.quick)
    image = torch.randn(batch, CHANNELS, crop_px, crop_px, device=device).contiguous(memory_format=layout)
    target = torch.randint(0, CLASSES, (batch, crop_px, crop_px), device=device)

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = network(image)
        precision.backward(functional.cross_entropy(logits.float(), target))
        precision.step(optimizer, network, 0.0)

    return update


def _usual_loop(options: argparse.Namespace) -> Callable[[], None]:
    """Dataset, loader and loop as the libraries' own examples have them."""
    import albumentations as A  # noqa: N812
    import numpy as np
    import segmentation_models_pytorch as smp
    import tifffile
    import torch

    batch, crop_px = _size(options.quick)
    transform = A.Compose(
        [
            A.PadIfNeeded(crop_px, crop_px),
            A.RandomCrop(crop_px, crop_px),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.RandomRotate90(p=0.5),
            A.Affine(scale=(0.8, 1.2), translate_percent=0.05, rotate=(-45, 45), p=0.3),
            A.RandomBrightnessContrast(p=0.2),
            A.GaussNoise(p=0.1),
            A.GaussianBlur(p=0.1),
        ]
    )
    tiles = [(list(t.bands.values()), t.mask_path) for t in _tiles(options.data) if t.mask_path is not None]
    codes = np.zeros(256, np.int64)
    codes[[85, 170, 255]] = [1, 2, 3]

    class Tiles(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, number: int) -> tuple[Any, Any]:
            bands, mask_path = tiles[number % len(tiles)]
            image = np.stack([tifffile.imread(band.path) for band in bands], -1).astype(np.float32)
            image = (image / max(float(image.max()), 1.0)).astype(np.float32)
            out = transform(image=image, mask=tifffile.imread(mask_path))
            return torch.from_numpy(out["image"].transpose(2, 0, 1).copy()), torch.from_numpy(codes[out["mask"]])

    loader = torch.utils.data.DataLoader(Tiles(), batch_size=batch, shuffle=True, num_workers=2, drop_last=True)
    device = torch.device(_device())
    network = smp.Unet(
        _encoder(options),
        encoder_weights=None,
        decoder_attention_type="scse",
        in_channels=CHANNELS,
        classes=CLASSES,
    ).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-4)
    focal, dice = smp.losses.FocalLoss("multiclass"), smp.losses.DiceLoss("multiclass")
    batches = iter(loader)

    def update() -> None:
        image, target = next(batches)
        image, target = image.to(device), target.to(device)
        optimizer.zero_grad()
        logits = network(image)
        loss = 0.6 * focal(logits, target) + 0.4 * dice(logits, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        loss.item()
        smp.metrics.get_stats(logits.argmax(1), target, mode="multiclass", num_classes=CLASSES)

    return update


def _be_trainer(options: argparse.Namespace) -> None:
    """Train for real, stopping at a gate after each turn's last update."""
    from contextlib import redirect_stdout

    from napari_glacier.core.config_files import load_config
    from napari_glacier.core.runfiles import RunFolder
    from training.distributed import join_team
    from training.start import prepare
    from training.trainer import Trainer

    batch, crop_px = _size(options.quick)
    num = _updates(options.quick)
    with tempfile.TemporaryDirectory() as scratch:
        config = load_config(
            "default",
            [
                f"data.train={_data(options.data)}",
                f"model.encoder={_encoder(options)}",
                f"train.batch_size={batch}",
                f"sampling.crop_px={crop_px}",
                f"sampling.crops_per_epoch={batch * _MORE_THAN_ENOUGH}",
                "train.epochs=1",
                f"output={scratch}",
            ],
        )
        out = sys.stdout
        made, started = -_WARM_UP, time.perf_counter()

        def gate() -> bool:
            """Asked after every update whether to stop: at the end of a turn, waits for the next one."""
            nonlocal made, started
            made += 1
            if made not in (0, num):
                return False
            _wait_for_device()
            pace = num * batch / (time.perf_counter() - started)
            print(f"@{pace if made else 'ready'}", file=out, flush=True)
            if not sys.stdin.readline():
                return True
            made, started = 0, time.perf_counter()
            return False

        start = prepare(config)
        with join_team("auto") as team, redirect_stdout(sys.stderr):
            Trainer(start, RunFolder.create(Path(scratch), "benchmark"), team, gate).fit()


def _data(given: Path | None) -> Path:
    if given is not None:
        return given.absolute()
    spec = importlib.util.find_spec("napari_glacier._sample")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "region" / "train"


def _tiles(given: Path | None) -> Any:
    from napari_glacier.core.data.dataset import open_dataset

    return open_dataset(_data(given)).tiles


if __name__ == "__main__":
    main()
