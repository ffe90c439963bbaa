"""Scenes as their makers deliver them, found on disk: folders, tar files, and folders of these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_glacier.core.errors import BandError, DataError, RasterError
from napari_glacier.core.raster import RasterInfo, read_info
from napari_glacier.core.raster.archives import is_archive, is_packed, members
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.scenes.landsat import SceneFiles, is_landsat, read_landsat
from napari_glacier.core.scenes.mtl import MTL_NAME, georef_of
from napari_glacier.core.scenes.products import Product
from napari_glacier.core.scenes.sentinel2 import METADATA_NAME, is_sentinel2, read_sentinel2, safe_files

__all__ = ["FoundScene", "find_scenes", "metadata_folder", "names_a_scene"]


@dataclass(frozen=True, slots=True)
class FoundScene:
    """A scene and what it needs to become a tile.

    `folder` is where its labels and journal go: its own folder, or beside an archive one of its name.
    """

    files: SceneFiles
    folder: Path
    georef: GeoRef | None
    notes: tuple[str, ...]
    zooms: dict[str, int]
    quality_zoom: int

    @property
    def product(self) -> Product:
        """The product, with what was noticed while its headers were read."""
        product = self.files.product
        quality = product.quality
        if quality is not None and quality.pixel is not None and self.quality_zoom != 1:
            quality = replace(quality, pixel=replace(quality.pixel, zoom=self.quality_zoom))
        return replace(product, quality=quality, notes=(*product.notes, *self.notes))


def metadata_folder(path: Path) -> Path | None:
    """The folder of a scene whose metadata file this is; None for any other path."""
    return path.parent if MTL_NAME.match(path.name) or METADATA_NAME.match(path.name) else None


def names_a_scene(path: Path) -> bool:
    """Whether a folder or archive holds a scene, or scenes each in a place of its own, from names alone."""
    if is_archive(path):
        try:
            return _reader_of(members(path)) is not None
        except RasterError:
            # What is wrong with it is said when it is opened.
            return True
    return path.is_dir() and bool(_scene_places(path))


def find_scenes(path: Path, damaged: dict[Path, str] | None = None) -> list[FoundScene]:
    """The scenes of a folder, of the folders and archives in it, or of an archive; empty where there are none.

    Given `damaged`, scenes that cannot be read are noted there, as long as others remain.

    Raises
    ------
    DataError
        If what is there cannot be read as scenes; compressed archives among it.
    """
    if path.is_file():
        if is_packed(path):
            raise DataError(f"{path} is compressed, and is not read in place. Unpack it, then open the folder.")
        if not is_archive(path):
            return []
        found = _read(path)
        if found is None:
            raise DataError(f"{path} holds no bands of Landsat 4 to 9 or Sentinel-2. Open such a scene, or its folder.")
        return [found]
    scenes, problems = [], []
    for place in _scene_places(path):
        try:
            found = _read(place)
        except DataError as error:
            if damaged is None:
                raise
            damaged[place] = str(error)
            problems.append(error)
        else:
            scenes += [found] if found is not None else []
    if problems and not scenes:
        raise problems[0]
    return scenes


def _scene_places(folder: Path) -> list[Path]:
    """The folder itself where it is a scene, else the folders and archives in it that are."""
    if _reader_of(_files_of(folder)) is not None:
        return [folder]
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise RasterError(f"{folder} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    places = []
    for child in children:
        if child.name.startswith("."):
            continue
        if child.is_dir() and _reader_of(_files_of(child)) is not None:
            places.append(child)
        # An archive beside the folder that was unpacked from it is the same scene once more.
        unpacked = any(place.name == child.stem for place in places)
        if not unpacked and is_archive(child) and child.is_file() and _is_scene_archive(child):
            places.append(child)
    return places


def _is_scene_archive(path: Path) -> bool:
    try:
        return _reader_of(members(path)) is not None
    except RasterError:
        return is_landsat([f"{path.stem}_B2.TIF", f"{path.stem}_B3.TIF"])


def _files_of(place: Path) -> list[Path]:
    if is_archive(place) and place.is_file():
        return members(place)
    try:
        return safe_files(place) or sorted(
            path for path in place.iterdir() if not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise RasterError(f"{place} cannot be read ({error.strerror}). Check the path and its permissions.") from error


def _reader_of(files: Sequence[Path]) -> Callable[[Sequence[Path], Path], SceneFiles] | None:
    names = [path.name for path in files]
    if is_landsat(names):
        return read_landsat
    return read_sentinel2 if is_sentinel2(names) else None


def _read(place: Path) -> FoundScene | None:
    files = _files_of(place)
    reader = _reader_of(files)
    if reader is None:
        return None
    scene = reader(files, place)
    infos = {band: read_info(source.path) for band, source in scene.bands.items()}
    finest = max(infos.values(), key=lambda info: info.height * info.width)
    zooms = {band: _zoom(info, finest) for band, info in infos.items()}
    georef, notes = finest.georef, []
    if all(info.georef is None for info in infos.values()) and scene.metadata is not None:
        placed = georef_of(scene.metadata, (finest.height, finest.width))
        if isinstance(placed, str):
            notes.append(placed)
        else:
            georef = placed
    for band, info in infos.items():
        if info.count != 1:
            raise BandError(f"{info.path} has {info.count} bands; a scene has one in each file. Download it again.")
        if zooms[band] > 1:
            metres = [abs(one.georef.transform[0]) for one in (info, finest) if one.georef is not None]
            sizes = f" ({metres[0]:g} m on {metres[1]:g} m)" if len(metres) == 2 else ""
            notes.append(
                f"Pixels of {info.path.name} are {zooms[band]} times as large as the other bands'{sizes}: "
                f"each is shown, and given to models, {zooms[band] ** 2} times."
            )
    folder = place if place.is_dir() else place.with_suffix("")
    return FoundScene(
        files=scene,
        folder=folder,
        georef=georef,
        notes=tuple(notes),
        zooms=zooms,
        quality_zoom=_check_quality(scene.product, finest),
    )


def _zoom(info: RasterInfo, finest: RasterInfo) -> int:
    """How many pixels of the finest band a pixel covers along a side; 1 where they do not fit, which is said later."""
    zoom = round(finest.height / info.height) if info.height else 1
    return zoom if zoom > 1 and (info.height * zoom, info.width * zoom) == (finest.height, finest.width) else 1


def _check_quality(product: Product, finest: RasterInfo) -> int:
    zoom = 1
    quality = product.quality
    for source in (quality.pixel, quality.saturation) if quality is not None else ():
        if source is None:
            continue
        info = read_info(source.path)
        zoom = _zoom(info, finest)
        if (
            info.dtype.kind not in "ui"
            or info.count != 1
            or (info.height * zoom, info.width * zoom)
            != (
                finest.height,
                finest.width,
            )
        ):
            raise RasterError(
                f"{source.path} is {info.height} x {info.width} {info.dtype}; the quality band of this scene is one of "
                f"whole numbers, {finest.height} x {finest.width}. Download it again, or take it away."
            )
    return zoom
