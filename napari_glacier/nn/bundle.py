"""A folder that maps tiles on machines without napari-glacier: ``solution.py``, weights, and the code it needs.

    DIR/solution.py       ``maskgeration(imagepath, out_dir)`` and a command line
    DIR/bundle.yaml       the views, what is stored how, and every file of the bundle
    DIR/weights/          a checkpoint a member, and the ensemble file that names them
    DIR/glacier_bundle/   a copy of the part of this package that maps
    DIR/README.md         how to use it, and the licence

How the networks travel: as source, with the code that reads tiles, cuts windows and blends them. So a bundle's masks
are those of ``napari-glacier predict``, and there is no second writing of any of it. The other ways were tried
(torch 2.15; ba_unet, deeplab_cbam, glavitu): `torch.jit.trace` bakes the padding of one size in, and gives other
sizes wrong logits without a word; `torch.export` takes the one size and batch it was made with, and refuses a free
size, whose padding branches on it. A fixed window would change the map, too: padded to it, a small tile is seen by
global pooling and by learned positions as something else. Source also runs on whichever torch 2 is there.

Weights stay safetensors: nothing in them can run code, and segmentation-models-pytorch and timm both require the
library. So they do Pillow, and timm PyYAML; what else the copied code imports is stood in for by `stand_ins`.
"""

import copy
import math
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from napari_glacier import __version__
from napari_glacier.core.channels import required_bands
from napari_glacier.core.data.dataset import Dataset, open_dataset
from napari_glacier.core.data.mosaic import plan_scenes
from napari_glacier.core.errors import CheckpointError, ConfigError, SaveError
from napari_glacier.nn.augment_tta import TtaMode, views
from napari_glacier.nn.bundle_code import PACKAGE, write_code
from napari_glacier.nn.checkpoint import load_checkpoint, save_checkpoint
from napari_glacier.nn.ensemble import Ensemble, bundled_folder
from napari_glacier.nn.predictor import Predictor
from napari_glacier.nn.solution import DESCRIPTION, ENSEMBLE, described_bundle
from napari_glacier.nn.zoo import optional_extra

MEMBER_MB, ENSEMBLE_MB = 200.0, 300.0
LEAST_AGREEMENT = 0.999
_NUM_TILES = 8  # on which the agreement is measured

_SOLUTION = '''"""Class masks of five-band Landsat tiles, by {name}.

    python solution.py --data DIR --out DIR

Needs Python 3.11 with torch, segmentation-models-pytorch, numpy and tifffile, and the folder that it came in.
"""

import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("solution.py needs Python 3.11 or newer.")

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from glacier_bundle.nn import solution  # noqa: E402


def maskgeration(imagepath, out_dir):
    """Write the class mask of every tile in `imagepath` to `out_dir`, under the name of its first band.

    `imagepath` is a folder with Band1 to Band5 (or B2, B3, B4, B6, B10), or a dict of band to its folder.
    Returns the paths written.
    """
    return [str(path) for path in solution.map_folder(HERE, imagepath, out_dir).written]


if __name__ == "__main__":
    sys.exit(solution.main(HERE))
'''

_README = """# {name}

Writes the class mask of every tile of a folder. Made by napari-glacier {version}.

    python solution.py --data DIR --out DIR [--tta off|2|6|8] [--device auto|cpu|cuda|cuda:N] [--precision auto|fp32]

`DIR` holds a folder of TIFFs for each band (Band1 to Band5, or B2, B3, B4, B6, B10). Masks take the names of the first
band's files and hold the codes {codes}.
Pixels where all bands are 0 are background. In Python: `from solution import maskgeration; maskgeration(DIR, OUT)`.

Needs Python 3.11 or newer with torch 2.6, segmentation-models-pytorch 0.5, numpy 2 and tifffile 2025 or newer; no
network, no other package. Exit code 0: every tile has its mask; 1: tiles that could not be read were left out; 2: bad
input.

Models: {members}. Weights in {precision}.{synthetic}

{licence}"""


