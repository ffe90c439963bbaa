"""How fast scenes are mapped, as ratios of one run.

    python benchmarks/inference.py [--quick] [--json FILE] [--rounds N] [--large] [--model PATH]

`ours_over_bare`
    Pixels per second of the whole predictor (reading, views, blending, uncertainty, classes) over those of its own
    engine on ready tensors of the same windows and views.
`ours_over_monai_ttach`
    The same over MONAI's `sliding_window_inference` around a ttach wrapper, as their documentation writes them:
    float32, windows of 512 px, a quarter overlap, Gaussian blending, the eight views of the square.
`ours_over_plain_loop`
    Over a plain loop over tiles of 512 px with the same eight views.
`label_agreement`
    Share of pixels with the label of the float32 network in the same windows and views, for the bundled ensemble's
    first member on the bundled region: an untrained network would prove nothing.
`labels_changed_by_shift`, `labels_changed_by_window` (with `_fp32` likewise, computed in float32)
    Share of pixels, more than 200 px from the scene's border, whose label changes where the windows' grid is moved by
    96 px both ways, and where windows have 768 px: a synthetic scene of 2 048 x 2 048 px, no further views, the bundled
    ensemble or `--model`. Attention that pools over a window, as in the bundled networks, sees another window.
`scene_peak_rss_gb`, `scene_over_small` (with --large)
    Peak memory on a scene of 7 800 x 7 800 px of five bands on disk, and its pixels per second over those of
    1 024 x 1 024 px, with the bundled member and no further views.

All contestants map the same scene with the same weights: the U-Net that segmentation-models-pytorch makes of resnet34
with scSE attention, five bands, four classes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))
import contest

from napari_glacier.core.models.training_memory import peak_memory_gb

SIDE_PX, QUICK_SIDE_PX, THEIR_WINDOW_PX = 1536, 512, 512
SMALL_PX, GRID_PX, QUICK_GRID_PX = 1024, 2048, 1536
LARGE_PX, QUICK_LARGE_PX = 7800, 2600
BANDS = ("B2", "B3", "B4", "B6", "B10")
OURS, BARE, MONAI, PLAIN = "ours", "bare engine", "MONAI + ttach", "plain loop"


def main() -> None:
    """Run all contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small network and scene: tries the code, not the speed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true", help="also a whole Landsat scene")
    parser.add_argument("--engine", default="auto", help="engine of ours and of the bare one")
    parser.add_argument("--model", help="model whose maps are compared between grids; the bundled ensemble by default")
    parser.add_argument("--as", dest="contestant", help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant is not None:
        _compete(options)
        return
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--engine", options.engine]
    command += ["--quick"] if options.quick else []
    answers = contest.hold(command, [OURS, BARE, MONAI, PLAIN], 1 if options.quick else options.rounds)
    paces = {name: [pace for pace, _ in turns] for name, turns in answers.items()}
    print(f"{'':<16}{'Mpx/s':>9}{'peak GB':>9}")
    for name, turns in answers.items():
        print(f"{name:<16}{statistics.median(paces[name]):>9.3f}{turns[-1][1]:>9.2f}")
    figures: dict[str, Any] = {
        "ours_over_bare": contest.ratio(paces[OURS], paces[BARE]),
        "ours_over_monai_ttach": contest.ratio(paces[OURS], paces[MONAI]),
        "ours_over_plain_loop": contest.ratio(paces[OURS], paces[PLAIN]),
        "mpx_per_s": {name: statistics.median(values) for name, values in paces.items()},
        "peak_gb": {name: turns[-1][1] for name, turns in answers.items()},
        "label_agreement": float(_ask(command, "agreement")[0]),
    }
    for suffix, changes in zip(("", "_fp32"), _grid_of(command, options.model), strict=True):
        figures |= {f"labels_changed_by_{what}{suffix}": share for what, share in changes.items()}
    if options.large:
        figures |= _large_scene(command, options.quick)
    print()
    for name, goal in (
        ("ours_over_bare", "0.95"),
        ("ours_over_monai_ttach", "6"),
        ("ours_over_plain_loop", "6"),
        ("label_agreement", ""),
        ("labels_changed_by_shift", "below 0.0005"),
        ("labels_changed_by_window", "below 0.0005"),
        ("labels_changed_by_shift_fp32", "below 0.0005"),
        ("labels_changed_by_window_fp32", "below 0.0005"),
        ("scene_peak_rss_gb", "at most 2.5"),
        ("scene_over_small", "0.95"),
    ):
        if name in figures:
            print(f"{name:<30}{figures[name]:>9.4g}   {f'(goal {goal})' if goal else ''}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _ask(command: Sequence[str], name: str, *more: str) -> list[str]:
    """What a contestant answers that takes one turn alone."""
    result = subprocess.run([*command, "--as", name, *more], stdout=subprocess.PIPE, text=True, check=True)
    return result.stdout.rpartition("@")[2].split()


def _grid_of(command: Sequence[str], model: str | None) -> list[dict[str, float]]:
    """Shares of labels that change with the grid, in the usual precision and in float32."""
    shares = list(map(float, _ask(command, "grid", *(["--model", model] if model else []))))
    return [dict(zip(("shift", "window"), shares[k : k + 2], strict=True)) for k in (0, 2)]


def _large_scene(command: Sequence[str], quick: bool) -> dict[str, float]:
    """A scene on disk mapped by a process of its own, whose memory is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        pace, peak_gb = {}, 0.0
        for side in (SMALL_PX, QUICK_LARGE_PX if quick else LARGE_PX):
            _write_scene(Path(folder) / str(side), side)
            answer = _ask(command, "scene", "--scene", str(Path(folder) / str(side)))
            pace[side], peak_gb = float(answer[0]), float(answer[1])
            print(f"{side} px: {pace[side]:.3f} Mpx/s, peak {peak_gb:.2f} GB")
    small, large = pace.values()
    return {"scene_peak_rss_gb": peak_gb, "scene_over_small": large / small}


def _write_scene(folder: Path, side: int) -> None:
    """Bands of smooth noise as large uint16 TIFFs, made a strip at a time."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    folder.mkdir()
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint16", "crs": "EPSG:32643"}
    profile |= {"transform": rasterio.Affine(30, 0, 5e5, 0, -30, 4e6), "tiled": True, "compress": "deflate"}
    for number, _ in enumerate(BANDS, start=1):
        rng = np.random.default_rng(number)
        (folder / f"Band{number}").mkdir()
        with rasterio.open(folder / f"Band{number}" / "scene.tif", "w", **profile) as file:
            for row in range(0, side, 512):
                rows = min(512, side - row)
                coarse = rng.integers(5_000, 40_000, (-(-rows // 16), -(-side // 16)), dtype=np.uint16)
                strip = coarse.repeat(16, 0).repeat(16, 1)[:rows, :side]
                file.write(strip, 1, window=Window(0, row, side, rows))


def _compete(options: argparse.Namespace) -> None:
    """Be one contestant."""
    if options.contestant in {OURS, BARE, "scene"}:
        # By its path, so that nothing of torch is loaded before.
        from napari_glacier.nn.device import tune_allocator

        tune_allocator()
    if options.contestant == "agreement":
        print(f"@{_agreement(options.engine)}", flush=True)
        return
    if options.contestant == "grid":
        print("@" + " ".join(map(str, _grid_changes(options.quick, options.model))), flush=True)
        return
    if options.contestant == "scene":
        seconds, pixels = _map_folder(options.scene)
        print(f"@{pixels / 1e6 / seconds} {peak_memory_gb()}", flush=True)
        return
    make = {OURS: _ours, BARE: _bare, MONAI: _monai, PLAIN: _plain}[options.contestant]
    work = make(options)
    work()
    pixels = _side(options.quick) ** 2

    def turn() -> tuple[float, float]:
        started = time.perf_counter()
        work()
        return pixels / 1e6 / (time.perf_counter() - started), peak_memory_gb()

    contest.compete(turn)


def _side(quick: bool) -> int:
    return QUICK_SIDE_PX if quick else SIDE_PX


def _network(quick: bool) -> Any:
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(0)
    encoder = "tu-mobilenetv3_small_050" if quick else "resnet34"
    return smp.Unet(encoder, encoder_weights=None, in_channels=5, classes=4, decoder_attention_type="scse").eval()


def _member(network: Any) -> Any:
    from napari_glacier.core.channels import Normalisation
    from napari_glacier.core.classes import get_scheme
    from napari_glacier.nn.checkpoint import LoadedModel, ModelCard

    card = ModelCard("benchmark", "unet", {}, BANDS, Normalisation((0.0,) * 5, (1.0,) * 5), get_scheme("glacier4"))
    return LoadedModel(network, card)


class _Scene:
    """Normal noise of unit variance, which needs no normalisation."""

    name = "noise"

    def __init__(self, side: int) -> None:
        import numpy as np

        self.shape = (side, side)
        self.image_CHW = np.random.default_rng(0).standard_normal((5, side, side), dtype=np.float32)
        self.valid_HW = np.ones(self.shape, bool)

    def read(self, window: Any, bands: Sequence[str]) -> Any:
        return self.image_CHW[:, *window.slices].copy(), self.valid_HW[window.slices].copy()


def _predictor(member: Any, engine: str, **settings: Any) -> Any:
    from napari_glacier.nn.ensemble import Ensemble
    from napari_glacier.nn.predictor import Predictor

    return Predictor(Ensemble([member]), engine=engine, **settings)


def _finished(run: Any) -> Any:
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def _ours(options: argparse.Namespace) -> Callable[[], None]:
    scene = _Scene(_side(options.quick))
    predictor = _predictor(_member(_network(options.quick)), options.engine, tta=8)
    return lambda: _finished(predictor.run(scene))


def _bare(options: argparse.Namespace) -> Callable[[], None]:
    import torch

    from napari_glacier.core.tiling import OVERLAP_PX, WINDOW_PX, windows
    from napari_glacier.nn.device import inference_dtype, pick_device
    from napari_glacier.nn.engines import make_engine
    from napari_glacier.nn.memory import usual_batch

    side, device, views = _side(options.quick), pick_device(), 8
    window_px = min(WINDOW_PX, side)
    member, batch = _member(_network(options.quick)), usual_batch(device, window_px)
    engine, _ = make_engine(member, device, inference_dtype(device), window_px=window_px, kind=options.engine)
    plan = [window.clipped(side, side) for window in windows(side, side, window_px, min(OVERLAP_PX, side // 4))]
    ready = [torch.randn(min(batch, views), 5, window.height, window.width) for window in plan]

    def work() -> None:
        for images in ready:
            for _ in range(0, views, len(images)):
                engine.probabilities(images)

    return work


def _monai(options: argparse.Namespace) -> Callable[[], None]:
    import torch
    import ttach
    from monai.inferers import sliding_window_inference

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _network(options.quick).to(device)
    model = ttach.SegmentationTTAWrapper(network, ttach.aliases.d4_transform(), merge_mode="mean")
    image = torch.from_numpy(_Scene(_side(options.quick)).image_CHW)[None].to(device)

    def work() -> None:
        with torch.no_grad():
            logits = sliding_window_inference(
                image, (THEIR_WINDOW_PX, THEIR_WINDOW_PX), 4, model, overlap=0.25, mode="gaussian"
            )
            logits.softmax(1).argmax(1).cpu()

    return work


def _plain(options: argparse.Namespace) -> Callable[[], None]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _network(options.quick).to(device)
    image_CHW = torch.from_numpy(_Scene(_side(options.quick)).image_CHW)
    side = image_CHW.shape[-1]

    def work() -> None:
        with torch.no_grad():
            for row in range(0, side, THEIR_WINDOW_PX):
                for col in range(0, side, THEIR_WINDOW_PX):
                    tile = image_CHW[None, :, row : row + THEIR_WINDOW_PX, col : col + THEIR_WINDOW_PX].to(device)
                    total = torch.zeros(1, 4, *tile.shape[-2:], device=device)
                    for turns in range(4):
                        for flip in (False, True):
                            view = torch.rot90(tile.flip(-1) if flip else tile, turns, (-2, -1))
                            back = torch.rot90(network(view).softmax(1), -turns, (-2, -1))
                            total += back.flip(-1) if flip else back
                    total.argmax(1).cpu()

    return work


def _agreement(engine: str) -> float:
    """Share of the bundled region's valid pixels with the label of the float32 network."""
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.data.mosaic import plan_scenes
    from napari_glacier.nn.ensemble import Ensemble, bundled_folder, resolve_models

    member = resolve_models().members[0]
    (scene,) = plan_scenes(open_dataset(bundled_folder().parent / "region" / "val"))[:1]
    kinds = (_predictor(member, engine, tta=8), _predictor(member, "torch", tta=8, precision="fp32"))
    ours, exact = (_finished(predictor.run(scene)) for predictor in kinds)
    assert isinstance(kinds[0].ensemble, Ensemble)
    valid = exact.valid_HW
    return float((ours.index_HW == exact.index_HW)[valid].mean())


class _Cut:
    """A synthetic scene without its first rows and columns, which moves the windows' grid."""

    def __init__(self, image_CHW: Any, margin: int) -> None:
        self.name, self._image_CHW = "synthetic", image_CHW[:, margin:, margin:]
        self.shape = self._image_CHW.shape[1:]

    def read(self, window: Any, bands: Sequence[str]) -> Any:
        image_CHW = self._image_CHW[(slice(None), *window.slices)]
        return image_CHW, image_CHW.any(0)


def _grid_changes(quick: bool, model: str | None) -> list[float]:
    """Share of labels that change with the windows' grid and with their size, then the same in float32."""
    import numpy as np
    from napari_glacier._sample.generate import Layout, make_scene

    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.predictor import Predictor

    tiles, margin, edge = (QUICK_GRID_PX if quick else GRID_PX) // 512, 96, 200
    layout = Layout(512, tuple((row, col) for row in range(tiles) for col in range(tiles)), val=(), gone=())
    image_CHW = make_scene(11, layout).image_CHW.astype(np.float32)
    ensemble = resolve_models([model] if model else None)
    shares = []
    for precision in ("auto", "fp32"):

        def labels(cut: int, precision: str = precision, **window: int) -> Any:
            predictor = Predictor(ensemble, tta="off", precision=precision, **window)  # type: ignore[arg-type]
            return _finished(predictor.run(_Cut(image_CHW, cut))).index_HW

        usual_HW, inner = labels(0), (slice(edge, -edge), slice(edge, -edge))
        valid_HW = image_CHW.any(0)
        moved_HW = labels(margin) != usual_HW[margin:, margin:]
        shares.append(moved_HW[inner][valid_HW[margin:, margin:][inner]].mean())
        shares.append((labels(0, window_px=768) != usual_HW)[inner][valid_HW[inner]].mean())
    return [float(share) for share in shares]


def _map_folder(folder: Path) -> tuple[float, int]:
    """Map the scene of a folder as the terminal does; seconds and pixels."""
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.data.mosaic import plan_scenes
    from napari_glacier.nn.ensemble import resolve_models

    (scene,) = plan_scenes(open_dataset(folder))
    predictor = _predictor(resolve_models().members[0], "auto", tta="off")
    _finished(predictor.run(_Scene(SMALL_PX)))  # engines are made once, however large the scene
    with tempfile.TemporaryDirectory() as job:
        started = time.perf_counter()
        _finished(predictor.run(scene, Path(job) / "job"))
        return time.perf_counter() - started, scene.shape[0] * scene.shape[1]


if __name__ == "__main__":
    main()
