"""Strokes of an earlier sitting that wait to be saved or dropped, and what a person is told of them."""

from dataclasses import dataclass

from napari_glacier.core.wording import counted, listed


@dataclass(frozen=True, slots=True)
class Recovered:
    """Strokes of an earlier sitting that were never written to mask files; what came back of a damaged journal."""

    num_strokes: int
    tile_ids: tuple[str, ...]
    # Of how many strokes of the journal something could not be read.
    num_damaged: int = 0
    # What came back of a damaged journal, in words.
    mended: str = ""

    @property
    def sentence(self) -> str:
        """What a person is told."""
        return " ".join(filter(None, (self.mended, self._restored, self._lost)))

    @property
    def _lost(self) -> str:
        if not self.num_damaged:
            return ""
        return (
            f"The journal is damaged: of {counted(self.num_damaged, 'stroke')} not all could be read, and what could "
            f"not is lost. Look at {listed(self.tile_ids)} before you save."
        )

    @property
    def _restored(self) -> str:
        if not self.num_strokes:
            return ""
        was = "was" if self.num_strokes == 1 else "were"
        keep = "it" if self.num_strokes == 1 else "them"
        return (
            f"{counted(self.num_strokes, 'stroke')} from an earlier session {was} restored ({listed(self.tile_ids)}); "
            f"Save keeps {keep}, Discard drops {keep}."
        )
