"""The commands around models: `compare`, `promote`, `rollback`, `ensemble`, `import`, `models`."""

import argparse
import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from napari_glacier.core.files import write_text_atomically

if TYPE_CHECKING:
    from napari_glacier.core.models.comparison import Row
    from napari_glacier.nn.comparing import Match
    from napari_glacier.nn.prediction import Progress

Result = TypeVar("Result")
_TITLES = {"all_pixels": "All pixels", "valid_pixels": "Valid pixels"}


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser's."""
    compare = commands.add_parser("compare", help="two models on the tiles that neither has learnt from")
    compare.add_argument(
        "champion", metavar="CHAMPION", help="checkpoint, run folder, ensemble file, bundled, or promoted"
    )
    compare.add_argument("challenger", metavar="CHALLENGER", help="likewise")
    _add_comparing(compare)
    compare.add_argument(
        "--out-of-fold",
        action="store_true",
        help="both are cross-validations of the same folds: compare the maps that they wrote, predict nothing",
    )
    compare.add_argument("--maps", type=Path, metavar="DIR", help="write maps of the changed pixels to a new folder")
    compare.set_defaults(run=_compare)

    promote = commands.add_parser("promote", help="make a model the one that a dataset works with")
    promote.add_argument("challenger", metavar="MODEL", help="checkpoint, run folder, ensemble file, or bundled")
    _add_comparing(promote)
    promote.add_argument("--without-comparison", action="store_true", help="where there is no tile to compare on")
    promote.add_argument("--yes", action="store_true", help="do not ask, whatever the comparison says")
    promote.set_defaults(run=_promote)

    back = commands.add_parser("rollback", help="go back to the model that a dataset worked with before")
    back.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset")
    back.set_defaults(run=_roll_back)

    shelf = commands.add_parser("models", help="the models of a dataset, and which one it works with since when")
    shelf.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset")
    shelf.set_defaults(run=_models)

    ensemble = commands.add_parser("ensemble", help="make one ensemble of several models, with fitted weights")
    ensemble.add_argument("models", nargs="+", metavar="MODEL", help="checkpoints, run folders, ensemble files")
    ensemble.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset whose shelf it goes to")
    ensemble.add_argument("--name", required=True, help="of the new ensemble")
    ensemble.add_argument("--equal", action="store_true", help="equal weights: where there is no tile to fit them on")
    ensemble.add_argument("--tiles", nargs="+", action="extend", metavar="TILE", help="fit on these alone")
    ensemble.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    ensemble.add_argument("--tta", choices=["off", "2", "6", "8"], default="off", help="views (default: off)")
    ensemble.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    ensemble.set_defaults(run=_ensemble)

    foreign = commands.add_parser("import", help="make a model of plain weights of another program")
    foreign.add_argument("weights", type=Path, metavar="FILE", help=".pth or .safetensors with a plain state dict")
    foreign.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset whose shelf it goes to")
    foreign.add_argument("--architecture", metavar="NAME", help="the network; none: only tell what the file holds")
    foreign.add_argument("--encoder", metavar="NAME", help="of the network, where it takes one")
    foreign.add_argument(
        "--argument", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="further ones of the network"
    )
    foreign.add_argument("--channels", nargs="+", metavar="NAME", help="what it looks at (default: the five bands)")
    foreign.add_argument("--classes", metavar="SCHEME", help="class scheme of its outputs (default: the dataset's)")
    foreign.add_argument("--mean", type=float, nargs="+", metavar="X", help="of each channel, as it was trained")
    foreign.add_argument("--std", type=float, nargs="+", metavar="X", help="(default: those of the dataset's pixels)")
    foreign.add_argument(
        "--rename", nargs="+", action="extend", default=[], metavar="OLD=NEW", help="beginnings of tensor names"
    )
    foreign.add_argument("--name", help="of the new model (default: the file's)")
    foreign.add_argument("--check", action="store_true", help="only tell which tensors fit")
    foreign.set_defaults(run=_import)


def _add_comparing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a dataset; its masks are the truth")
    parser.add_argument(
        "--tiles",
        nargs="+",
        action="extend",
        metavar="TILE",
        help="ids of the tiles to compare on (default: all labelled ones that neither model has learnt from)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--scheme", help="class scheme of the masks, where they do not tell")
    parser.add_argument(
        "--tta", choices=["off", "2", "6", "8"], default="off", help="views, the same for both (default: off)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--draws", type=int, default=10_000, metavar="N", help="of the bootstrap (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")


