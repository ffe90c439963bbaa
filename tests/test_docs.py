"""The pages keep what they say: commands of the how-tos work, the reference is current, pictures are there."""

import importlib.util
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from pydantic import BaseModel

from napari_glacier.cli import main as glacier
from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HOW_TOS = sorted((DOCS / "howto").glob("*.md"))
# What makes a run small enough for a test; the command is otherwise the page's own.
SMALL_NETWORK = [
    "model.name=ba_unet",
    "model.encoder=tu-mobilenetv3_small_050",
    "model.encoder_weights=null",
    "model.arguments={decoder_channels: [16, 16, 16, 16, 16]}",
]
SMALL = [
    *("train.epochs=1", "train.batch_size=2", "train.accumulate=1", "optim.warmup_steps=1", "data.workers=0"),
    *("sampling.crop_px=64", "sampling.crops_per_epoch=2", "data.buffer_px=0", "device=cpu"),
]
SMALLER = {"5": "2", "folds=5": "folds=2"}
SMALL_TOO = {
    "predict": ["--engine", "torch", "--device", "cpu"],
    "compare": ["--device", "cpu", "--draws", "50"],
    "prepare hkh": ["--tile-px", "64", "--min-glacier-px", "20"],
    "prepare tiles": ["--tile-px", "64"],
}


def _script(name: str):
    specification = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_reference_of_the_configuration_is_what_the_models_say():
    script = _script("config_reference")
    assert script.PAGE.read_text(encoding="utf-8") == script.reference(), "run python scripts/config_reference.py"


def test_every_key_of_the_configuration_is_in_the_reference_and_explained():
    lines = (DOCS / "configuration.md").read_text(encoding="utf-8").splitlines()

    def check(model: type[BaseModel], section: str) -> None:
        at = lines.index(section)
        end = next((k for k in range(at + 1, len(lines)) if lines[k].startswith("## ")), len(lines))
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name} has no description"
            row = next(line for line in lines[at:end] if line.startswith(f"| `{name}` |"))
            choices = [field.annotation, *getattr(field.annotation, "__args__", ())]
            inner = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
            if inner:
                check(inner[0], f"## `{name}`")
            else:
                assert field.description.replace("|", "\\|") in row

    check(RunConfig, "## The whole run")


def test_every_link_and_picture_of_the_pages_leads_somewhere():
    # Without Sphinx: `make docs` also checks the headings that links name.
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE), f"{page} holds both sides of a merge"
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sphinx") is None or find_spec("furo") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    result = subprocess.run(build, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "Where your work is kept" in (tmp_path / "index.html").read_text(encoding="utf-8")


# -- the how-tos


def test_there_are_how_tos_with_commands():
    assert len(HOW_TOS) >= 6
    assert all(_commands(page) for page in HOW_TOS)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p.stem for p in HOW_TOS])
def test_the_commands_of_a_how_to_work(page, stage, tmp_path, capfd):
    stage(page)
    values: dict[str, str] = {}
    for command in _commands(DOCS / "howto" / f"{page}.md"):
        named = re.fullmatch(r"(\w+)=(.*)", command)
        text = named[2] if named else command
        for name, value in values.items():
            text = text.replace(f'"${name}"', shlex.quote(value)).replace(f"${name}", shlex.quote(value))
        inner = re.fullmatch(r"\$\((.*) \| tail -n 1\)", text)
        if named and not inner:
            values[named[1]] = text
            continue
        words = [SMALLER.get(word, word) for word in shlex.split(inner[1] if inner else text)]
        if "--devices" in words:
            # tests/training/test_distributed.py trains in two processes.
            words[words.index("--devices") + 1] = "cpu"
        code, printed = _carry_out(words, capfd)
        assert code == 0 or (words[1] == "doctor" and code == 1), (command, code, printed)
        if named:
            values[named[1]] = printed.strip().splitlines()[-1]
    if page == "competition":
        assert (tmp_path / "submission.csv").read_text().startswith("id,rle_mask\n")
        assert len(list((tmp_path / "entry_maps").glob("*.tif"))) == 4
    if page == "own_scene":
        assert (tmp_path / "report" / "report.html").is_file()


