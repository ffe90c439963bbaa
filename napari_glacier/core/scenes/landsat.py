"""Landsat 4 to 9 scenes as USGS delivers them: which file is which band, and what their numbers mean.

Band numbers by sensor: Landsat 4, 5 and 7 have blue 1, green 2, red 3, SWIR-1 5 and thermal 6; Landsat 8 and 9
have 2, 3, 4, 6 and 10. Landsat 7's thermal band comes at two gains; low gain (VCID 1) does not saturate.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.band_source import BandSource
from napari_glacier.core.errors import BandError, DataError
from napari_glacier.core.scenes.mtl import MTL_NAME, Metadata, read_mtl
from napari_glacier.core.scenes.products import REFLECTIVE_BANDS, THERMAL_BAND, Calibration, Product, Quality

_TM = dict(zip(CANONICAL_BANDS, ("1", "2", "3", "5", "6"), strict=True))
_OLI = dict(zip(CANONICAL_BANDS, ("2", "3", "4", "6", "10"), strict=True))
_SENSORS = {4: _TM, 5: _TM, 7: _TM, 8: _OLI, 9: _OLI}
_INSTRUMENTS = {4: "TM", 5: "TM", 7: "ETM+", 8: "OLI/TIRS", 9: "OLI/TIRS"}

_SCENE = re.compile(r"^L(?P<instrument>[COETM])0?(?P<number>[4-9])", re.IGNORECASE)
_COLLECTION = re.compile(
    r"^L[COETM]0\d_(?P<level>L\w{3})_\d{6}_(?P<day>\d{8})_\d{8}_(?P<collection>\d\d)", re.IGNORECASE
)
_PLACE = re.compile(r"^L[COETM](?:0?\d_L\w{3}_|\d)(?P<place>\d{6})")
_OLD = re.compile(r"^L[COETM]\d\d{6}(?P<year>\d{4})(?P<day>\d{3})\w{5}$", re.IGNORECASE)
_BAND = re.compile(
    r"^(?P<scene>.+?)_(?:(?P<kind>SR|ST|TOA|BT)_)?(?:B|BAND)(?P<number>\d{1,2})(?P<gain>_VCID_[12])?\.tiff?$",
    re.IGNORECASE,
)
_WRITTEN_OUT = re.compile(r"_BAND\d{1,2}\.", re.IGNORECASE)
_QUALITY = re.compile(r"^(?P<scene>.+?)_(?P<kind>QA_PIXEL|QA_RADSAT)\.tiff?$", re.IGNORECASE)
# Kinds of a band's file, the one to take first: at the ground rather than above the air.
_REFLECTIVE_KINDS = ("SR", "", "TOA")
_THERMAL_KINDS = ("ST", "", "BT")

# Collection-2 Level-2 scaling is the same for all scenes (LSDS-1328, section 3).
_LEVEL2_REFLECTANCE = Calibration("reflectance", 2.75e-5, -0.2)
_LEVEL2_TEMPERATURE = Calibration("temperature", 0.00341802, 149.0)
# So was that of the surface reflectance ordered for Collection 1 (LSDS-1368).
_COLLECTION1_REFLECTANCE = Calibration("reflectance", 1e-4, 0.0)
_COLLECTION1_TEMPERATURE = Calibration("temperature", 0.1, 0.0)

# What `dataset.yaml` may say of tiles that carry no metadata.
UNITS: Mapping[str, Mapping[str, Calibration]] = {
    "landsat-c2-l2": dict.fromkeys(REFLECTIVE_BANDS, _LEVEL2_REFLECTANCE) | {THERMAL_BAND: _LEVEL2_TEMPERATURE}
}


@dataclass(frozen=True, slots=True)
class SceneFiles:
    """The files of one scene: a source for each band, and what the product says of them."""

    bands: Mapping[str, BandSource]
    product: Product
    metadata: Metadata | None = None


def is_landsat(names: Sequence[str]) -> bool:
    """Whether among file names are bands of Landsat scenes: two at least, as a mask takes the name of a first band."""
    bands = {
        (match["kind"], match["number"], match["gain"])
        for name in names
        if (match := _BAND.match(name)) and _SCENE.match(match["scene"])
    }
    return len(bands) > 1


def read_landsat(files: Sequence[Path], place: Path) -> SceneFiles:
    """Choose the bands of the one Landsat scene among files, and read its metadata.

    Parameters
    ----------
    files : sequence of Path
        May hold anything else, too.
    place : Path
        The folder or archive, for messages.

    Raises
    ------
    DataError
        If there are files of two scenes, or the metadata are damaged or another scene's.
    BandError
        If a band is there twice, or the scene has none of the bands in use.
    """
    found: dict[str, dict[tuple[str, str], Path]] = {}
    quality: dict[str, Path] = {}
    for path in files:
        if (match := _BAND.match(path.name)) and _SCENE.match(match["scene"]):
            number = match["number"] + (match["gain"] or "").upper()
            number = {"61": "6_VCID_1", "62": "6_VCID_2"}.get(number, number)
            key = (match["kind"] or "").upper(), number
            of_scene = found.setdefault(match["scene"], {})
            if key in of_scene:
                raise BandError(
                    f"{of_scene[key].name} and {path.name} are the same band of one scene in {place}. "
                    "Take one of them away."
                )
            of_scene[key] = path
        elif match := _QUALITY.match(path.name):
            quality[match["kind"].upper()] = path
            found.setdefault(match["scene"], {})
    if len(found) > 1:
        names = " and ".join(sorted(found)[:2])
        raise DataError(
            f"{place} holds files of {len(found)} scenes ({names}), which would be mixed in one image. "
            "Put each scene into a folder of its own."
        )
    (scene, there), *_ = found.items()
    matched = _SCENE.match(scene)
    if matched is None or int(matched["number"]) not in _SENSORS:
        raise DataError(f"{place} holds {scene}, a Landsat that is not known here. Landsat 4, 5, 7, 8 and 9 are.")
    number = int(matched["number"])
    paths = _choose(there, number)
    if not any(band in paths for band in REFLECTIVE_BANDS):
        wanted = ", ".join(f"B{_SENSORS[number][band]}" for band in REFLECTIVE_BANDS)
        raise BandError(f"{place} has none of the bands {wanted} of {scene}. Download the scene with these bands.")
    metadata = _metadata(files, scene)
    kind_of = {path: key for key, path in there.items()}
    product = _describe(
        scene, number, {band: (*kind_of[path], path) for band, path in paths.items()}, quality, metadata
    )
    # At Level 1 and in what is made from it, 0 is fill.
    nodata = 0.0 if product.complete else None
    return SceneFiles({band: BandSource(paths[band], nodata=nodata) for band in paths}, product, metadata)


def _choose(there: Mapping[tuple[str, str], Path], number: int) -> dict[str, Path]:
    chosen: dict[str, Path] = {}
    for band, digits in _SENSORS[number].items():
        thermal = band == THERMAL_BAND
        names = (f"{digits}_VCID_1", digits, f"{digits}_VCID_2") if thermal and number == 7 else (digits,)
        keys = [(kind, name) for kind in (_THERMAL_KINDS if thermal else _REFLECTIVE_KINDS) for name in names]
        path = next((there[key] for key in keys if key in there), None)
        if path is not None:
            chosen[band] = path
    return chosen


def _metadata(files: Sequence[Path], scene: str) -> Metadata | None:
    """The scene's metadata: those of its name, the text before the JSON."""
    named = [path for path in files if MTL_NAME.match(path.name)]
    named.sort(key=lambda path: (path.suffix.lower() == ".json", path.name))
    if not named:
        return None
    own = [path for path in named if path.name.upper().startswith(f"{scene}_MTL.".upper())]
    metadata = read_mtl((own or named)[0])
    ids = metadata.texts("LANDSAT_PRODUCT_ID") | metadata.texts("LANDSAT_SCENE_ID")
    if ids and scene.upper() not in {name.upper() for name in ids}:
        raise DataError(
            f"{metadata.path} is of {sorted(ids)[0][:60]}, the bands beside it are of {scene}. "
            "Put the scene's own metadata there."
        )
    return metadata


