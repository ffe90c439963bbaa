"""The model shelf: what there is, what it says of itself, and what can be made of it. No Qt."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_glacier.controllers.models import bundled_path
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import check_channels
from napari_glacier.core.classes import SCHEMES, get_scheme
from napari_glacier.core.errors import ConfigError, DataError
from napari_glacier.core.models.promotion import BUNDLED, keep
from napari_glacier.core.models.shelf import Card, ShelfModel, find_models
from napari_glacier.core.plain_yaml import read_pairs, write_line
from napari_glacier.core.wording import counted

if TYPE_CHECKING:
    from napari_glacier.nn.importing import Fit, Wanted
    from napari_glacier.nn.prediction import Progress
    from napari_glacier.nn.weighing import Weighing

_KINDS = {"bundled": "bundled", "champion": "★ champion", "kept": "kept", "run": "run", "imported": "imported"}
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ImportForm:
    """What a person fills in to import foreign weights; texts as they were typed."""

    path: Path
    name: str
    architecture: str
    encoder: str
    channels: str
    scheme: str
    arguments: str = ""
    renames: str = ""


class ShelfController:
    """Decides what the model shelf does.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def models(self) -> list[ShelfModel]:
        """The champion, the bundled ensemble, and what the open dataset has, newest first."""
        session = self.workspace.session
        return find_models(session.root if session is not None else None, bundled_path())

    @staticmethod
    def row(model: ShelfModel) -> tuple[str, ...]:
        """Title, kind, validation MCC, megabytes and day, as texts."""
        mcc = "" if model.val_mcc is None else f"{model.val_mcc:.3f}"
        return model.title, _KINDS[model.kind], mcc, f"{model.size_mb:.1f}", model.created

    @staticmethod
    def card_text(model: ShelfModel) -> str:
        """The cards of a model's members, as rich text."""
        if model.problem:
            return f"⚠ {escape(model.problem)}"
        several = len(model.members) > 1
        head = f"<b>{escape(model.title)}</b>" + (f", {counted(len(model.members), 'member')}" if several else "")
        return "<br>".join([head, *(_card_text(card, weight if several else None) for card, weight in model.members)])

    def distil_changes(self, model: ShelfModel) -> tuple[str, ...]:
        """What the recipe ``distill`` is to be changed by, to train one small network on a model's answers.

        Raises
        ------
        ConfigError
            If the model cannot be read, or knows other classes than the open dataset.
        """
        session = self._need_session()
        if model.problem:
            raise ConfigError(model.problem)
        cards = [card for card, _ in model.members]
        for card in cards:
            if tuple(card.classes) != session.scheme.class_names:
                raise ConfigError(
                    f"{model.title} knows the classes {', '.join(card.classes)}; the labels hold "
                    f"{', '.join(session.scheme.class_names)}. Choose a model of the same classes."
                )
        changes = [f"distill.teachers={write_line([str(_source(model))])}"]
        channels = list(dict.fromkeys(name for card in cards for name in card.channels))
        if set(channels) - set(CANONICAL_BANDS):
            # The student is given all that a teacher looks at.
            changes.append(f"data.channels={write_line(channels)}")
        return tuple(changes)

    @property
    def schemes(self) -> list[str]:
        """Class schemes, that of the open dataset first."""
        session = self.workspace.session
        own = session.scheme.name if session is not None else ""
        return sorted(SCHEMES, key=lambda name: name != own)

    usual_channels = ", ".join(CANONICAL_BANDS)

    # -- jobs: generators for a worker thread, closed between steps to cancel

    def compose_job(
        self, models: Sequence[ShelfModel], name: str, *, fitted: bool, device: str
    ) -> "Generator[Progress, None, tuple[Path, Weighing | None]]":
        """Make an ensemble of models and put it on the shelf.

        Raises
        ------
        GlacierError
            If the models do not go together, or there is no tile to fit weights on.
        """
        session = self._need_session()
        if len(models) < 2:
            raise ConfigError("An ensemble is made of two models or more. Tick another one.")
        if not name.strip():
            raise ConfigError("The ensemble needs a name.")
        return _compose(session, list(models), name.strip(), fitted, device)

    def bundle_job(self, model: ShelfModel, out: Path) -> "Generator[Progress, None, str]":
        """Export a model as a bundle that maps tiles by itself; gives a sentence."""
        return _bundle(model, out)

    @staticmethod
    def look_job(path: Path) -> "Generator[Progress, None, tuple[list[str], list[str]]]":
        """What a weight file tells of its network, and the architectures to choose from."""
        return _look(path)

    def check_job(self, form: ImportForm) -> "Generator[Progress, None, Fit]":
        """Which tensors fit the network described."""
        return _check(form)

    def import_job(self, form: ImportForm) -> "Generator[Progress, None, Path]":
        """Import weights onto the shelf, scaled by the statistics of the open dataset."""
        return _import(self._need_session(), form)

    def added(self) -> None:
        """Tell everyone that the shelf has another model; on the GUI thread."""
        self.workspace.models_changed.emit()

    def _need_session(self) -> Any:
        if self.workspace.session is None:
            raise DataError("No dataset is open, and models are kept with one. Open one first (Data widget).")
        return self.workspace.session


