"""A bundle maps like `napari-glacier predict`, with segmentation-models-pytorch, torch, numpy and tifffile alone."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
import torch
import yaml
from PIL import Image

from napari_glacier.cli import main
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.data.dataset import open_dataset
from napari_glacier.core.data.mosaic import Mosaic, plan_scenes
from napari_glacier.core.errors import ConfigError, DataError, SaveError
from napari_glacier.core.raster import read_info, read_part, read_raster, write_raster
from napari_glacier.nn import bundle, solution, stand_ins
from napari_glacier.nn.bundle import write_bundle
from napari_glacier.nn.bundle_code import code_modules, rewritten
from napari_glacier.nn.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from napari_glacier.nn.ensemble import Ensemble, bundled_folder, resolve_models
from napari_glacier.nn.outputs import write_predictions
from napari_glacier.nn.prediction import Prediction
from napari_glacier.nn.predictor import Predictor
from napari_glacier.nn.zoo import build_model

FP32 = ("--precision", "fp32", "--device", "cpu")
ALLOWED = ("torch", "segmentation-models-pytorch", "numpy", "tifffile")

# Takes away what the machine of a contest does not have, then does what Python does with a script.
RUNNER = '''
import json, runpy, sys

FORBIDDEN = set(json.loads(sys.argv[1]))

class Without:
    """A finder that does not find them; torch asks for many packages that need not be there."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in FORBIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

assert not FORBIDDEN & set(sys.modules), FORBIDDEN & set(sys.modules)
sys.meta_path[:] = map(Without, sys.meta_path)
try:
    import napari_glacier
except ModuleNotFoundError:
    pass
else:
    sys.exit("napari_glacier can be imported")