def _compare(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    from napari_glacier.nn.comparing import refuse_used_folder, write_changes

    if options.maps is not None:
        refuse_used_folder(options.maps)
    if options.out_of_fold:
        match = _matched_folds(options)
    else:
        match = _matched(options, _named(options.champion, options), _named(options.challenger, options))
    _print_match(match)
    _write_match(match, options)
    if options.maps is not None:
        from napari_glacier.core.data.dataset import open_dataset

        written = write_changes(match, open_dataset(options.data, options.scheme), options.maps)
        print(f"{len(written)} map(s) of changed pixels in {options.maps}")
    return 0


def _named(name: str, options: argparse.Namespace) -> str:
    """What a model's name stands for: `promoted` is the model that the dataset works with."""
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.models.promotion import BUNDLED, champion

    if name != "promoted":
        return name
    return str(champion(open_dataset(options.data, options.scheme).root).path or BUNDLED)


def _promote(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    from napari_glacier.controllers.models import model_path, model_title
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.core.models.promotion import BUNDLED, BUNDLED_TITLE, HISTORY_FILE, promote, refuse_champion
    from napari_glacier.nn.shelving import model_files

    name, title, model = BUNDLED, BUNDLED_TITLE, None
    if options.challenger != BUNDLED:
        path = model_path(options.challenger)
        name, title = str(path), model_title(path)
        model = model_files(path, title)
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("Promoting is a person's decision: run this in a terminal, which asks, or add --yes.")
    root = open_dataset(options.data, options.scheme).root
    refuse_champion(root, model)
    figures: dict[str, Any] = {}
    if options.without_comparison:
        print("Warning: nothing is known of how this model compares with the one before.")
    else:
        match = _matched(options, _named("promoted", options), name)
        _print_match(match)
        _write_match(match, options)
        figures = match.as_dict()
    if not options.yes and input(f"Let {root.name} work with {title}? [y/N] ").strip().lower() not in {
        "y",
        "yes",
    }:
        print("Nothing was changed.")
        return 1
    entry = promote(root, model, figures)
    print(f"{root} works with {entry.title} ({entry.after}) now; noted in {root / HISTORY_FILE}.")
    return 0


def _roll_back(options: argparse.Namespace) -> int:
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.models.promotion import BUNDLED, roll_back

    root = open_dataset(options.data).root
    entry = roll_back(root)
    stays = "" if entry.before == BUNDLED else f" The model before stays in {root / entry.before}."
    print(f"{root} works with {entry.title} again.{stays}")
    return 0


def _models(options: argparse.Namespace) -> int:
    from napari_glacier.controllers.models import bundled_path
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.models.promotion import read_history
    from napari_glacier.core.models.shelf import find_models

    root = open_dataset(options.data).root
    print(f"{'model':<36}{'kind':<10}{'members':>8}{'val MCC':>9}{'MB':>7}  made")
    for model in find_models(root, bundled_path()):
        mcc = "" if model.val_mcc is None else f"{model.val_mcc:.3f}"
        print(
            f"{model.title:<36}{model.kind:<10}{len(model.members):>8}{mcc:>9}{model.size_mb:>7.1f}  "
            f"{model.problem or model.created}"
        )
    for entry in read_history(root):
        print(f"{entry.time}  {entry.who}: {entry.action} {entry.before} -> {entry.after}")
    return 0


def _ensemble(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    from napari_glacier.controllers.models import model_title
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.core.models.promotion import keep
    from napari_glacier.nn.ensemble import resolve_models
    from napari_glacier.nn.shelving import model_files
    from napari_glacier.nn.weighing import compose, fit_weights

    dataset = open_dataset(options.data, options.scheme)
    names = {(model_title(Path(m)) if Path(m).exists() else m): _named(m, options) for m in options.models}
    if len(names) < max(len(options.models), 2):
        raise ConfigError("Name two models or more, each of another name.")
    files = [model_files(path, name) for name, path in names.items()]
    weights = [1 / len(names)] * len(names)
    if not options.equal:
        run = fit_weights(
            dataset,
            {name: resolve_models(path) for name, path in names.items()},
            tile_ids=options.tiles,
            tta=options.tta,
            device=options.device,
        )
        found = _with_bar(run)
        weights = list(found.weights.values())
        for warning in found.warnings:
            print(f"Note: {warning}", file=sys.stderr)
        print(f"{'':<12}{'fitted':>9}{'equal':>9}   on {found.pixels:,} pixels of {len(found.tiles)} tiles")
        print(f"{'log loss':<12}{found.log_loss:>9.4f}{found.log_loss_equal:>9.4f}")
        print(f"{'MCC':<12}{found.mcc:>9.4f}{found.mcc_equal:>9.4f}   the same pixels that the weights were fitted to")
    for name, weight in zip(names, weights, strict=True):
        print(f"{weight:6.3f}  {name}{'' if weight else '  (left out)'}")
    print(keep(dataset.root, compose(files, weights, options.name)))
    return 0


def _import(options: argparse.Namespace) -> int:
    from napari_glacier.core.bands import CANONICAL_BANDS
    from napari_glacier.core.channels import Normalisation, check_channels
    from napari_glacier.core.classes import get_scheme
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.core.plain_yaml import read_pairs
    from napari_glacier.nn.importing import Wanted, examine, outline, statistics_of, with_default_encoder
    from napari_glacier.nn.shelving import shelve_import

    if options.architecture is None:
        print("\n".join(outline(options.weights)))
        print("Name the network with --architecture.")
        return 0
    dataset = open_dataset(options.data)
    scheme = get_scheme(options.classes) if options.classes is not None else dataset.scheme
    if scheme is None:
        raise ConfigError("The dataset has no masks that tell the classes. Name their scheme with --classes.")
    channels = check_channels(options.channels or list(CANONICAL_BANDS))
    arguments = with_default_encoder(options.architecture, options.encoder, read_pairs(options.argument))
    wanted = Wanted(options.architecture, channels, scheme, arguments, read_pairs(options.rename, values=False))
    fit = examine(options.weights, wanted)
    print("\n".join(fit.lines()))
    if options.check:
        return 0 if fit.is_whole else 2
    if (options.mean is None) != (options.std is None) or len(options.mean or channels) != len(channels):
        raise ConfigError(f"--mean and --std go together, with a number for each of {', '.join(channels)}.")
    if options.mean is not None and (len(options.std) != len(channels) or min(options.std) <= 0):
        raise ConfigError(f"--std takes a number above 0 for each of {', '.join(channels)}.")
    if options.mean is not None:
        normalisation = Normalisation(tuple(options.mean), tuple(options.std))
    else:
        normalisation = statistics_of(dataset, channels)
        print("Note: scaled by the statistics of this dataset; the network may have known others.", file=sys.stderr)
    print(shelve_import(options.weights, wanted, normalisation, dataset.root, options.name or options.weights.stem))
    return 0


def _matched(options: argparse.Namespace, champion: str, challenger: str) -> "Match":
    """Compare with a progress bar."""
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.nn.comparing import compare_models
    from napari_glacier.nn.ensemble import resolve_models

    _check_draws(options)
    run = compare_models(
        open_dataset(options.data, options.scheme),
        resolve_models(champion),
        resolve_models(challenger),
        tile_ids=options.tiles,
        tta=options.tta,
        device=options.device,
        draws=options.draws,
        seed=options.seed,
    )
    return _with_bar(run)


def _matched_folds(options: argparse.Namespace) -> "Match":
    """Compare the maps that two cross-validations wrote."""
    from napari_glacier.core.data.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.nn.comparing_folds import compare_folds

    if options.tiles or options.tta != "off":
        raise ConfigError("--out-of-fold compares maps as they were written: leave out --tiles and --tta.")
    _check_draws(options)
    run = compare_folds(
        open_dataset(options.data, options.scheme),
        Path(options.champion),
        Path(options.challenger),
        draws=options.draws,
        seed=options.seed,
    )
    return _with_bar(run)


def _check_draws(options: argparse.Namespace) -> None:
    from napari_glacier.core.errors import ConfigError

    if options.draws < 1 or options.seed < 0:
        raise ConfigError("--draws is 1 or more, and --seed 0 or more.")


def _write_match(match: "Match", options: argparse.Namespace) -> None:
    """Write the figures where a file was named; after they were printed, lest a bad path lose them."""
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(options.json, json.dumps(match.as_dict(), indent=2, allow_nan=False) + "\n")


def _with_bar(run: "Generator[Progress, None, Result]") -> "Result":
    """Go through a generator with a progress bar; gives what it returns."""
    from tqdm import tqdm

    with tqdm(total=None, disable=None, bar_format="{desc} {percentage:3.0f} %|{bar}|{elapsed}") as bar:
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                result: Result = end.value
                return result
            bar.total = progress.total
            bar.set_description(progress.message[:60], refresh=False)
            bar.update(progress.done - bar.n)


def _print_match(match: "Match") -> None:
    comparison = match.comparison
    for warning in match.warnings:
        print(f"Note: {warning}", file=sys.stderr)
    print(f"champion    {match.champion['name']}\nchallenger  {match.challenger['name']}")
    tiles = [tile.tile for tile in comparison.tiles]
    print(f"tiles       {len(tiles)}: {', '.join(tiles[:12])}{', …' if len(tiles) > 12 else ''}\n")
    for key, rows in comparison.rows.items():
        print(
            f"{_TITLES[key]:<22}{'champion':>10}{'challenger':>12}{'difference':>12}   {comparison.level:.0%} interval"
        )
        for row in rows:
            print(_line(row))
        print()
    changed, right, wrong = (sum(getattr(tile, name) for tile in comparison.tiles) for name in _COUNTS)
    print(f"{changed:,} labelled pixels change: {right:,} are right now, {wrong:,} were right before.")
    print(comparison.caution())
    if comparison.regressions:
        print(f"Warning: {comparison.warning()}")


_COUNTS = ("changed", "right", "wrong")


def _line(row: "Row") -> str:
    title = "MCC" if row.class_name is None else f"{'IoU' if row.score == 'iou' else 'F1'} {row.class_name}"
    values = "".join(
        f"{'absent' if value is None else f'{value:.4f}':>{width}}"
        for value, width in ((row.champion, 10), (row.challenger, 12))
    )
    difference = "" if row.difference is None else f"{row.difference:+.4f}"
    interval = "none" if row.low is None or row.high is None else f"{row.low:+.4f} to {row.high:+.4f}"
    mark = " worse" if row.regresses else ""
    return f"  {title:<20}{values}{difference:>12}   {interval}{mark}"