def weighing_text(weighing: "Weighing | None") -> str:
    """What fitted weights are worth, in sentences."""
    if weighing is None:
        return "All count alike."
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in weighing.weights.items())
    return (
        f"Weights: {weights}. On {counted(len(weighing.tiles), 'held-out tile')} log loss "
        f"{weighing.log_loss:.4f} (equal weights {weighing.log_loss_equal:.4f}), MCC {weighing.mcc:.3f} "
        f"({weighing.mcc_equal:.3f}); fitted to these same tiles."
    )


def _source(model: ShelfModel) -> str | Path:
    return model.source if model.source is not None else BUNDLED


def _compose(
    session: Any, models: list[ShelfModel], name: str, fitted: bool, device: str
) -> "Generator[Progress, None, tuple[Path, Weighing | None]]":
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.prediction import Progress
    from napari_glacier.nn.shelving import model_files
    from napari_glacier.nn.weighing import compose, fit_weights

    yield Progress(0, 0, "Loading the models", preparing=True)
    titles = [model.title for model in models]
    names = [f"{t} ({titles[: k + 1].count(t)})" if titles.count(t) > 1 else t for k, t in enumerate(titles)]
    files = [model_files(_source(model), title) for model, title in zip(models, names, strict=True)]
    ensembles = {title: resolve_models(_source(model)) for model, title in zip(models, names, strict=True)}
    weighing = None
    weights = [1 / len(models)] * len(models)
    if fitted:
        weighing = yield from fit_weights(session.dataset, ensembles, device=device)
        weights = list(weighing.weights.values())
    return keep(session.root, compose(files, weights, name)), weighing


def _bundle(model: ShelfModel, out: Path) -> "Generator[Progress, None, str]":
    from napari_glacier.nn.bundle import write_bundle
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.prediction import Progress

    yield Progress(0, 0, f"Writing the bundle of {model.title}", preparing=True)
    return "\n".join(write_bundle(resolve_models(_source(model)), out).lines())


def _look(path: Path) -> "Generator[Progress, None, tuple[list[str], list[str]]]":
    from napari_glacier.nn.importing import outline
    from napari_glacier.nn.prediction import Progress
    from napari_glacier.nn.zoo import model_names

    yield Progress(0, 0, f"Reading {path.name}", preparing=True)
    return outline(path), list(model_names())


def _check(form: ImportForm) -> "Generator[Progress, None, Fit]":
    from napari_glacier.nn.importing import examine
    from napari_glacier.nn.prediction import Progress

    yield Progress(0, 0, "Building the network", preparing=True)
    return examine(form.path, _wanted(form))


def _import(session: Any, form: ImportForm) -> "Generator[Progress, None, Path]":
    from napari_glacier.nn.importing import statistics_of
    from napari_glacier.nn.prediction import Progress
    from napari_glacier.nn.shelving import shelve_import

    wanted = _wanted(form)
    yield Progress(0, 0, "Reading the statistics of the dataset", preparing=True)
    statistics = statistics_of(session.dataset, wanted.channels)
    yield Progress(0, 0, "Writing the model", preparing=True)
    return shelve_import(form.path, wanted, statistics, session.root, form.name.strip() or form.path.stem)


def _wanted(form: ImportForm) -> "Wanted":
    from napari_glacier.nn.importing import Wanted, with_default_encoder

    arguments = with_default_encoder(
        form.architecture, form.encoder.strip() or None, read_pairs(_parts(form.arguments))
    )
    channels = check_channels([name for name in form.channels.replace(",", " ").split() if name])
    renames = read_pairs(_parts(form.renames), values=False)
    return Wanted(form.architecture, channels, get_scheme(form.scheme), arguments, renames)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _card_text(card: Card, weight: float | None) -> str:
    name = f"{card.architecture} {card.encoder}".strip()
    facts = [
        ("", f"<i>{escape(card.name)}</i>, weight {weight:.2f}" if weight is not None else escape(card.name)),
        ("Network", f"{name}, {card.size_mb:.1f} MB"),
        ("Looks at", ", ".join(card.channels)),
        ("Tells apart", ", ".join(card.classes)),
        ("Learnt from", (card.data or _UNKNOWN) + (" (synthetic)" if card.synthetic else "")),
        ("Knows its tiles", f"{card.num_seen} by fingerprint" if card.num_seen else "does not say which"),
        ("Recipe", card.recipe or _UNKNOWN),
        ("Validation MCC", _UNKNOWN if card.val_mcc is None else f"{card.val_mcc:.3f}, on its own validation tiles"),
        ("Made", card.created[:10] or _UNKNOWN),
    ]
    return "<br>".join(
        escape(title) + (": " if title else "") + (text if not title else escape(text)) for title, text in facts
    )