def _describe(
    scene: str,
    number: int,
    chosen: Mapping[str, tuple[str, str, Path]],
    quality: Mapping[str, Path],
    metadata: Metadata | None,
) -> Product:
    """What is known of a scene; `chosen` has the kind, digits and path of each band."""
    named = _COLLECTION.match(scene)
    level2 = (named is not None and named["level"].upper().startswith("L2")) or any(
        kind in ("SR", "ST") for kind, _, _ in chosen.values()
    )
    # Collection 1 wrote sr_band2, Collection 2 writes SR_B2: what is left where a scene was renamed.
    written_out = any(_WRITTEN_OUT.search(path.name) for _, _, path in chosen.values())
    collection1 = named["collection"] == "01" if named is not None else written_out
    calibration: dict[str, Calibration] = {}
    for band, (kind, digits, _) in chosen.items():
        known: Calibration | None = None
        if (level2 or kind in ("TOA", "BT")) and collection1:
            known = _COLLECTION1_TEMPERATURE if band == THERMAL_BAND else _COLLECTION1_REFLECTANCE
        elif level2:
            known = _level2(metadata, band, digits)
        elif metadata is not None:
            known = _level1(metadata, band, digits)
        if known is not None:
            calibration[band] = known
    missing = [band for band in chosen if band not in calibration]
    uncalibrated = ""
    if missing:
        lacks = (
            "has no metadata file (_MTL.txt)" if metadata is None else f"has no scaling of them in {metadata.path.name}"
        )
        uncalibrated = f"The units of {', '.join(missing)} are not known: the scene {lacks}. Put it beside the bands."
    return Product(
        name=scene,
        sensor=f"Landsat {number} {_INSTRUMENTS[number]}",
        level="Level 2" if level2 else "Level 1",
        above_air=chosen[THERMAL_BAND][0] == "BT" if THERMAL_BAND in chosen else False,
        date=(metadata.text("DATE_ACQUIRED") if metadata else None) or _day_of(scene, named),
        cloud_percent=_cloud(metadata),
        calibration=calibration,
        uncalibrated=uncalibrated,
        quality=_quality(quality, [digits for _, digits, _ in chosen.values()]),
        complete=() if level2 else tuple(band for band in REFLECTIVE_BANDS if band in chosen),
        notes=()
        if metadata is not None
        else ("The scene has no metadata file (_MTL.txt); put it beside the bands, so that units are known.",),
        place=match["place"] if (match := _PLACE.match(scene.upper())) else "",
    )


