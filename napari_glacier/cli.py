"""`napari-glacier …`: everything the plugin does, without a window.

Exit code 0 done, 2 bad input (one sentence says what and the mend), 1 anything else.
"""

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_glacier import __version__, cli_data, cli_inventory, cli_models
from napari_glacier.core.errors import ConfigError, GlacierError
from napari_glacier.core.files import write_text_atomically

if TYPE_CHECKING:
    from napari_glacier.nn.batch import Job, Report

# What the system says of a path that was given wrong: no folder, a file in its place, not for this person, read-only.
_OF_THE_PATH = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    if not options.verbose:
        # What it finds wrong with a file is said in a sentence of ours, once.
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        return int(options.run(options))
    except GlacierError as error:
        print(f"napari-glacier {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe (head, less) has seen enough; stdout is put out of the way of the last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"napari-glacier {options.command}: {_in_words(error)}", file=sys.stderr)
        return 2 if error.errno in _OF_THE_PATH else 1
    except KeyboardInterrupt:
        again = " The same command goes on from here." if options.command in {"predict", "prepare"} else ""
        print(f"Stopped. What was written so far is whole.{again}", file=sys.stderr)
        return 1


def _in_words(error: OSError) -> str:
    """What the system refused, and the mend where the path is at fault."""
    what = f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror or error}."
    return f"{what} Name another file or folder, or make this one yours." if error.errno in _OF_THE_PATH else what


