"""Class schemes: which index means what, and which code stands for it on disk.

A scheme is a property of a data set, decided over all its masks and never guessed per pixel.
Inside the program a mask is a uint8 index image; `IGNORE_INDEX` marks pixels that count for nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import SchemeError

IGNORE_INDEX = 255


@dataclass(frozen=True, slots=True)
class ClassScheme:
    """An ordered list of classes with their codes on disk and their colours on screen.

    Parameters
    ----------
    name : str
        The scheme's name in configuration files and checkpoints.
    class_names : tuple of str
        Index 0 is the background.
    codes : tuple of int
        The value that stands for each class in a mask file.
    colors : tuple of str
        ``#rrggbb`` for each class; the background's is only used in legends.
    also_read : mapping of int to int
        Further codes that older files use, and the class index they mean.
    any_nonzero : bool
        Every non-zero value means class 1 (seismic masks come with 8 or 16 bits).
    """

    name: str
    class_names: tuple[str, ...]
    codes: tuple[int, ...]
    colors: tuple[str, ...]
    also_read: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    any_nonzero: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @property
    def interface(self) -> tuple[int, int] | None:
        """Indices of glacier and debris, whose border matters most and is hardest to see; None without both."""
        if {"glacier", "debris"} <= set(self.class_names):
            return self.class_names.index("glacier"), self.class_names.index("debris")
        return None

    def decode(self, codes_HW: npt.NDArray[np.generic], source: str = "the mask") -> npt.NDArray[np.uint8]:
        """Turn codes as read from a file into class indices.

        Parameters
        ----------
        codes_HW : array of any number dtype, shape (H, W)
        source : str
            Named in the error.

        Returns
        -------
        uint8 array, shape (H, W)

        Raises
        ------
        SchemeError
            If a value is outside the scheme; lists every such value with its count.
        """
        if self.any_nonzero:
            return np.asarray(codes_HW != 0, np.uint8)
        meaning = {code: index for index, code in enumerate(self.codes)} | dict(self.also_read)
        if codes_HW.dtype == np.uint8:
            # The usual file: one pass through a table instead of one comparison a class.
            table = np.full(256, IGNORE_INDEX, np.uint8)
            for code, index in meaning.items():
                table[code] = index
            index_HW: npt.NDArray[np.uint8] = table[codes_HW]
            unknown_HW = index_HW == IGNORE_INDEX
        else:
            index_HW = np.zeros(codes_HW.shape, np.uint8)
            unknown_HW = np.ones(codes_HW.shape, bool)
            for code, index in meaning.items():
                here_HW = codes_HW == code
                index_HW[here_HW] = index
                unknown_HW &= ~here_HW
        if unknown_HW.any():
            values, counts = np.unique(codes_HW[unknown_HW], return_counts=True)
            listed = ", ".join(f"{v:g} ({n} px)" for v, n in zip(values[:8], counts[:8], strict=True))
            more = f" and {len(values) - 8} more values" if len(values) > 8 else ""
            raise SchemeError(
                f"{source} holds {listed}{more}, which the scheme {self.name} does not know "
                f"(it reads {sorted(meaning)}). Correct the mask, or name the scheme that fits: "
                "`scheme: NAME` in dataset.yaml, or --scheme at the terminal."
            )
        return index_HW

    def encode(self, index_HW: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Turn class indices into the codes written to files; ignored pixels become background.

        Raises
        ------
        SchemeError
            If an index is neither a class of the scheme nor `IGNORE_INDEX`.
        """
        return self._with_codes(index_HW, self.codes).astype(np.uint8)

    def encode_like(
        self, index_HW: npt.NDArray[np.integer], codes_HW: npt.NDArray[np.generic]
    ) -> npt.NDArray[np.generic]:
        """Turn class indices into codes, of the type and in the dialect of an existing mask.

        A mask with 0 and 1 keeps 1 for its class, where the scheme's own code is 255.
        """
        present = set(np.unique(codes_HW).tolist())
        codes = list(self.codes)
        if self.any_nonzero:
            codes[1] = max(present - {0}, default=codes[1])
        for code, index in self.also_read.items():
            if code in present and codes[index] not in present:
                codes[index] = code
        return self._with_codes(index_HW, codes).astype(codes_HW.dtype)

    def _with_codes(self, index_HW: npt.NDArray[np.integer], codes: Sequence[int]) -> npt.NDArray[np.int64]:
        known_HW = (index_HW >= 0) & ((index_HW < self.num_classes) | (index_HW == IGNORE_INDEX))
        if not known_HW.all():
            raise SchemeError(
                f"Class index {np.unique(index_HW[~known_HW]).tolist()} is outside the scheme {self.name} with "
                f"{self.num_classes} classes ({', '.join(self.class_names)}). Use an index of the scheme."
            )
        table = np.full(256, codes[0], np.int64)
        table[: self.num_classes] = codes
        return np.asarray(table[index_HW])


# Glacier blue, debris vermilion, lake violet-blue: apart from each other and from snow, rock and
# cyan ice for the common kinds of colour blindness (hues after Okabe & Ito, 2008).
_FOUR_NAMES = ("background", "glacier", "debris", "lake")
_FOUR_COLORS = ("#5b6470", "#56b4e9", "#d55e00", "#3b2fd0")