def _commands(page: Path) -> list[str]:
    """Lines of the shell blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _carry_out(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    from training.run import main as train

    capfd.readouterr()
    if words[0] == "napari-glacier":
        small = next((more for key, more in SMALL_TOO.items() if " ".join(words[1:3]).startswith(key)), [])
        code = glacier([*words[1:], *small])
    elif words[:3] == ["python", "-m", "training.run"]:
        resumed = "--resume" in words
        fresh = not any(word.startswith("model.init_from") for word in words) and "salt" not in words
        network = SMALL_NETWORK if "surroundings" not in words else ["sampling.pixels_per_crop=500", "train.pixels=250"]
        small = [] if resumed else [*SMALL, *(network if fresh else [])]
        code = train([*words[3:], *(["--set", *small] if small else [])])
    elif words[0] == "torchrun":
        # tests/training/test_distributed.py starts it; here: the configuration that it is given holds.
        at = words.index("training.run")
        settings = words[words.index("--set") + 1 :]
        assert load_config(words[words.index("--config", at) + 1], ["data.train=tiles", *settings]).output == Path(
            "runs"
        )
        code = 0
    else:
        code = subprocess.run([sys.executable, *words[1:]], check=False).returncode
    return code, capfd.readouterr().out


@pytest.fixture
def stage(tmp_path, make_dataset, make_landsat, monkeypatch):
    """Maker of what a page takes for granted: a scene with outlines, labelled tiles, raw data."""
    monkeypatch.chdir(tmp_path)
    return lambda page: _stage(page, tmp_path, make_dataset, make_landsat)


def _stage(page: str, folder: Path, make_dataset, make_landsat) -> None:
    if page == "own_scene":
        archive = make_landsat("LC08_L2SP_149035_20200731_20200908_02_T1", shape=(192, 192), tar=True)
        archive.rename(folder / archive.name)
        _write_outlines(folder / "outlines.gpkg", [(302_880, 4_197_120, 1_900)], ["ice"], "EPSG:32643")
        return
    make_dataset("tiles", grid=(2, 5) if page == "few_tiles" else (2, 2))
    if page == "few_tiles":
        make_dataset("more_tiles", grid=(1, 1))
    if page == "cluster":
        make_dataset("scenes", grid=(1, 2))
    if page == "hkh":
        _write_hkh(folder / "RAW")
    if page == "competition":
        _write_salt(folder / "salt")


def _write_outlines(path: Path, circles: list[tuple[float, float, float]], values: list[str], crs: str) -> None:
    polygons = [shapely.to_wkb(shapely.Point(x, y).buffer(radius)) for x, y, radius in circles]
    fields = [np.array(values, object)]
    pyogrio.raw.write(path, np.array(polygons, object), fields, ["Glaciers"], geometry_type="Polygon", crs=crs)


def _write_hkh(root: Path) -> None:
    (root / "HKH_images").mkdir(parents=True)
    (root / "HKH_labels").mkdir()
    rng = np.random.default_rng(0)
    circles, kinds = [], []
    for number in range(3):
        transform = rasterio.Affine(30, 0, 400_000 + 20_000 * number, 0, -30, 3_500_000)
        profile = {"driver": "GTiff", "height": 128, "width": 128, "count": 15, "dtype": "float32"}
        path = root / "HKH_images" / f"LE07_{number}.tif"
        with rasterio.open(path, "w", crs="EPSG:32644", transform=transform, **profile) as out:
            out.write(rng.uniform(1, 200, (15, 128, 128)).astype("f4"))
        for kind, col in (("Clean Ice", 40), ("Debris covered", 90)):
            circles.append((transform.c + 30 * col, transform.f - 30 * 64, 700))
            kinds.append(kind)
    _write_outlines(root / "HKH_labels" / "Glacier_2005.shp", circles, kinds, "EPSG:32644")
    rows = [f"LE07_{number}.tif,{region}" for number, region in enumerate(("Nepal", "Bhutan", "Nepal"))]
    (root / "metadata.csv").write_text("\n".join(["Image,Region", *rows]) + "\n")


def _write_salt(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / "train" / name).mkdir(parents=True)
    for number in range(6):
        pixels_HW = rng.integers(0, 255, (101, 101)).astype(np.uint8)
        mask_HW = np.zeros((101, 101), np.uint8)
        mask_HW[10 * number : 10 * number + 40] = 255
        Image.fromarray(pixels_HW).save(root / "train" / "images" / f"a{number}.png")
        Image.fromarray(mask_HW).save(root / "train" / "masks" / f"a{number}.png")
