"""Sentinel-2 scenes: the SAFE folder of a product, or a folder with its bands.

B02 blue, B03 green and B04 red come in pixels of 10 m, B11 (SWIR-1) in pixels of 20 m; there is no thermal band.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.band_source import BandSource
from napari_glacier.core.errors import BandError, DataError
from napari_glacier.core.raster.archives import read_text
from napari_glacier.core.scenes.landsat import SceneFiles
from napari_glacier.core.scenes.products import Calibration, Product, Quality

# Our band -> the product's, and the number of the product's band in its metadata.
_BANDS = dict(zip(CANONICAL_BANDS, (("02", 1), ("03", 2), ("04", 3), ("11", 11)), strict=False))
_OF_DIGITS = {digits: band for band, (digits, _) in _BANDS.items()}

_BAND = re.compile(
    r"^(?P<scene>(?:.*[_.-])?)B(?P<digits>\d\d|8A)(?:_(?P<metres>10|20|60)m)?\.(?:jp2|tiff?)$", re.IGNORECASE
)
_CLASSES = re.compile(r"^(?:.*[_.-])?SCL(?:_(?P<metres>20|60)m)?\.(?:jp2|tiff?)$", re.IGNORECASE)
METADATA_NAME = re.compile(r"^MTD_MSIL(?P<level>1C|2A)\.xml$", re.IGNORECASE)
_PRODUCT = re.compile(r"S2[ABCD]_MSIL(?P<level>1C|2A)_(?P<day>\d{8})T\d{6}_\w+", re.IGNORECASE)
_PLACE = re.compile(r"(?:^|[_.-])T?(?P<place>\d\d[C-X][A-Z]{2})(?:[_.-]|$)", re.IGNORECASE)
_DAY = re.compile(r"(?:^|[_.-])(?P<day>20\d{6})(?:T\d{6})?(?:[_.-]|$)")


def is_sentinel2(names: Sequence[str]) -> bool:
    """Whether among file names are bands of a Sentinel-2 scene: at least two that are in use."""
    return (
        len({match["digits"] for name in names if (match := _BAND.match(name)) and match["digits"] in _OF_DIGITS}) > 1
    )


def safe_files(folder: Path) -> list[Path]:
    """Files of a SAFE folder that may be bands or metadata; empty for any other folder."""
    if not (folder / "GRANULE").is_dir():
        return []
    return sorted(
        path
        for pattern in ("GRANULE/*/IMG_DATA/*", "GRANULE/*/IMG_DATA/R*m/*", "MTD_MSI*.xml")
        for path in folder.glob(pattern)
        if path.is_file()
    )


def read_sentinel2(files: Sequence[Path], place: Path) -> SceneFiles:
    """Choose the bands of the one Sentinel-2 scene among files, and read its metadata.

    Of a band in several pixel sizes the finest is taken. Which pixel size the scene gets is for the headers to say.

    Raises
    ------
    DataError
        If there are bands of two scenes, or the metadata are damaged.
    BandError
        If a band is there twice, or none of the bands in use is.
    """
    found: dict[str, dict[str, dict[int, Path]]] = {}
    classes: dict[int, Path] = {}
    for path in files:
        if match := _BAND.match(path.name):
            if match["scene"].upper().startswith("HLS."):
                raise DataError(
                    f"{place} is a scene of HLS, whose bands are numbered and scaled by sensor. "
                    "Name a folder for each band (B2, B3, B4, B6, B10) and put its files there."
                )
            if match["digits"] in _OF_DIGITS:
                sizes = found.setdefault(match["scene"].rstrip("_.-"), {}).setdefault(match["digits"], {})
                metres = int(match["metres"] or 0)
                if metres in sizes:
                    raise BandError(
                        f"{sizes[metres].name} and {path.name} are the same band of one scene in {place}. "
                        "Take one of them away."
                    )
                sizes[metres] = path
        elif match := _CLASSES.match(path.name):
            classes[int(match["metres"] or 0)] = path
    if len(found) > 1:
        names = " and ".join(name or "(no name)" for name in sorted(found)[:2])
        raise DataError(
            f"{place} holds bands of {len(found)} scenes ({names}), which would be mixed in one image. "
            "Put each scene into a folder of its own."
        )
    if not found:
        raise BandError(f"{place} has none of the bands B02, B03, B04 and B11. Download the product with them.")
    (scene, there), *_ = found.items()
    bands = {_OF_DIGITS[digits]: BandSource(sizes[min(sizes)], nodata=0.0) for digits, sizes in sorted(there.items())}
    product = _describe(scene, place, bands, classes, files)
    return SceneFiles({band: bands[band] for band in CANONICAL_BANDS if band in bands}, product)


def _describe(
    scene: str, place: Path, bands: Mapping[str, BandSource], classes: Mapping[int, Path], files: Sequence[Path]
) -> Product:
    metadata = next((path for path in files if METADATA_NAME.match(path.name)), None)
    named = _PRODUCT.search(place.name) or _PRODUCT.search(scene)
    # What follows is read from the product's own file where there is one, else from names.
    values = _values(metadata) if metadata is not None else {}
    at_ground = bool(classes) or (named is not None and named["level"].upper() == "2A")
    if metadata is not None and (match := METADATA_NAME.match(metadata.name)):
        at_ground = match["level"].upper() == "2A"
    calibration = _calibration(values, at_ground, bands)
    day = values.get("PRODUCT_START_TIME", "")[:10] or _day_of(scene, place)
    cloud = values.get("Cloud_Coverage_Assessment")
    spacecraft = re.search(r"S2([ABCD])_", f"{place.name} {values.get('PRODUCT_URI', '')}", re.IGNORECASE)
    return Product(
        name=place.name.removesuffix(".SAFE") if named is not None or not scene else scene,
        sensor=f"Sentinel-2{spacecraft[1].upper() if spacecraft else ''} MSI",
        level="Level 2" if at_ground else "Level 1",
        date=day,
        cloud_percent=_number(cloud) if cloud is not None else None,
        calibration=calibration,
        uncalibrated=""
        if calibration
        else "The reflectance is not known: since 2022 products carry an offset that only their metadata name. "
        "Put MTD_MSIL1C.xml or MTD_MSIL2A.xml beside the bands.",
        quality=Quality("SCL", BandSource(classes[min(classes)])) if classes else None,
        complete=tuple(bands),
        place=found["place"].upper() if (found := _PLACE.search(place.name) or _PLACE.search(scene)) else "",
    )


def _values(path: Path) -> dict[str, str]:
    """Texts of the elements of a metadata file by name; those of a band with its number: ``BOA_ADD_OFFSET 11``."""
    try:
        root = ElementTree.fromstring(read_text(path).encode())
    except ElementTree.ParseError as error:
        raise DataError(
            f"{path} is damaged or cut short ({error}). Download it again, or take it away to open without units."
        ) from error
    found: dict[str, str] = {}
    for element in root.iter():
        name = element.tag.rpartition("}")[2]
        number = element.get("band_id") or element.get("bandId")
        found.setdefault(f"{name} {number}" if number is not None else name, (element.text or "").strip())
    return found


def _calibration(values: Mapping[str, str], at_ground: bool, bands: Mapping[str, BandSource]) -> dict[str, Calibration]:
    prefix = "BOA_" if at_ground else ""
    scale = _number(values.get(f"{prefix}QUANTIFICATION_VALUE"))
    if scale is None or scale <= 0:
        return {}
    found = {}
    for band in bands:
        number = _BANDS[band][1]
        # Products before baseline 04.00 have no offset.
        offset = _number(values.get(f"{'BOA' if at_ground else 'RADIO'}_ADD_OFFSET {number}", "0"))
        if offset is not None:
            found[band] = Calibration("reflectance", 1 / scale, offset / scale)
    return found


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and abs(number) < 1e9 else None


def _day_of(scene: str, place: Path) -> str:
    for text in (scene, place.name):
        if match := _DAY.search(text):
            day = match["day"]
            return f"{day[:4]}-{day[4:6]}-{day[6:]}"
    return ""
