"""The commands around models: `compare`, `promote`, `rollback`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_glacier.core.files import write_text_atomically

if TYPE_CHECKING:
    from napari_glacier.core.comparison import Row
    from napari_glacier.nn.comparing import Match

_TITLES = {"all_pixels": "All pixels", "valid_pixels": "Valid pixels"}


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser's."""
    compare = commands.add_parser("compare", help="two models on the tiles that neither has learnt from")
    compare.add_argument(
        "champion", metavar="CHAMPION", help="checkpoint, run folder, ensemble file, bundled, or promoted"
    )
    compare.add_argument("challenger", metavar="CHALLENGER", help="likewise")
    _add_comparing(compare)
    compare.add_argument("--maps", type=Path, metavar="DIR", help="write maps of the changed pixels to a new folder")
    compare.set_defaults(run=_compare)

    promote = commands.add_parser("promote", help="make a model the one that a dataset works with")
    promote.add_argument("challenger", metavar="MODEL", help="checkpoint, run folder or ensemble file")
    _add_comparing(promote)
    promote.add_argument("--without-comparison", action="store_true", help="where there is no tile to compare on")
    promote.add_argument("--yes", action="store_true", help="do not ask, whatever the comparison says")
    promote.set_defaults(run=_promote)

    back = commands.add_parser("rollback", help="go back to the model that a dataset worked with before")
    back.add_argument("--data", type=Path, required=True, metavar="DIR", help="the dataset")
    back.set_defaults(run=_roll_back)


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
    match = _matched(options, _named(options.champion, options), _named(options.challenger, options))
    _print_match(match)
    if options.maps is not None:
        from napari_glacier.core.dataset import open_dataset

        written = write_changes(match, open_dataset(options.data, options.scheme), options.maps)
        print(f"{len(written)} map(s) of changed pixels in {options.maps}")
    return 0


def _named(name: str, options: argparse.Namespace) -> str:
    """What a model's name stands for: `promoted` is the model that the dataset works with."""
    from napari_glacier.core.dataset import open_dataset
    from napari_glacier.core.promotion import BUNDLED, champion

    if name != "promoted":
        return name
    return str(champion(open_dataset(options.data, options.scheme).root).path or BUNDLED)


def _promote(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    from napari_glacier.controllers.models import model_path, model_title
    from napari_glacier.core.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.core.promotion import HISTORY_FILE, promote
    from napari_glacier.nn.ensemble import model_files

    path = model_path(options.challenger)
    model = model_files(path, model_title(path))
    if not options.yes and not sys.stdin.isatty():
        raise ConfigError("Promoting is a person's decision: run this in a terminal, which asks, or add --yes.")
    root = open_dataset(options.data, options.scheme).root
    figures: dict[str, Any] = {}
    if options.without_comparison:
        print("Warning: nothing is known of how this model compares with the one before.")
    else:
        match = _matched(options, _named("promoted", options), str(path))
        _print_match(match)
        figures = match.as_dict()
    if not options.yes and input(f"Let {root.name} work with {model.title}? [y/N] ").strip().lower() not in {
        "y",
        "yes",
    }:
        print("Nothing was changed.")
        return 1
    entry = promote(root, model, figures)
    print(f"{root} works with {entry.title} ({entry.after}) now; noted in {root / HISTORY_FILE}.")
    return 0


def _roll_back(options: argparse.Namespace) -> int:
    from napari_glacier.core.dataset import open_dataset
    from napari_glacier.core.promotion import roll_back

    root = open_dataset(options.data).root
    entry = roll_back(root)
    print(f"{root} works with {entry.title} again. The model before stays in {root / entry.before}.")
    return 0


def _matched(options: argparse.Namespace, champion: str, challenger: str) -> "Match":
    """Compare with a progress bar, and write the figures where a file was named."""
    from tqdm import tqdm

    from napari_glacier.core.dataset import open_dataset
    from napari_glacier.core.errors import ConfigError
    from napari_glacier.nn.comparing import compare_models
    from napari_glacier.nn.ensemble import resolve_models

    if options.draws < 1 or options.seed < 0:
        raise ConfigError("--draws is 1 or more, and --seed 0 or more.")
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
    with tqdm(total=None, disable=None, bar_format="{desc} {percentage:3.0f} %|{bar}|{elapsed}") as bar:
        while True:
            try:
                progress = next(run)
            except StopIteration as end:
                match: Match = end.value
                break
            bar.total = progress.total
            bar.set_description(progress.message[:60], refresh=False)
            bar.update(progress.done - bar.n)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(options.json, json.dumps(match.as_dict(), indent=2, allow_nan=False) + "\n")
    return match


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