@dataclass(frozen=True, slots=True)
class BundleReport:
    """What was written.

    Attributes
    ----------
    folder : Path
    half : bool
        Whether convolution weights are stored as float16.
    agreement : float or None
        Share of valid pixels whose label is the same in float16 as in float32; None where it was not measured.
    measured_on : str
        Which tiles that was, or why none.
    member_mb : tuple of float
        Size of each file of weights, in 10^6 bytes.
    total_mb : float
        Of the whole folder.
    """

    folder: Path
    half: bool
    agreement: float | None
    measured_on: str
    member_mb: tuple[float, ...]
    total_mb: float

    def lines(self) -> list[str]:
        """The report for people."""
        sizes = " + ".join(f"{size:.1f}" for size in self.member_mb)
        same = self.measured_on if self.agreement is None else f"{self.agreement:.4%} of labels ({self.measured_on})"
        return [
            f"Bundle written to {self.folder}: solution.py, {DESCRIPTION}, README.md, weights, {PACKAGE}",
            f"Weights: {'float16' if self.half else 'float32'}, {sizes} MB; the whole folder {self.total_mb:.1f} MB",
            f"float16 agrees with float32: {same}",
        ]


def write_bundle(
    ensemble: Ensemble,
    out: str | Path,
    *,
    data: str | Path | None = None,
    max_mb: float | None = None,
    tta: TtaMode | str | None = None,
    device: str = "auto",
) -> BundleReport:
    """Write a folder that maps tiles by itself.

    Weights are stored as float16 where at least `LEAST_AGREEMENT` of the labels stay the same.

    Parameters
    ----------
    ensemble : Ensemble
    out : str or Path
        New, empty, or an earlier bundle, whose own files are replaced.
    data : str or Path, optional
        Tiles on which the agreement is measured; by default the bundled sample region, where it has the bands. Where
        it has not, weights stay float32 unless that is over the limit.
    max_mb : float, optional
        Limit of the whole folder in 10^6 bytes; by default 200 for one member, and 300 for several of at most 200 each.
    tta : "off", 2, 6 or 8, optional
        Views that the bundle averages where it is not told otherwise; the ensemble's own by default, 6 where it has
        none.
    device : str
        Where the agreement is measured.

    Raises
    ------
    ConfigError
        If the limit is too small, or a member needs a library that bundles do not have.
    SaveError
        If `out` holds other things.
    DataError
        If `data` does not fit the models.
    """
    out = Path(out).expanduser().absolute()
    _check_members(ensemble)
    asked = ensemble.tta if tta is None else tta
    tta = 6 if asked is None else asked
    views(tta)
    if max_mb is not None and not 0 < max_mb < math.inf:
        raise ConfigError(f"The size limit is {max_mb} MB; it must be more than 0.")
    old_files = _own_files(out)
    dataset, measured_on = _tiles_to_measure(ensemble, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        made = Path(scratch) / "bundle"
        half_paths = _save_weights(ensemble, made / "weights", half=True)
        agreement, measured_on = _agreement(ensemble, half_paths, dataset, measured_on, device)
        write_code(made / PACKAGE)
        code_mb = _size_mb(made / PACKAGE)
        half_mb = [_file_mb(path) for path in half_paths]
        full_mb = [_full_mb(member.model) for member in ensemble.members]
        half = _over_limit(full_mb, code_mb, max_mb) if agreement is None else agreement >= LEAST_AGREEMENT
        if _over_limit(half_mb if half else full_mb, code_mb, max_mb):
            names = [member.card.name for member in ensemble.members]
            listed = zip(names, full_mb, half_mb, strict=True)
            sizes = ", ".join(f"{name} {full:.1f} MB ({low:.1f} in float16)" for name, full, low in listed)
            rounding = "" if half or agreement is None else f" Only {agreement:.2%} of labels stay the same in float16."
            raise ConfigError(
                f"The bundle is too large: {sizes}, and {code_mb:.1f} MB of code; at most "
                f"{_limit_text(len(names), max_mb)} are allowed.{rounding} Leave members out, train a smaller encoder, "
                "or raise --max-mb where the rules allow it."
            )
        if not half:
            _save_weights(ensemble, made / "weights", half=False)
        _write_texts(made, ensemble, str(tta), half, agreement)
        _move_in(made, out, old_files)
    return BundleReport(
        folder=out,
        half=half,
        agreement=agreement,
        measured_on=measured_on,
        member_mb=tuple(_file_mb(path) for path in sorted((out / "weights").glob("*.safetensors"))),
        total_mb=sum(_file_mb(out / name) for name in _own_files(out)),
    )


def _check_members(ensemble: Ensemble) -> None:
    for member in ensemble.members:
        extra = optional_extra(member.card.architecture)
        if extra is not None:
            raise ConfigError(
                f"The model {member.card.name} is a {member.card.architecture}, which needs the libraries of the "
                f"extra '{extra}'; a bundle has segmentation-models-pytorch, torch, numpy and tifffile alone. "
                "Bundle models of other architectures, or distil this one into one (recipe distill)."
            )


def _own_files(out: Path) -> tuple[str, ...]:
    """Files of the bundle in a folder; none in a new or empty one. `SaveError` where anything else is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return ()
    described = described_bundle(out) if out.is_dir() else None
    if described is None:
        raise SaveError(
            f"{out} exists and is no bundle; nothing in it was changed. Choose a new or empty folder (--out)."
        )
    # Nothing that the description could name outside of the folder is ours.
    names = [str(name) for name in described.get("files") or ()]
    return tuple(name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts)


def _tiles_to_measure(ensemble: Ensemble, data: str | Path | None) -> tuple[Dataset | None, str]:
    """Tiles, and what they are called; or None, and why there are none."""
    if data is not None:
        dataset = open_dataset(Path(data))
        return dataset, str(data)
    try:
        dataset = open_dataset(bundled_folder().parent / "region" / "val")
    except (CheckpointError, OSError):
        return None, "not measured: the sample region is not installed; give tiles with --data"
    lacking = [band for band in required_bands(ensemble.channels) if band not in dataset.bands]
    if lacking:
        return None, f"not measured: the sample region has no {', '.join(lacking)}; give tiles with --data"
    return dataset, "the sample region"


def _agreement(
    ensemble: Ensemble, half_paths: list[Path], dataset: Dataset | None, name: str, device: str
) -> tuple[float | None, str]:
    """Share of valid pixels with the same label, and on which tiles; None and why where it is not known."""
    stored = [load_checkpoint(path) for path in half_paths]
    if all(
        torch.equal(value, other.model.state_dict()[key])
        for member, other in zip(ensemble.members, stored, strict=True)
        for key, value in member.model.state_dict().items()
    ):
        return 1.0, "the weights are float16 numbers already"
    if dataset is None:
        return None, name
    rounded = copy.copy(ensemble)
    rounded.members = stored
    full, half = (
        Predictor(each, tta="off", scales=(1.0,), device=device, precision="fp32", engine="torch")
        for each in (ensemble, rounded)
    )
    step = -(-len(dataset.tiles) // _NUM_TILES)
    same = total = 0
    for scene in plan_scenes(dataset, dataset.tiles[::step]):
        labels = []
        for predictor in (full, half):
            run = predictor.run(scene)
            try:
                while True:
                    next(run)
            except StopIteration as end:
                labels.append(end.value)
        valid_HW = labels[0].valid_HW
        same += int(np.count_nonzero((labels[0].index_HW == labels[1].index_HW) & valid_HW))
        total += int(np.count_nonzero(valid_HW))
    if not total:
        return None, f"not measured: {name} holds no valid pixel; give other tiles with --data"
    return same / total, f"{len(dataset.tiles[::step])} tiles of {name}"


def _save_weights(ensemble: Ensemble, folder: Path, half: bool) -> list[Path]:
    paths = [folder / f"member_{k:02d}.safetensors" for k in range(len(ensemble.members))]
    for path, member in zip(paths, ensemble.members, strict=True):
        save_checkpoint(path, member.model, member.card, half=half)
    return paths


def _full_mb(model: torch.nn.Module) -> float:
    return float(sum(value.numel() * value.element_size() for value in model.state_dict().values())) / 1e6


def _file_mb(path: Path) -> float:
    return path.stat().st_size / 1e6


def _size_mb(folder: Path) -> float:
    return sum(_file_mb(path) for path in folder.rglob("*") if path.is_file())


def _limits(num_members: int, max_mb: float | None) -> tuple[float, float]:
    """Limit of a member's weights and of the whole folder."""
    if max_mb is not None:
        return max_mb, max_mb
    return MEMBER_MB, MEMBER_MB if num_members == 1 else ENSEMBLE_MB


def _over_limit(member_mb: list[float], code_mb: float, max_mb: float | None) -> bool:
    member_limit, limit = _limits(len(member_mb), max_mb)
    return max(member_mb) > member_limit or sum(member_mb) + code_mb > limit


def _limit_text(num_members: int, max_mb: float | None) -> str:
    member_limit, limit = _limits(num_members, max_mb)
    return f"{limit:g} MB" + (f", and {member_limit:g} MB a member," if member_limit < limit else "")


def _ensemble_text(ensemble: Ensemble) -> str:
    members = [{"path": f"member_{k:02d}.safetensors", "weight": weight} for k, weight in enumerate(ensemble.weights)]
    described: dict[str, Any] = {"name": ensemble.name, "members": members}
    described |= {"thresholds": dict(ensemble.thresholds), "average": ensemble.average}
    if ensemble.scales is not None:
        described["scales"] = list(ensemble.scales)
    return yaml.safe_dump(described, sort_keys=False, allow_unicode=True)


def _write_texts(made: Path, ensemble: Ensemble, tta: str, half: bool, agreement: float | None) -> None:
    scheme = ensemble.scheme
    synthetic = any(member.card.synthetic for member in ensemble.members)
    texts = {
        ENSEMBLE: _ensemble_text(ensemble),
        "solution.py": _SOLUTION.format(name=_one_line(ensemble.name)),
        "README.md": _README.format(
            name=_one_line(ensemble.name),
            version=__version__,
            codes=", ".join(f"{code} {name}" for code, name in zip(scheme.codes, scheme.class_names, strict=True)),
            members=", ".join(
                f"{_one_line(member.card.name)} ({member.card.architecture}, weight {weight:.3g})"
                for member, weight in zip(ensemble.members, ensemble.weights, strict=True)
            ),
            precision="float16" if half else "float32",
            synthetic="\nTrained on synthetic scenes: for demonstration." if synthetic else "",
            licence=_licence(),
        ),
    }
    for name, text in texts.items():
        (made / name).write_text(text, encoding="utf-8")
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    described = {
        "made_by": f"napari-glacier {__version__}",
        "name": ensemble.name,
        "tta": tta,
        "stored_as": "float16" if half else "float32",
        "label_agreement": agreement,
        "files": [*files, DESCRIPTION],
    }
    text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
    (made / DESCRIPTION).write_text(text, encoding="utf-8")


def _move_in(made: Path, out: Path, old_files: tuple[str, ...]) -> None:
    """Put the finished bundle in its place; files of other people in an earlier bundle's folder stay."""
    out.mkdir(exist_ok=True)
    # The description changes last: a bundle that was interrupted here is still known as one, and can be made again.
    for name in old_files:
        if name != DESCRIPTION:
            (out / name).unlink(missing_ok=True)
    files = [path for path in made.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path == made / DESCRIPTION):
        target = out / path.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _one_line(text: str) -> str:
    """Text that can stand in a comment or a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split()) or "a model"


def _licence() -> str:
    """This package's licence, which its copied code comes under."""
    beside = Path(__file__).resolve().parents[2] / "LICENSE"
    if beside.is_file():
        return f"The code in {PACKAGE} is part of napari-glacier:\n\n{beside.read_text(encoding='utf-8')}"
    try:
        distribution = metadata.distribution("napari-glacier")
    except metadata.PackageNotFoundError:
        distribution = None
    text = distribution and (distribution.read_text("licenses/LICENSE") or distribution.read_text("LICENSE"))
    return f"The code in {PACKAGE} is part of napari-glacier (BSD-3-Clause).\n\n{text or ''}"