script, sys.argv = sys.argv[2], sys.argv[2:]
runpy.run_path(script, run_name="__main__")
'''


def _forbidden() -> list[str]:
    """Top-level modules of everything installed here that the allowed packages do not require."""
    allowed, due = set(), list(ALLOWED)
    while due:
        name = re.sub(r"[-_.]+", "-", due.pop()).lower()
        if name in allowed:
            continue
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        allowed.add(name)
        due += [re.match(r"[\w.-]+", text).group() for text in requirements if "extra ==" not in text]
    owners = metadata.packages_distributions()
    names = {
        module
        for module, distributions in owners.items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in distributions)
    }
    forbidden = names | {"napari_glacier", "training", "scipy", "cv2", "albumentations", "imagecodecs", "skimage"}
    return sorted(name for name in forbidden if name.isidentifier() and name not in sys.stdlib_module_names)


def run_alone(folder: Path, *arguments: object, elsewhere: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", RUNNER, json.dumps(_forbidden()), str(folder / "solution.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=elsewhere, env=environment
    )


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.relative_to(folder).as_posix(): tifffile.imread(path) for path in sorted(folder.rglob("*.tif"))}


def predict(model: object, root: Path, out: Path, tta: str = "6", precision: str = "fp32") -> None:
    """What `napari-glacier predict` does, with the networks computed by torch."""
    dataset = open_dataset(root)
    predictor = Predictor(resolve_models(model), tta=tta, device="cpu", precision=precision, engine="torch")
    for scene in plan_scenes(dataset):
        write_predictions(prediction_of(predictor, scene), scene, out)


def prediction_of(predictor: Predictor, scene: Mosaic) -> Prediction:
    run = predictor.run(scene)
    while True:
        try:
            next(run)
        except StopIteration as end:
            return end.value


def assert_same_masks(ours: Path, theirs: Path) -> None:
    ours_by_name, theirs_by_name = masks_in(ours), masks_in(theirs)
    assert list(ours_by_name) == list(theirs_by_name)
    assert ours_by_name
    for name, mask in ours_by_name.items():
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, theirs_by_name[name], err_msg=name)


@pytest.fixture
def in_place(tmp_path) -> Iterator[Path]:
    """Folder for a bundle; what its ``solution.py`` puts into this process is taken out again."""
    path_before = list(sys.path)
    yield tmp_path / "bundle"
    sys.path[:] = path_before
    for name in [name for name in sys.modules if name.partition(".")[0] in {bundle.PACKAGE, "solution"}]:
        del sys.modules[name]


@pytest.fixture
def three_kinds(tmp_path) -> Path:
    """An ensemble of three architectures with other channels, normalisations and weights, and with thresholds."""
    torch.set_num_threads(1)
    folder = tmp_path / "three"
    small = {"encoder": "tu-mobilenetv3_small_050"}
    kinds = {
        "unet": (("B2", "B3", "B4", "B6", "B10"), small | {"decoder_channels": [16, 16, 16, 16, 16]}, "zscore"),
        "deeplab_cbam": (("B3", "B6", "NDSI", "valid"), {"encoder": "resnet18", "decoder_channels": 16}, "percentile"),
        "glavitu": (("B4", "B6", "B10", "contrast", "energy"), {"width": 8, "depth": 1, "heads": 2}, "zscore"),
    }
    for k, (name, (channels, arguments, method)) in enumerate(kinds.items()):
        torch.manual_seed(k)
        model = build_model(name, channels=channels, num_classes=4, **arguments)
        scale = {"NDSI": (0.1, 0.2), "valid": (0.0, 1.0), "contrast": (20.0, 20.0), "energy": (0.1, 0.1)}
        pairs = [scale.get(channel, (20_000.0, 9_000.0)) for channel in channels]
        normalisation = Normalisation(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), method)
        card = ModelCard(name, name, arguments, channels, normalisation, get_scheme("glacier4"))
        save_checkpoint(folder / f"{name}.safetensors", model, card)
    members = [{"path": f"{name}.safetensors", "weight": 0.5 - 0.15 * k} for k, name in enumerate(kinds)]
    described = {"name": 'three "kinds"', "members": members, "thresholds": {"lake": 0.3, "debris": 0.26}}
    described["average"] = "logit"
    (folder / "ensemble.yaml").write_text(yaml.safe_dump(described))
    return folder


def test_the_bundled_ensemble_alone_maps_the_sample_region_like_predict(tmp_path, capsys) -> None:
    region = bundled_folder().parent / "region" / "val"
    assert main(["bundle", "--out", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert "float16, 3.1 + 3.1 + 3.1 MB" in said
    assert "100.0000% of labels" in said
    moved = tmp_path / "elsewhere" / "entry"
    shutil.copytree(tmp_path / "made", moved)
    shutil.rmtree(tmp_path / "made")
    done = run_alone(moved, "--data", region, "--masks", "nowhere", "--out", "masks", elsewhere=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 masks written" in done.stderr
    predict(None, region, tmp_path / "ours", precision="auto")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")
    # The command itself may compute on another engine, and bfloat16 changes a few labels in ten thousand.
    assert main(["predict", "--data", str(region), "--out", str(tmp_path / "command")]) == 0
    ours, theirs = (np.stack(list(masks_in(tmp_path / name).values())) for name in ("masks", "command"))
    assert (ours == theirs).mean() >= 0.999
    for path in (region / "B2").iterdir():
        with rasterio.open(path) as band, rasterio.open(tmp_path / "masks" / path.name) as mask:
            assert (mask.crs, mask.transform, mask.shape) == (band.crs, band.transform, band.shape)
            assert mask.colorinterp == (rasterio.enums.ColorInterp.gray,)
    assert {path.suffix for path in (tmp_path / "masks").iterdir()} == {".tif"}


def test_a_fresh_checkpoint_alone_maps_band_folders_in_windows(tmp_path, make_dataset, make_checkpoint) -> None:
    # Wider than the window, with a gap, in the contest's layout, without georeference: every tile by itself.
    root = make_dataset(grid=(1, 2), size_px=600, georeferenced=False, masks=False)
    report = write_bundle(resolve_models(make_checkpoint()), tmp_path / "made", data=root, tta=2, device="cpu")
    assert 0 <= report.agreement <= 1
    assert report.half is (report.agreement >= 0.999)
    options = ("--data", root, "--precision", "fp32", "--device", "cpu", "--out", tmp_path / "masks")
    done = run_alone(tmp_path / "made", *options, elsewhere=tmp_path)
    assert done.returncode == 0, done.stderr
    predict(tmp_path / "made" / "weights", root, tmp_path / "ours", tta="2")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")
    assert (masks_in(tmp_path / "masks")["B2_00_00.tif"][:10, :12] == 0).all()


def test_own_architectures_textures_and_thresholds_alone(tmp_path, make_dataset, three_kinds) -> None:
    root = make_dataset(splits=("train", "val"), grid=(1, 2))
    write_bundle(resolve_models(three_kinds), tmp_path / "made", data=root, max_mb=200, device="cpu")
    weights = sorted((tmp_path / "made" / "weights").glob("*.safetensors"))
    described = yaml.safe_load((tmp_path / "made" / "weights" / "ensemble.yaml").read_text())
    assert described["thresholds"] == {"lake": 0.3, "debris": 0.26}
    np.testing.assert_allclose([member["weight"] for member in described["members"]], np.array([0.5, 0.35, 0.2]) / 1.05)
    again = three_kinds / "again.yaml"
    members = [{"path": str(path), "weight": w} for path, w in zip(weights, (0.5, 0.35, 0.2), strict=True)]
    settings = {"thresholds": described["thresholds"], "average": "logit"}
    again.write_text(yaml.safe_dump({"members": members} | settings))
    options = ("--data", root, "--tta", "8", "--device", "cpu", "--precision", "fp32")
    done = run_alone(tmp_path / "made", *options, "--out", tmp_path / "masks", *FP32, elsewhere=tmp_path)
    assert done.returncode == 0, done.stderr
    predict(again, root, tmp_path / "ours", tta="8")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")
    assert len(np.unique(np.stack(list(masks_in(tmp_path / "masks").values())))) > 1


def test_damaged_tiles_are_said_and_left_out(tmp_path, make_dataset, make_checkpoint, in_place, capsys) -> None:
    root = make_dataset(grid=(2, 3))
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, tta="off", device="cpu")
    header, pixels, size = (root / "Band2" / f"B3_{name}.tif" for name in ("00_00", "00_01", "00_02"))
    header.write_bytes(b"no picture")
    data = bytearray(pixels.read_bytes())
    with tifffile.TiffFile(pixels) as tif:
        start, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data[start : start + count] = bytes(count)
    pixels.write_bytes(data)
    write_raster(size, np.ones((50, 64), np.uint16))
    # A mask with odd values matters to evaluations alone.
    tifffile.imwrite(root / "label" / "mask_01_00.tif", np.full((64, 64), 77, np.uint8))
    arguments = ["--data", str(root), "--out", str(tmp_path / "masks"), "--precision", "fp32", "--device", "cpu"]
    assert solution.main(in_place, arguments) == 1
    assert sorted(masks_in(tmp_path / "masks")) == ["B2_01_00.tif", "B2_01_01.tif", "B2_01_02.tif"]
    mapped = solution.map_folder(in_place, root, tmp_path / "masks", device="cpu", precision="fp32")
    assert list(mapped.skipped) == ["00_00", "00_02", "00_01"]
    assert "is not a TIFF image" in mapped.skipped["00_00"]
    assert "50 x 64" in mapped.skipped["00_02"]
    assert "damaged" in mapped.skipped["00_01"]
    # The same tiles without the damaged ones.
    for name in ("00_00", "00_01", "00_02"):
        for k, band in enumerate(CANONICAL_BANDS, start=1):
            (root / f"Band{k}" / f"{band}_{name}.tif").unlink()
        (root / "label" / f"mask_{name}.tif").unlink()
    shutil.rmtree(root / "label")
    predict(in_place / "weights", root, tmp_path / "ours", tta="off")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")


def test_a_damaged_tile_of_another_split_is_not_missed(tmp_path, make_dataset, make_checkpoint, in_place) -> None:
    root = make_dataset(splits=("train", "val"), grid=(1, 2))
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, tta="off", device="cpu")
    (root / "train" / "B4" / "B4_00_00.tif").write_bytes(b"")
    mapped = solution.map_folder(in_place, root / "val", tmp_path / "masks")
    assert not mapped.skipped
    assert len(mapped.written) == 2
    assert list(solution.map_folder(in_place, root, tmp_path / "masks").skipped) == ["00_00"]


def test_nothing_readable_or_nothing_there(tmp_path, make_dataset, make_checkpoint, in_place, caplog) -> None:
    caplog.set_level("INFO")
    root = make_dataset(grid=(1, 1))
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, device="cpu")
    (root / "Band1" / "B2_00_00.tif").write_bytes(b"")
    assert solution.main(in_place, ["--data", str(root), "--out", str(tmp_path / "masks")]) == 1
    assert "0 of 1 masks written" in caplog.text
    assert solution.main(in_place, ["--data", str(tmp_path / "gone"), "--out", str(tmp_path / "masks")]) == 2
    assert "does not exist" in caplog.text
    assert solution.main(tmp_path, ["--data", str(root), "--out", str(tmp_path / "masks")]) == 2
    assert "Keep solution.py in the folder it came in" in caplog.text


def test_labels_are_never_written_over(make_dataset, make_checkpoint, in_place) -> None:
    root = make_dataset(grid=(1, 1))
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, device="cpu")
    for folder in ("label", "Band1"):
        with pytest.raises(SaveError, match="Choose another folder"):
            solution.map_folder(in_place, root, root / folder)


def test_the_contest_calls_the_function(tmp_path, make_dataset, make_checkpoint, in_place, monkeypatch) -> None:
    root = make_dataset(grid=(1, 2))
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, tta="off", device="cpu")
    monkeypatch.syspath_prepend(in_place)
    from solution import maskgeration  # type: ignore[import-not-found]

    bands = {f"Band{k}": str(root / f"Band{k}") for k in range(1, 6)}
    by_dict, by_path = maskgeration(bands, str(tmp_path / "a")), maskgeration(str(root), tmp_path / "b")
    assert [Path(path).name for path in by_dict] == ["B2_00_00.tif", "B2_00_01.tif"]
    assert len(by_path) == 2
    assert_same_masks(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="do not lie in one folder"):
        maskgeration({"Band1": root / "Band1", "Band2": tmp_path / "other" / "Band2"}, tmp_path / "c")


def test_a_dataset_of_other_codes_keeps_them(tmp_path, make_dataset, make_checkpoint, in_place) -> None:
    root = make_dataset(grid=(1, 2), scheme="glacier4-index")
    write_bundle(resolve_models(make_checkpoint()), in_place, data=root, tta="off", device="cpu")
    solution.map_folder(in_place, root, tmp_path / "masks", device="cpu", precision="fp32")
    predict(in_place / "weights", root, tmp_path / "ours", tta="off")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")
    assert max(mask.max() for mask in masks_in(tmp_path / "masks").values()) <= 3


def test_a_folder_of_other_things_is_left_alone(tmp_path, make_dataset, make_checkpoint) -> None:
    ensemble, root = resolve_models(make_checkpoint()), make_dataset(grid=(1, 1))
    out = tmp_path / "thesis"
    out.mkdir()
    write_bundle(ensemble, out, data=root, device="cpu")  # an empty folder will do
    (out / "notes.txt").write_text("mine")
    stale = out / "weights" / "member_01.safetensors"
    write_bundle(Ensemble(ensemble.members * 2), out, data=root, device="cpu")
    assert stale.exists()
    write_bundle(ensemble, out, data=root, device="cpu")
    assert not stale.exists(), "what the earlier bundle wrote is gone"
    assert (out / "notes.txt").read_text() == "mine"
    (out / "bundle.yaml").write_text("files: [notes.txt, ../other]\n")
    before = sorted(path for path in out.rglob("*"))
    for taken in (out, tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(SaveError, match=r"is no bundle; nothing in it was changed.*\(--out\)"):
            write_bundle(ensemble, taken, data=root, device="cpu")
    assert sorted(path for path in out.rglob("*")) == before
    (out / "bundle.yaml").write_text("made_by: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        write_bundle(ensemble, out, data=root, device="cpu")


def test_a_description_names_nothing_outside_its_folder(tmp_path, make_dataset, make_checkpoint) -> None:
    root, other = make_dataset(grid=(1, 1)), tmp_path / "other.txt"
    other.write_text("mine")
    out = tmp_path / "made"
    out.mkdir()
    described = {"made_by": "napari-glacier 0", "files": ["../other.txt", str(other)]}
    (out / "bundle.yaml").write_text(yaml.safe_dump(described))
    write_bundle(resolve_models(make_checkpoint()), out, data=root, device="cpu")
    assert other.read_text() == "mine"


def test_the_size_limit_names_sizes_and_the_mend(tmp_path, make_dataset, make_checkpoint, capsys, monkeypatch) -> None:
    root, path, out = make_dataset(grid=(1, 1)), make_checkpoint(), tmp_path / "made"
    arguments = ["bundle", "--model", str(path), "--out", str(out), "--data", str(root), "--device", "cpu"]
    assert main([*arguments, "--max_mb", "0.5"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"too large: tiny \d\.\d MB \(\d\.\d in float16\), and 0\.\d MB of code; at most 0\.5 MB", said)
    assert "--max-mb" in said
    assert not out.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left behind"
    assert main([*arguments, "--max_mb", "-1"]) == 2
    ensemble = resolve_models([path, path])
    monkeypatch.setattr(bundle, "MEMBER_MB", 0.1)
    with pytest.raises(ConfigError, match=r"at most 300 MB, and 0\.1 MB a member, are allowed"):
        write_bundle(ensemble, out, data=root, device="cpu")


def test_float16_only_where_labels_stay(tmp_path, make_dataset, make_checkpoint, monkeypatch) -> None:
    ensemble, root = resolve_models(make_checkpoint()), make_dataset(grid=(1, 1))
    (weights,) = ensemble.members
    for least, half in ((0.0, True), (1.1, False)):
        monkeypatch.setattr(bundle, "LEAST_AGREEMENT", least)
        report = write_bundle(ensemble, tmp_path / "made", data=root, device="cpu")
        assert report.half is half
        assert "1 tiles of" in report.measured_on
        stored = load_checkpoint(tmp_path / "made" / "weights" / "member_00.safetensors").model.state_dict()
        same = all(torch.equal(value, stored[key]) for key, value in weights.model.state_dict().items())
        assert same is not half
        (size,) = report.member_mb
        assert report.total_mb > size
        assert f"{'float16' if half else 'float32'}, {size:.1f} MB" in "\n".join(report.lines())
    with pytest.raises(ConfigError, match=r"Only \d+\.\d+% of labels stay the same in float16"):
        write_bundle(ensemble, tmp_path / "made", data=root, device="cpu", max_mb=report.total_mb - 0.1)


def test_the_agreement_is_that_of_two_predictions(tmp_path, make_dataset, make_checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(bundle, "LEAST_AGREEMENT", 0.0)
    root, path = make_dataset(), make_checkpoint()
    report = write_bundle(resolve_models(path), tmp_path / "made", data=root, device="cpu")
    half = load_checkpoint(tmp_path / "made" / "weights" / "member_00.safetensors")
    full = load_checkpoint(path)
    image = np.zeros((5, 128, 128), np.float32)
    for k in range(4):
        row, col = divmod(k, 2)
        where = np.s_[row * 64 : row * 64 + 64, col * 64 : col * 64 + 64]
        for b, band in enumerate(CANONICAL_BANDS):
            image[b][where] = read_raster(root / f"Band{b + 1}" / f"{band}_{row:02d}_{col:02d}.tif")[0]
    valid = (image != 0).any(0)
    inputs = torch.from_numpy(full.card.normalisation.apply(image, valid))[None]
    with torch.no_grad():
        labels = [member.model(inputs)[0].argmax(0).numpy() for member in (full, half)]
    assert report.agreement == pytest.approx((labels[0] == labels[1])[valid].mean(), abs=2e-4)


def test_without_tiles_to_measure_weights_stay_whole_unless_too_large(tmp_path, make_member, make_card) -> None:
    torch.set_num_threads(1)
    arguments = {"base": 4}
    model = build_model("plain_unet", channels=("grey",), num_classes=2, **arguments)
    card = make_card(("grey",), "salt2", architecture="plain_unet", arguments=arguments, name="salt")
    save_checkpoint(tmp_path / "salt.safetensors", model, card)
    ensemble = resolve_models(tmp_path / "salt.safetensors")
    report = write_bundle(ensemble, tmp_path / "made", device="cpu")
    assert (report.half, report.agreement) == (False, None)
    assert "the sample region has no grey; give tiles with --data" in "\n".join(report.lines())
    tight = report.total_mb - 0.2 * report.member_mb[0]
    assert write_bundle(ensemble, tmp_path / "made", device="cpu", max_mb=tight).half
    pictures = tmp_path / "data" / "images"
    pictures.mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 256, (101, 101)).astype("u1")
    Image.fromarray(grey).save(pictures / "a1.png")
    done = run_alone(
        tmp_path / "made", "--data", tmp_path / "data", "--out", tmp_path / "masks", *FP32, elsewhere=tmp_path
    )
    assert done.returncode == 0, done.stderr
    predict(tmp_path / "made" / "weights", tmp_path / "data", tmp_path / "ours")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")


def test_what_cannot_be_bundled_is_refused(tmp_path, make_member, make_dataset, make_checkpoint, capsys) -> None:
    out = tmp_path / "made"
    monai = make_member(architecture="monai_unet", name="m")
    with pytest.raises(ConfigError, match="m is a monai_unet, which needs the libraries of the extra 'monai'"):
        write_bundle(Ensemble([monai]), out)
    with pytest.raises(ConfigError, match="Use off, 2, 6 or 8"):
        write_bundle(resolve_models(make_checkpoint()), out, tta=5)
    assert main(["bundle", "--model", str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "There is no model" in capsys.readouterr().err
    with pytest.raises(DataError, match="does not exist"):
        write_bundle(resolve_models(make_checkpoint()), out, data=tmp_path / "gone")
    assert not out.exists()


def test_the_code_that_travels_is_rewritten_and_small() -> None:
    modules = code_modules()
    assert {"napari_glacier", "napari_glacier.nn", "napari_glacier.nn.zoo.glavitu"} <= set(modules)
    assert not [name for name in modules if re.search(r"\.(cli|views|controllers|bundle|demo)\b", name)]
    assert sum(path.stat().st_size for path in modules.values()) < 1e6
    # A library that is imported when a module is, and that is not here, needs a stand-in or a place in a function.
    usual = {"torch", "torchvision", "segmentation_models_pytorch", "timm", "safetensors", "numpy", "tifffile", "yaml"}
    for path in modules.values():
        for node in ast.parse(rewritten(path.read_text(encoding="utf-8"))).body:
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {*usual, bundle.PACKAGE, *sys.stdlib_module_names}, path
    text = "import cv2\n    from scipy import ndimage\nfrom napari_glacier.core import x\nKEY = 'napari_glacier'\n"
    text += "from scipy.ndimage import gaussian_filter\n"
    assert rewritten(text) == (
        "from glacier_bundle.nn import stand_ins as cv2\n    from glacier_bundle.nn import stand_ins as ndimage\n"
        "from glacier_bundle.core import x\nKEY = 'napari_glacier'\n"
        "from glacier_bundle.nn.stand_ins import gaussian_filter\n"
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_box_sums_are_those_of_opencv(dtype) -> None:
    import cv2

    rng = np.random.default_rng(0)
    values = rng.integers(0, 3 if dtype == np.uint8 else 200_000, (23, 31)).astype(dtype)
    options = {"anchor": (0, 0), "normalize": False, "borderType": cv2.BORDER_CONSTANT}
    for size in ((7, 6), (1, 1), (3, 7)):
        np.testing.assert_array_equal(
            stand_ins.boxFilter(values, -1, size, **options), cv2.boxFilter(values, -1, size, **options)
        )


def test_what_is_not_stood_in_for_says_so_when_it_is_called() -> None:
    with pytest.raises(ConfigError, match="erode needs a library that a bundle has not"):
        stand_ins.erode(np.zeros((3, 3)))


def test_lzw_is_that_of_imagecodecs() -> None:
    rng = np.random.default_rng(0)
    cases = [b"", b"a", bytes(5000), rng.integers(0, 256, 70_000).astype("u1").tobytes()]
    cases += [rng.integers(0, 4, 200_000).astype("u2").tobytes(), np.arange(9000, dtype="<f8").tobytes()]
    for data in cases:
        assert stand_ins.lzw_decode(imagecodecs.lzw_encode(data)) == data
    with pytest.raises(ValueError, match="damaged"):
        stand_ins.lzw_decode(bytes([0x80, 0x7F, 0xFF, 0xFF, 0xFF]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [1, 3])
def test_the_float_predictor_is_that_of_imagecodecs(dtype, samples) -> None:
    values = np.random.default_rng(0).normal(size=(1, 7, 11, samples)).astype(dtype)
    encoded = imagecodecs.floatpred_encode(values, axis=-2)
    np.testing.assert_array_equal(stand_ins.floatpred_decode(np.asarray(encoded), axis=-2), values)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "I;16"])
def test_pictures_are_those_of_imagecodecs(tmp_path, mode) -> None:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (9, 12)).astype(np.uint16))
    else:
        picture = Image.fromarray(rng.integers(0, 256, (9, 12, 4)).astype("u1"), "RGBA")
        picture = picture.convert("RGB").convert("P") if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    ours, theirs = stand_ins.png_decode(data), imagecodecs.png_decode(data)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def test_compressed_tiles_alone(tmp_path, make_dataset, make_checkpoint) -> None:
    """LZW and the float predictor, which tifffile reads through imagecodecs alone."""
    root = make_dataset(grid=(1, 2), masks=False)
    for path in (root / "Band1").iterdir():
        write_raster(path, read_raster(path)[0].astype(np.float32), read_info(path).georef, nodata=0)
    for path in (root / "Band2").iterdir():
        with rasterio.open(path) as source:
            profile, pixels = source.profile | {"compress": "lzw", "predictor": 2}, source.read()
        with rasterio.open(path, "w", **profile) as target:
            target.write(pixels)
    write_bundle(resolve_models(make_checkpoint()), tmp_path / "made", data=root, device="cpu")
    done = run_alone(tmp_path / "made", "--data", root, "--out", tmp_path / "masks", *FP32, elsewhere=tmp_path)
    assert done.returncode == 0, done.stderr
    predict(tmp_path / "made" / "weights", root, tmp_path / "ours")
    assert_same_masks(tmp_path / "masks", tmp_path / "ours")


def test_rows_of_large_tiles_are_cut_from_whole_ones(make_dataset) -> None:
    path = next((make_dataset(grid=(1, 1)) / "Band1").iterdir())
    np.testing.assert_array_equal(solution._part_of_whole(path, (7, 30), (2, 11)), read_part(path, (7, 30), (2, 11)))