SCHEMES: Mapping[str, ClassScheme] = MappingProxyType(
    {
        scheme.name: scheme
        for scheme in (
            ClassScheme("glacier4", _FOUR_NAMES, (0, 85, 170, 255), _FOUR_COLORS),
            ClassScheme("glacier4-index", _FOUR_NAMES, (0, 1, 2, 3), _FOUR_COLORS),
            ClassScheme("glacier2", _FOUR_NAMES[:2], (0, 255), _FOUR_COLORS[:2], also_read=MappingProxyType({1: 1})),
            ClassScheme("salt2", ("background", "salt"), (0, 255), ("#5b6470", "#e69f00"), any_nonzero=True),
        )
    }
)


def get_scheme(name: str) -> ClassScheme:
    """Return the scheme of that name; `SchemeError` lists the known ones."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise SchemeError(f"There is no class scheme {name!r}. Known schemes: {', '.join(SCHEMES)}.") from None


def coarser_classes(fine: Sequence[str], coarse: Sequence[str]) -> tuple[int, ...] | None:
    """Of each class of a model, the class of labels that tell fewer apart; None where there is no saying.

    Labels that know glaciers alone count debris on the ice to them, as inventories do (RGI 7.0), and a lake to the
    background.

    Parameters
    ----------
    fine, coarse : sequence of str
        Class names of the model and of the labels.
    """
    if not set(coarse) <= set(fine) or "background" not in coarse:
        return None
    stands_for = {"debris": "glacier", "lake": "background"}
    named = [name if name in coarse else stands_for.get(name) for name in fine]
    if any(name not in coarse for name in named):
        return None
    return tuple(list(coarse).index(name) for name in named if name is not None)


def coarsening_sentence(fine: Sequence[str], coarse: Sequence[str]) -> str:
    """What a person is told of `coarser_classes`; empty where the classes are the same."""
    into = coarser_classes(fine, coarse)
    if into is None or tuple(fine) == tuple(coarse):
        return ""
    counted = [f"{name} counts as {coarse[k]}" for name, k in zip(fine, into, strict=True) if name != coarse[k]]
    return f"The labels have fewer classes than the model: {', '.join(counted)}."


def infer_scheme(values: Iterable[float], example: str = "") -> ClassScheme:
    """Decide the scheme of five-band data from the values of ALL its masks.

    {0, 255} (or {0, 1}) alone means two classes; codes 85 or 170 mean four; 2 or 3 mean four by index.

    Parameters
    ----------
    values : iterable of float
        Every value that occurs in any mask.
    example : str
        Where an unknown value was seen, for the error.

    Raises
    ------
    SchemeError
        If no glacier scheme reads all the values.
    """
    present = set(values)
    for name in ("glacier2", "glacier4", "glacier4-index"):
        scheme = SCHEMES[name]
        if present <= set(scheme.codes) | set(scheme.also_read):
            return scheme
    known = {float(code) for scheme in SCHEMES.values() for code in scheme.codes}
    odd = sorted(present - known) or sorted(present)
    where = f" (seen in {example})" if example else ""
    raise SchemeError(
        f"The masks hold the values {sorted(present)[:12]}{where}; {odd[:8]} fits no scheme. "
        "Known codes: glacier4 0/85/170/255, glacier4-index 0/1/2/3, glacier2 0/255. "
        "Correct the masks, or name the scheme: `scheme: NAME` in dataset.yaml, or --scheme at the terminal."
    )


def scheme_tags(scheme: ClassScheme) -> dict[str, str]:
    """The items under which a mask's file keeps what each code means, so that a GIS (and `tagged_scheme`) knows."""
    return {f"class_{code}": name for code, name in zip(scheme.codes, scheme.class_names, strict=True)}


def tagged_scheme(tags_of_files: Iterable[Mapping[str, str]]) -> ClassScheme | None:
    """The scheme that the items of all files name; None where one names another, or none that is known."""
    named = [{key: value for key, value in tags.items() if key.startswith("class_")} for tags in tags_of_files]
    alike = bool(named) and all(one == named[0] for one in named)
    return next((scheme for scheme in SCHEMES.values() if alike and scheme_tags(scheme) == named[0]), None)


def scheme_of_masks(first_seen: Mapping[float, Path], what: str = "data set") -> tuple[ClassScheme, tuple[str, ...]]:
    """Decide the scheme of masks by their values, and say what a person should know of the choice.

    Parameters
    ----------
    first_seen : mapping of value to Path
        Every value that occurs in any mask, and a file that holds it.
    what : str
        What the masks make together, in the person's words.

    Raises
    ------
    SchemeError
        If no glacier scheme reads all the values; names a file with an odd one.
    """
    known = {float(code) for scheme in SCHEMES.values() for code in scheme.codes}
    odd = next((path for value, path in first_seen.items() if value not in known), next(iter(first_seen.values())))
    scheme = infer_scheme(first_seen, example=str(odd))
    if scheme.name != "glacier2":
        return scheme, ()
    return scheme, (
        f"The masks hold only {sorted(int(value) for value in first_seen)}: read as two classes (glacier2). "
        f"If they are a part of a four-class {what}, write `scheme: glacier4` into dataset.yaml "
        "(at the terminal also --scheme glacier4).",
    )
