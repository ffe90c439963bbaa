"""The doctor: what is wrong with a data set, before anything is trained or predicted on it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_glacier.core.bands import CANONICAL_BANDS, TERRAIN_BANDS
from napari_glacier.core.dataset import Dataset, Tile, missing_band_warnings, open_dataset
from napari_glacier.core.errors import DataError, GlacierError
from napari_glacier.core.mosaic import plan_scenes
from napari_glacier.core.raster import read_info

Severity = Literal["info", "warning", "error"]
# Saturated 16-bit digital numbers, as snow in the visible bands has them.
_SATURATED_FROM = 65_454


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the doctor noticed: how bad it is, in which tile (None: the whole data set), and the mend."""

    severity: Severity
    tile: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings on a data set, with what it holds.

    `summary` has plain values: tiles, splits, bands, scheme, class mix over valid pixels, share of nodata.
    """

    path: Path
    findings: tuple[Finding, ...]
    summary: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 errors."""
        severities = {finding.severity for finding in self.findings}
        return 2 if "error" in severities else 1 if "warning" in severities else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "exit_code": self.exit_code,
            "summary": self.summary,
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(path: Path, scheme: str | None = None) -> Diagnosis:
    """Read a whole data set and report what is wrong with it; never raises for the data's faults.

    Every band and mask is decoded, so a file that is cut short or holds an unknown code is found.
    """
    try:
        dataset = open_dataset(path, scheme)
    except GlacierError as error:
        return Diagnosis(Path(path), (Finding("error", None, str(error)),), {})
    findings = [Finding("warning", None, text) for text in dataset.warnings]
    counts: dict[int, int] = {}
    pixels = valid_pixels = 0
    for tile in dataset.tiles:
        try:
            tile_findings, tile_counts, tile_valid = _examine_tile(dataset, tile)
        except DataError as error:
            findings.append(Finding("error", tile.id, str(error)))
            continue
        findings += tile_findings
        pixels += tile.height * tile.width
        valid_pixels += tile_valid
        for index, count in tile_counts.items():
            counts[index] = counts.get(index, 0) + count
    findings += _examine_terrain(dataset)
    findings += _examine_grid(dataset)
    return Diagnosis(dataset.root, tuple(findings), _summary(dataset, counts, pixels, valid_pixels))


def _examine_tile(dataset: Dataset, tile: Tile) -> tuple[list[Finding], dict[int, int], int]:
    findings = []
    bands = tile.distinct_bands
    image_CHW, valid_HW = dataset.read(tile, bands)
    num_valid = int(valid_HW.sum())
    if num_valid == 0:
        findings.append(Finding("warning", tile.id, "Every pixel is nodata. Remove the tile, or export it again."))
    for band, plane_HW in zip(bands, image_CHW, strict=True):
        values = plane_HW[valid_HW]
        if values.size and values.min() == values.max():
            findings.append(
                Finding(
                    "warning", tile.id, f"Band {band} has the one value {values[0]:g} on every pixel. Export it again."
                )
            )
        from_satellite = band in CANONICAL_BANDS and values.size
        saturated = float((values >= _SATURATED_FROM).mean()) if from_satellite else 0.0
        if saturated > 0.2:
            findings.append(
                Finding(
                    "warning", tile.id, f"{saturated:.0%} of the pixels of band {band} are saturated (bright snow)."
                )
            )
    mask_HW = dataset.read_mask(tile)
    if mask_HW is None:
        return (
            [*findings, Finding("info", tile.id, "The tile has no mask: it can be predicted and corrected.")],
            {},
            num_valid,
        )
    mask_ref = read_info(tile.mask_path).georef if tile.mask_path else None
    if mask_ref is not None and tile.georef is not None and not mask_ref.same_grid(tile.georef):
        findings.append(
            Finding(
                "warning",
                tile.id,
                f"The mask says that it lies elsewhere than the bands ({mask_ref.crs_name} {mask_ref.transform}); "
                "it is read pixel by pixel. Re-export it on the tile's grid.",
            )
        )
    labelled_nodata = int((mask_HW[~valid_HW] != 0).sum())
    if labelled_nodata:
        findings.append(
            Finding("warning", tile.id, f"{labelled_nodata} nodata pixels carry a class; they count for nothing.")
        )
    indices, numbers = np.unique(mask_HW[valid_HW], return_counts=True)
    return findings, dict(zip(indices.tolist(), numbers.tolist(), strict=True)), num_valid


def _examine_terrain(dataset: Dataset) -> Iterator[Finding]:
    """What is there of some tiles only; a data set without terrain lacks nothing."""
    there = [band for band in TERRAIN_BANDS if band in dataset.bands]
    yield from (Finding("info", None, text) for text in missing_band_warnings(dataset.tiles, there))


def _examine_grid(dataset: Dataset) -> Iterator[Finding]:
    unplaced = [tile.id for tile in dataset.tiles if tile.georef is None]
    if unplaced:
        yield Finding(
            "info", None, f"{len(unplaced)} of {len(dataset.tiles)} tiles have no georeference; tiles open as a stack."
        )
    elif len(dataset.tiles) > 1 and len(plan_scenes(dataset)) > 1:
        yield Finding(
            "info", None, "The tiles do not share one grid, or overlap; they open as a stack, not as a mosaic."
        )


def _summary(dataset: Dataset, counts: dict[int, int], pixels: int, valid_pixels: int) -> dict[str, Any]:
    labelled = sum(counts.values())
    names = dataset.scheme.class_names if dataset.scheme else ()
    return {
        "tiles": len(dataset.tiles),
        "splits": {split: len(dataset.split(split)) for split in dataset.splits},
        "with_mask": sum(tile.mask_path is not None for tile in dataset.tiles),
        "bands": list(dataset.bands),
        "scheme": dataset.scheme.name if dataset.scheme else None,
        "crs": next((tile.georef.crs_name for tile in dataset.tiles if tile.georef), None),
        "nodata_share": 1 - valid_pixels / pixels if pixels else None,
        "class_mix": {name: counts.get(k, 0) / labelled for k, name in enumerate(names)} if labelled else {},
    }
