"""Small pictures and class counts of tiles, made in a thread and kept. No Qt."""

import logging
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import COMPOSITES
from napari_glacier.controllers.pictures import band_limits, composite_rgba
from napari_glacier.controllers.session import Session
from napari_glacier.core.data.mosaic import Placement
from napari_glacier.core.errors import GlacierError

logger = logging.getLogger(__name__)

THUMBNAIL_PX = 56
# Of larger tiles every so many rows and columns are counted: the shares are for the eye.
_COUNTED_PX = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was found out of a tile: its valid pixels by class, or its picture (h, w, 4), whichever was due."""

    tile_id: str
    counts: npt.NDArray[np.int64] | None = None
    picture: npt.NDArray[np.uint8] | None = None


class Gallery:
    """Counts the classes of every tile, and makes pictures of those that are asked for, these first.

    Methods may be called from any thread; the work is done by whoever runs `job`.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = Lock()
        self._places: dict[str, tuple[int, Placement]] = {
            place.tile.id: (number, place) for number, scene in enumerate(session.scenes) for place in scene.placements
        }
        self._to_count: deque[str] = deque(self._places)
        self._to_paint: deque[str] = deque()
        self._limits: dict[str, tuple[float, float]] | None = None
        self.counts: dict[str, npt.NDArray[np.int64]] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._to_count or self._to_paint)

    def want(self, tile_ids: Iterable[str]) -> None:
        """Ask for pictures; what was asked for last is made first, as it is what a person sees now."""
        with self._lock:
            for tile_id in tile_ids:
                if tile_id in self._places and tile_id not in self._to_paint:
                    self._to_paint.append(tile_id)

    def recount(self, tile_ids: Iterable[str]) -> None:
        """Count the classes of tiles again, whose labels have changed."""
        with self._lock:
            for tile_id in tile_ids:
                if tile_id in self._places and tile_id not in self._to_count:
                    self._to_count.appendleft(tile_id)

    def total(self, tile_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Valid pixels by class over those of the tiles that are counted so far."""
        counts = [self.counts[tile_id] for tile_id in tile_ids if tile_id in self.counts]
        return np.sum(counts, axis=0) if counts else np.zeros(self._session.scheme.num_classes, np.int64)

    def job(self) -> Generator[Seen, None, None]:
        """Do what is due, one tile a step; ends when nothing is left."""
        while True:
            with self._lock:
                paint = bool(self._to_paint)
                if self.idle or self._session.closed:
                    return
                tile_id = self._to_paint.pop() if paint else self._to_count.popleft()
            number, place = self._places[tile_id]
            try:
                if paint:
                    yield Seen(tile_id, picture=self._paint(place))
                else:
                    counts = self._count(number, place)
                    self.counts[tile_id] = counts
                    yield Seen(tile_id, counts=counts)
            except (GlacierError, OSError) as error:
                # Damaged tiles are the doctor's to tell of.
                logger.info("nothing is shown of tile %s: %s", tile_id, error)

    def _count(self, number: int, place: Placement) -> npt.NDArray[np.int64]:
        step = max(1, int((place.tile.height * place.tile.width / _COUNTED_PX) ** 0.5))
        index_HW, valid_HW = self._session.tile_labels(number, place, step)
        counts = np.bincount(index_HW[valid_HW], minlength=self._session.scheme.num_classes)
        return counts[: self._session.scheme.num_classes] * step**2

    def _paint(self, place: Placement) -> npt.NDArray[np.uint8]:
        dataset, tile = self._session.dataset, place.tile
        bands = next((b for b in COMPOSITES.values() if set(b) <= set(dataset.bands)), None)
        bands = bands or tuple((list(dataset.bands) * 3)[:3])
        if self._limits is None:
            self._limits = band_limits(self._session.scenes, list(dict.fromkeys(bands)))
        share = min(THUMBNAIL_PX / max(tile.height, tile.width), 1.0)
        shape = max(round(tile.height * share), 1), max(round(tile.width * share), 1)
        image_CHW, valid_HW = dataset.read(tile, bands, (0, tile.height), (0, tile.width), shape)
        limits = [self._limits.get(band, (0.0, 1.0)) for band in bands]
        return composite_rgba(image_CHW, valid_HW, limits)


def class_shares(scheme: Any, counts: npt.NDArray[np.int64]) -> list[tuple[str, str, float]]:
    """Colour, name and share of each class."""
    total = max(int(counts.sum()), 1)
    return [(scheme.colors[k], scheme.class_names[k], float(counts[k]) / total) for k in range(scheme.num_classes)]