def _predict(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    job = _job(options)
    reports: list[Report] = []
    said: set[str] = set()
    for report in _mapped_here(job) if options.scheduler is None else _mapped_on_cluster(job, options.scheduler):
        reports.append(report)
        # Of a thousand tiles most say the same.
        _print_warnings([warning for warning in report.warnings if warning not in said])
        said.update(report.warnings)
        if report.problem:
            print(f"Failed: {report.scene}: {report.problem}", file=sys.stderr)
    there = sum(report.was_there for report in reports)
    if there:
        scenes = "1 scene was" if there == 1 else f"{there} scenes were"
        print(f"{scenes} there already, made by these models and settings. To map again, delete the masks.")
    written = sum(len(report.written) for report in reports)
    print(f"{written} {'file' if written == 1 else 'files'} written to {options.out}")
    failed = [report.scene for report in reports if report.problem]
    if failed:
        print(f"{len(failed)} of {len(reports)} failed: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _job(options: argparse.Namespace) -> "Job":
    from napari_glacier.nn.batch import Job
    from napari_glacier.nn.cleaning import Cleaning

    settings = {
        "tta": None if options.tta is None else _tta(options.tta),
        "device": options.device,
        "cleaning": Cleaning(
            crf_iterations=options.crf,
            opening_px=options.opening,
            closing_px=options.closing,
            minimum_component_px=100 if options.clean else 0,
            fill_holes_px=50 if options.clean else 0,
        ),
        "engine": options.engine,
        "compile": options.compile,
    }
    if options.threshold:
        settings["thresholds"] = _thresholds(options.threshold)
    return Job(
        data=options.data.expanduser().absolute(),
        out=options.out.expanduser().absolute(),
        models=tuple(map(_model_name, options.model or ())),
        scheme=options.scheme,
        mosaic=options.mosaic,
        settings=tuple(settings.items()),
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        votes=options.votes,
    )


def _mapped_on_cluster(job: "Job", scheduler: str) -> "Iterator[Report]":
    from tqdm import tqdm

    from napari_glacier.nn.batch import ClusterBatch

    cluster = ClusterBatch(job, scheduler)
    _print_warnings(cluster.warnings)
    yield from cluster.failed
    print(f"Progress page: {cluster.progress_page}", file=sys.stderr)
    with tqdm(total=cluster.num_scenes, unit="scene", disable=None) as bar:
        for report in cluster.run():
            bar.update()
            yield report


def _mapped_here(job: "Job") -> "Iterator[Report]":
    from tqdm import tqdm

    from napari_glacier.nn.batch import Batch, Report

    batch = Batch(job)
    _print_warnings(batch.warnings)
    yield from batch.failed
    for scene in batch.scenes:
        run = batch.map(scene)
        with tqdm(total=None, unit="window", desc=scene.name, disable=None) as bar:
            while True:
                try:
                    progress = next(run)
                except StopIteration as end:
                    yield end.value
                    break
                except GlacierError as error:
                    if len(batch.scenes) == 1:
                        raise
                    yield Report(scene.name, problem=str(error))
                    break
                bar.total = progress.total
                bar.update(progress.done - bar.n)


def _model_name(name: str) -> str:
    """A path that means the same in another process's folder; names as they are."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name and path.exists() else name


def _evaluate(options: argparse.Namespace) -> int:
    from napari_glacier.core.evaluation import evaluate_folders

    result = evaluate_folders(options.pred, options.truth, options.data, options.scheme, options.glacier_classes)
    for title, key in (("All pixels", "all_pixels"), ("Valid pixels", "valid_pixels")):
        if result[key] is not None:
            print(_metrics_table(title, result[key]))
    _write_json(options.json, result)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from napari_glacier.core.doctor import examine

    diagnosis = examine(options.directory, options.scheme)
    if options.model:
        from napari_glacier.nn.drift import scale_findings
        from napari_glacier.nn.ensemble import resolve_models

        cards = [member.card for member in resolve_models(options.model).members]
        diagnosis = diagnosis.with_findings(scale_findings(diagnosis, cards))
    for key, value in diagnosis.summary.items():
        if value not in (None, [], {}):
            print(f"{key.replace('_', ' '):>15}  {_plain(value)}")
    for finding in diagnosis.findings:
        print(f"{finding.severity:>15}  {f'tile {finding.tile}: ' if finding.tile else ''}{finding.text}")
    if diagnosis.exit_code == 0:
        print(f"{'clean':>15}  nothing to mend")
    _write_json(options.json, diagnosis.as_dict())
    return diagnosis.exit_code


def _bundle(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()
    from napari_glacier.nn.bundle import write_bundle
    from napari_glacier.nn.ensemble import resolve_models

    report = write_bundle(
        resolve_models(options.model),
        options.out,
        data=options.data,
        max_mb=options.max_mb,
        tta=None if options.tta is None else _tta(options.tta),
        device=options.device,
    )
    print("\n".join(report.lines()))
    return 0


def _demo(options: argparse.Namespace) -> int:
    if find_spec("napari") is None:
        raise GlacierError(
            "The demo opens a window, and napari is not installed. Run: pip install 'napari-glacier[gui]'"
        )
    from napari_glacier.demo import open_demo, walk_demo

    return walk_demo(options.out) if options.walk else open_demo(options.out)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="predict the class mask of every tile of a folder")
    predict.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of tiles, or one TIFF")
    predict.add_argument("--out", type=Path, required=True, metavar="DIR", help="where masks go, under Band1's names")
    predict.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="NAME|PATH",
        help="checkpoints, run folders or an ensemble file (default: the model promoted for the data, else the bundled "
        "ensemble)",
    )
    predict.add_argument(
        "--tta",
        choices=["off", "2", "6", "8"],
        help="test-time augmentation views (default: those of the ensemble file, else 6)",
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    predict.add_argument(
        "--threshold",
        nargs="+",
        action="extend",
        metavar="CLASS=P",
        help="a class may be chosen from this probability on, as in glacier=0.4 (default: those of the ensemble file)",
    )
    predict.add_argument("--scheme", help="class scheme of the dataset's masks, where they do not tell")
    cli_data.add_mosaic_rule(predict)
    predict.add_argument("--probabilities", action="store_true", help="write class probabilities, too")
    predict.add_argument("--uncertainty", action="store_true", help="write entropy and mutual information, too")
    predict.add_argument("--votes", action="store_true", help="write the class that each member alone gives, too")
    predict.add_argument("--clean", action="store_true", help="remove patches under 100 px, fill holes under 50 px")
    predict.add_argument("--opening", type=int, default=0, metavar="PX", help="remove what is thinner than twice this")
    predict.add_argument("--closing", type=int, default=0, metavar="PX", help="close gaps narrower than twice this")
    predict.add_argument(
        "--crf", type=int, default=0, metavar="STEPS", help="draw outlines to those in the image by a CRF (3 to 5)"
    )
    predict.add_argument(
        "--engine",
        choices=["auto", "torch", "openvino", "openvino-int8"],
        default="auto",
        help="what computes (default: OpenVINO on a CPU where it is installed, else torch); int8: faster, less exact",
    )
    predict.add_argument("--compile", action="store_true", help="let torch compile the networks it computes")
    predict.add_argument(
        "--scheduler",
        metavar="local[:N]|ADDRESS",
        help="spread the scenes over a dask cluster: workers of this machine, or tcp://host:8786",
    )
    predict.add_argument("--masks", help=argparse.SUPPRESS)  # accepted and unused: some graders pass it
    predict.set_defaults(run=_predict)


def _add_change(commands: Any) -> None:
    change = commands.add_parser("change", help="compare masks of two dates: areas, gains, losses, and a map")
    change.add_argument("before", type=Path, metavar="A", help="a mask, a folder of masks, or a dataset (its labels)")
    change.add_argument("after", type=Path, metavar="B", help="the same of a later date")
    change.add_argument("--out", type=Path, required=True, metavar="DIR", help="where maps and tables go")
    change.add_argument("--scheme", help="class scheme of the masks, where their values do not tell")
    change.add_argument(
        "--scenes", type=Path, nargs=2, metavar=("A", "B"), help="the data of both dates: tell where nothing was seen"
    )
    change.add_argument("--clear", action="store_true", help="with --scenes: leave out clouds and their shadows")
    change.set_defaults(run=_change)


def _change(options: argparse.Namespace) -> int:
    from napari_glacier.core.inventory.change import compare_dates

    if options.clear and not options.scenes:
        raise GlacierError("--clear needs the scenes, which know the clouds. Add --scenes A B.")
    scenes = None if options.scenes is None else (options.scenes[0], options.scenes[1])
    change = compare_dates(
        options.before, options.after, options.out, scheme=options.scheme, scenes=scenes, clear_only=options.clear
    )
    _print_warnings(change.warnings)
    unit = "px" if change.areas_m2 is None else "km2"
    columns = [f"{name}_{unit}" for name in ("before", "after", "gained", "lost")]
    print(f"{'class':<12}" + "".join(f"{column.replace('_', ' '):>14}" for column in columns) + f"{'change':>10}")
    for row in change.rows():
        cells = "".join(f"{row[column]:14,.3f}" if unit == "km2" else f"{row[column]:14,}" for column in columns)
        share = row["change_percent"]
        print(f"{row['class']:<12}{cells}{_in_percent(share, row):>10}")
    print(f"{change.unseen:,} pixels not seen at both dates; {len(change.maps)} map(s) and tables in {options.out}")
    return 0


def _in_percent(share: float | None, row: dict[str, Any]) -> str:
    """A class's change; nothing for one that neither date has."""
    return f"{share:+.1f} %" if share is not None else "new" if row["after_px"] else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="napari-glacier",
        description="Map glaciers from five-band Landsat tiles.",
        epilog="Training is a program of its own: python -m training.run --help",
    )
    parser.add_argument("--version", action="version", version=f"napari-glacier {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is done")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_predict(commands)
    evaluate = commands.add_parser("evaluate", help="compare predicted masks with true ones")
    evaluate.add_argument("--pred", type=Path, required=True, metavar="DIR", help="predicted masks")
    evaluate.add_argument(
        "--truth", type=Path, required=True, metavar="DIR", help="true masks, or a dataset (its labelled tiles)"
    )
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="the tiles: tells which pixels are valid")
    evaluate.add_argument("--scheme", help="class scheme of both folders (default: decided over their masks)")
    evaluate.add_argument(
        "--glacier-classes", nargs="+", metavar="CLASS", help="four-class map against two-class truth"
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    evaluate.set_defaults(run=_evaluate)

    doctor = commands.add_parser("doctor", help="say what is wrong with a folder of tiles")
    doctor.add_argument("directory", type=Path, metavar="DIR")
    doctor.add_argument("--scheme", help="class scheme of the masks")
    doctor.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="NAME|PATH",
        help="also compare the values with those that these models were trained on",
    )
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the findings to a file")
    doctor.set_defaults(run=_doctor)

    bundle = commands.add_parser("bundle", help="write a folder that maps tiles where this package is not installed")
    bundle.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="NAME|PATH",
        help="checkpoints, run folders or an ensemble file (default: the bundled ensemble)",
    )
    bundle.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder, or an old bundle")
    bundle.add_argument("--data", type=Path, metavar="DIR", help="tiles on which float16 is compared with float32")
    bundle.add_argument(
        "--max-mb",
        "--max_mb",
        type=float,
        metavar="N",
        help="limit of the folder (default: 200 for a model, 300 for several)",
    )
    bundle.add_argument(
        "--tta",
        choices=["off", "2", "6", "8"],
        help="views that solution.py averages (default: those of the ensemble file, else 6)",
    )
    bundle.add_argument("--device", default="auto", help="where the comparison runs: auto, cpu, cuda, cuda:N or mps")
    bundle.set_defaults(run=_bundle)

    cli_data.add_commands(commands)
    cli_inventory.add_commands(commands)
    cli_models.add_commands(commands)
    _add_change(commands)

    demo = commands.add_parser("demo", help="open the bundled sample region with its prediction, ready to correct")
    demo.add_argument("--out", type=Path, default=Path("demo_output"), metavar="DIR", help="working copy and results")
    demo.add_argument("--walk", action="store_true", help="walk the whole job by itself and write a summary")
    demo.set_defaults(run=_demo)
    return parser


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        if path.is_dir():
            raise GlacierError(f"{path} is a folder. Name a file in it with --json, such as {path / 'result.json'}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, json.dumps(content, indent=2) + "\n")


def _tta(text: str) -> Any:
    return text if text == "off" else int(text)


def _thresholds(texts: Sequence[str]) -> dict[str, float]:
    """`CLASS=P` texts as a mapping."""
    thresholds = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            thresholds[name] = float(number)
        except ValueError:
            raise ConfigError(
                f"--threshold {text} is not of the form CLASS=P. Write for example glacier=0.4."
            ) from None
    return thresholds


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"Note: {warning}", file=sys.stderr)


def _metrics_table(title: str, metrics: dict[str, Any]) -> str:
    columns = ("mcc", "iou", "f1", "precision", "recall")
    rows = [f"{title:<14}" + "".join(f"{column:>11}" for column in columns)]
    for name, values in (("overall", metrics), *metrics["per_class"].items()):
        cells = (f"{values[c]:11.4f}" if values[c] is not None else f"{'absent':>11}" for c in columns)
        rows.append(f"  {name:<12}" + "".join(cells))
    return "\n".join(rows) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