def _level2(metadata: Metadata | None, band: str, digits: str) -> Calibration:
    usual, quantity, group = _LEVEL2_REFLECTANCE, "REFLECTANCE", "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"
    if band == THERMAL_BAND:
        usual, quantity, group = _LEVEL2_TEMPERATURE, "TEMPERATURE", "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS"
        digits = f"ST_B{digits}"
    gain, offset = (
        metadata.number(f"{quantity}_{name}_BAND_{digits}", group) if metadata else None for name in ("MULT", "ADD")
    )
    return usual if gain is None or offset is None else Calibration(usual.quantity, gain, offset)


def _level1(metadata: Metadata, band: str, digits: str) -> Calibration | None:
    groups = ("LEVEL1_RADIOMETRIC_RESCALING", "RADIOMETRIC_RESCALING")
    key = f"BAND_{digits}"
    if band == THERMAL_BAND:
        gain, offset = (metadata.number(f"RADIANCE_{name}_{key}", *groups) for name in ("MULT", "ADD"))
        k1, k2 = metadata.number(f"K1_CONSTANT_{key}"), metadata.number(f"K2_CONSTANT_{key}")
        if gain is None or offset is None or not k1 or not k2 or k1 <= 0 or k2 <= 0:
            return None
        return Calibration("temperature", gain, offset, k1, k2)
    gain, offset = (metadata.number(f"REFLECTANCE_{name}_{key}", *groups) for name in ("MULT", "ADD"))
    elevation = metadata.number("SUN_ELEVATION")
    if gain is None or offset is None or elevation is None or not 0 < elevation <= 90:
        return None
    # The metadata's reflectance is that of a sun in the zenith.
    sine = math.sin(math.radians(elevation))
    return Calibration("reflectance", gain / sine, offset / sine)


def _quality(quality: Mapping[str, Path], digits: Sequence[str]) -> Quality | None:
    if not quality:
        return None
    pixel, saturation = (BandSource(quality[kind]) if kind in quality else None for kind in ("QA_PIXEL", "QA_RADSAT"))
    bits = 0
    for name in digits:
        # Bit n - 1 speaks of band n; thermal bands of Landsat 8 and 9 have none, Landsat 7 keeps 6H in bit 8.
        position = 8 if name == "6_VCID_2" else int(name.split("_")[0]) - 1
        bits |= 1 << position if position <= 8 else 0
    return Quality("QA_PIXEL", pixel, saturation, bits)


def _cloud(metadata: Metadata | None) -> float | None:
    cover = metadata.number("CLOUD_COVER") if metadata else None
    # -1 says that nobody looked.
    return cover if cover is not None and 0 <= cover <= 100 else None


def _day_of(scene: str, named: "re.Match[str] | None") -> str:
    try:
        if named is not None:
            return date.fromisoformat(named["day"]).isoformat()
        if old := _OLD.match(scene):
            return (date(int(old["year"]), 1, 1) + timedelta(days=int(old["day"]) - 1)).isoformat()
    except ValueError:
        pass
    return ""
