"""Train a model without a window.

    python -m training.run --config bundled --train_data sample_data/region       one recipe, one process
    python -m training.run --config my.yaml --set train.epochs=20 seed=3           any key of the configuration
    python -m training.run --config my.yaml --devices 4                            four GPUs (or CPU processes)
    torchrun --nnodes 2 --nproc-per-node 4 --max-restarts 3 -m training.run --config my.yaml      several hosts
    python -m training.run --config my.yaml --set folds=5                          cross-validation
    python -m training.run --resume runs/20260101-120000-bundled                   go on after the last epoch
    python -m training.run --config my.yaml --check                                look at everything, then stop

A run that goes on may change only train.epochs, train.patience, data.workers, device, save_path, loggers and scoring.

The last line on standard output is the run folder. Exit 0: done, or stopped cleanly (SIGTERM, Ctrl-C, or a
file called `stop` in the run folder); 2: bad input, with one sentence on standard error; 1: anything else.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import psutil

from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, save_config, with_absolute_paths
from napari_glacier.core.errors import ConfigError, DeviceError, GlacierError
from napari_glacier.core.processes import own_session
from napari_glacier.core.runfiles import RunFolder

if TYPE_CHECKING:
    from training.start import Start

EXIT_DONE, EXIT_ERROR, EXIT_BAD_INPUT = 0, 1, 2
# For the processes that this one starts through torchrun: who it is.
_STARTED_BY_US = "NAPARI_GLACIER_STARTED"

_FLAGS = {
    "train_data": "data.train",
    "train_masks": "data.train_masks",
    "val_data": "data.val",
    "val_masks": "data.val_masks",
    "scheme": "data.scheme",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "optim.lr",
    "save_path": "save_path",
}


class StopSwitch:
    """Says whether a stop was asked for, by a signal or by the file in the run folder; a context.

    Processes that were started through torchrun stop, too, when the one that holds the run folder for them is gone.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._signalled = False
        self._launcher = os.environ.get(_STARTED_BY_US)

    def __enter__(self) -> "StopSwitch":
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        # A second Ctrl-C is meant.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __call__(self) -> bool:
        if self._launcher is not None and not psutil.pid_exists(int(self._launcher)):
            return True
        return self._signalled or self._folder.stop_requested()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(arguments)
    try:
        return _run(options)
    except GlacierError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        # While libraries and data load, or for the second time.
        sys.stderr.write("Stopped at once. Of a run that had begun, the epochs that were finished are kept.\n")
        return EXIT_ERROR


@contextmanager
def _in_charge(folder: RunFolder) -> Iterator[None]:
    """Be the only trainer of the folder, and tell failures to whoever follows its events.

    Of several processes the first does so; where this program started them, it holds the folder itself.
    """
    with ExitStack() as held:
        if os.environ.get("RANK", "0") == "0":
            ended = None
            if _STARTED_BY_US not in os.environ:
                ended = held.enter_context(folder.claim())
                _tidy(folder)
            held.enter_context(_failures_recorded(folder, ended))
        yield


@contextmanager
def _failures_recorded(folder: RunFolder, ended: dict[str, Any] | None) -> Iterator[None]:
    """Tell of what is wrong in the events: whoever prepared the folder sees no standard error.

    A run that had `ended`, and could not go on, is what it was: a finished one is not lost by asking more of it.
    """
    before = len(folder.events())
    try:
        yield
    except GlacierError as error:
        if ended is not None and len(folder.events()) == before:
            with suppress(OSError):
                folder.append_event("warning", message=str(error))
                folder.put_back(ended)
        else:
            _record_failure(folder, str(error), final=True)
        raise


def _record_failure(folder: RunFolder, message: str, final: bool = False) -> None:
    """Tell whoever follows the run; a final failure is one that the next attempt would meet again."""
    with suppress(OSError):  # where the disk is full, standard error has to do
        folder.append_event("failed", message=message, final=final)


def _run(options: argparse.Namespace) -> int:
    from napari_glacier.nn.device import tune_allocator

    tune_allocator()  # before torch is imported
    if options.check:
        return _check(options)
    if options.resume is not None:
        from training.resume import check_overrides

        check_overrides(_overrides(options), options.resume)
    folder = _given_folder(options)
    with ExitStack() as held:
        config = _configure(options)
        if folder is None and (folder := _folder_of_last_attempt(config)) is not None:
            config = load_config(folder.config_path)
        if folder is not None:
            if _has_given_up(folder):
                return EXIT_ERROR
            held.enter_context(_in_charge(folder))
        resuming = folder is not None and folder.resume_path.is_file()
        from training.folds import check_folds_alone
        from training.start import prepare

        if config.folds is not None or config.members > 1:
            if "WORLD_SIZE" in os.environ and _STARTED_BY_US not in os.environ:
                raise ConfigError(
                    "folds and members are trained one on each GPU, each by a process of its own. Start this without "
                    "torchrun; --devices says on how many."
                )
            if folder is None:  # before one is made for nothing
                if config.folds is not None:
                    check_folds_alone(config)
                prepare(config)
            return _train_many(config, folder, options.devices, held)
        num_processes, chosen = _choose_processes(options.devices, config)
        start = prepare(chosen, resuming=resuming)
        if num_processes > 1 and "WORLD_SIZE" not in os.environ:
            return _launch(start.config, folder, num_processes, held)
        # A run that goes on with --devices cpu does so this time.
        return _train(start, folder, held, config.device if resuming else chosen.device)


def _check(options: argparse.Namespace) -> int:
    from training.check import describe
    from training.folds import FOLDS_FILE

    config, folder = _configure(options), _given_folder(options)
    if config.folds is not None or config.members > 1:
        places = _places(options.devices, config)
        config, at_once = config.model_copy(update={"device": places[0]}), len(places)
    else:
        at_once, config = _choose_processes(options.devices, config)
    sys.stdout.write(describe(config, folder.path / FOLDS_FILE if folder is not None else None, at_once))
    return EXIT_DONE


def _folder_of_last_attempt(config: RunConfig) -> RunFolder | None:
    from training import elastic

    return elastic.remembered(config.output.expanduser().absolute())


def _has_given_up(folder: RunFolder) -> bool:
    """Whether an earlier attempt has failed for a reason that will not go away, so that this one need not begin."""
    from training.elastic import is_restart

    events = folder.events() if is_restart() else []
    return bool(events) and events[-1]["event"] == "failed" and bool(events[-1].get("final"))


def _train(start: "Start", given: RunFolder | None, held: ExitStack, kept_device: str) -> int:
    from training import elastic
    from training.distributed import join_team
    from training.export import export_weights
    from training.reporting import logger, logging_to
    from training.trainer import Trainer
    from training.validation import NonFiniteLossError

    config = start.config
    with join_team(config.device) as team:
        _check_batch(config, team.size)
        kept = config.model_copy(update={"device": kept_device})
        folder = RunFolder(team.from_first(lambda: _open_folder(kept, given, held).path))
        if team.is_first:
            elastic.remember(folder)
        log_path = folder.log_path if team.is_first else None
        with logging_to(log_path, quiet=not team.is_first), StopSwitch(folder) as should_stop:
            try:
                Trainer(start, folder, team, should_stop).fit()
                if team.is_first:
                    folder.clear_stop()  # it has been heard
                    _say_how_to_go_on(folder)
                    if folder.state() == "done":
                        elastic.forget(folder)
                if team.is_first and config.save_path is not None:
                    export_weights(folder, config.save_path)
                team.wait()
            except GlacierError:
                elastic.forget(folder)
                raise
            except Exception as error:  # noqa: BLE001 - told to whoever follows, then an exit code
                logger.exception("Training failed.")
                if team.is_first:
                    # Of several processes one may have died, and this one only lost touch with it.
                    final = team.size == 1 or isinstance(error, NonFiniteLossError)
                    _record_failure(folder, f"{type(error).__name__}: {error}", final)
                sys.stderr.write(f"{error}\n")
                return EXIT_ERROR
    if team.is_first:
        sys.stdout.write(f"{folder.path}\n")
    return EXIT_DONE


def _train_many(config: RunConfig, given: RunFolder | None, devices: str, held: ExitStack) -> int:
    """Train folds or members, each a run of its own in a folder below this one."""
    from training.crossval import run_many
    from training.reporting import logger, logging_to

    places = _places(devices, config)
    folder = _open_folder(config, given, held)
    with logging_to(folder.log_path), StopSwitch(folder) as should_stop:
        try:
            run_many(config, folder, places, should_stop)
            folder.clear_stop()
            _say_how_to_go_on(folder)
        except GlacierError:
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever follows, then an exit code
            logger.exception("Training failed.")
            _record_failure(folder, f"{type(error).__name__}: {error}")
            sys.stderr.write(f"{error}\n")
            return EXIT_ERROR
    if folder.state() == "failed":
        return EXIT_ERROR
    sys.stdout.write(f"{folder.path}\n")
    return EXIT_DONE


def _say_how_to_go_on(folder: RunFolder) -> None:
    from training.reporting import logger

    if folder.state() == "stopped":
        logger.info("To go on: python -m training.run --resume %s", shlex.quote(str(folder.path)))


def _places(devices: str, config: RunConfig) -> list[str]:
    """Devices for models that are trained side by side, one model on each."""
    import torch

    num_gpus = torch.cuda.device_count() if devices != "cpu" and config.device in {"auto", "cuda"} else 0
    if devices in {"auto", "cpu"}:
        return [f"cuda:{number}" for number in range(num_gpus)] or ["cpu" if devices == "cpu" else config.device]
    number = _count_of(devices)
    if num_gpus and number > num_gpus:
        raise DeviceError(f"--devices {number} was asked for; there are {num_gpus} GPUs. Ask for at most that many.")
    return [f"cuda:{place}" for place in range(number)] if num_gpus else [config.device] * number


def _launch(config: RunConfig, given: RunFolder | None, num_processes: int, held: ExitStack) -> int:
    """Start torchrun and wait; a stop asked of this process is passed on through the run folder.

    Where a process dies, torchrun begins again with all of them, and they go on from the last finished epoch.
    """
    from training.elastic import MAX_RESTARTS

    folder = _open_folder(config, given, held)
    command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    command += ["--max-restarts", str(MAX_RESTARTS), "--nproc-per-node", str(num_processes)]
    command += ["-m", "training.run", "--config", str(folder.config_path)]
    # PYTHONSAFEPATH is -P for the processes that torchrun starts.
    environment = {**os.environ, "PYTHONSAFEPATH": "1", _STARTED_BY_US: str(os.getpid())}
    environment.setdefault("OMP_NUM_THREADS", "1")
    # A session of its own: Ctrl-C in the terminal then reaches this process alone, which asks for a clean stop.
    with (
        StopSwitch(folder) as asked_to_stop,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, **own_session()) as process,
    ):
        code = None
        while code is None:
            try:
                code = process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if asked_to_stop():
                    folder.request_stop()
    if code != 0:
        if folder.state() != "failed":
            _record_failure(folder, f"The training processes ended with exit code {code}.")
        return EXIT_ERROR
    sys.stdout.write(f"{folder.path}\n")
    return EXIT_DONE


def _tidy(folder: RunFolder) -> None:
    """Forget what an earlier process of the run left behind."""
    from training.resume import remove_leftovers

    remove_leftovers(folder)
    # A stop asked for since this process was started is meant for it: libraries and data take seconds to load.
    if folder.stop_requested() and (folder.path / "stop").stat().st_mtime < psutil.Process().create_time():
        folder.clear_stop()


def _overrides(options: argparse.Namespace) -> list[str]:
    overrides = list(options.set)
    for flag, key in _FLAGS.items():
        value = getattr(options, flag)
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")
    return overrides


def _configure(options: argparse.Namespace) -> RunConfig:
    if options.resume is not None:
        if not (options.resume / "run.yaml").is_file():
            raise ConfigError(f"{options.resume} is not a run folder: it has no run.yaml. Name the folder of a run.")
        return load_config(options.resume / "run.yaml", _overrides(options))
    config = with_absolute_paths(load_config(options.config or "default", _overrides(options)))
    if config.recipe is None and options.config is not None:
        config.recipe = Path(options.config).stem
    return config


def _given_folder(options: argparse.Namespace) -> RunFolder | None:
    """The folder to resume, or that a window has prepared: a run.yaml in a folder without events."""
    if options.resume is not None:
        return RunFolder(options.resume) if (options.resume / "run.yaml").is_file() else None
    path = Path(options.config or "")
    if path.name != "run.yaml" or not path.is_file():
        return None
    folder = RunFolder(path.parent.absolute())
    return folder if _STARTED_BY_US in os.environ or not folder.events() else None


def _open_folder(config: RunConfig, folder: RunFolder | None, held: ExitStack) -> RunFolder:
    """Write the configuration as used into the run folder; a new one is made, and taken charge of."""
    if folder is None:
        output = config.output.expanduser().absolute()
        try:
            folder = RunFolder.create(output, config.recipe or config.model.name)
        except OSError as error:
            raise ConfigError(f"No run folder can be made in {output} ({error.strerror}). Set output.") from error
        held.enter_context(_in_charge(folder))
    save_config(config, folder.config_path)
    return folder


def _choose_processes(devices: str, config: RunConfig) -> tuple[int, RunConfig]:
    import torch

    if devices == "cpu":
        return 1, config.model_copy(update={"device": "cpu"})
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"]), config
    num_gpus = torch.cuda.device_count() if config.device in {"auto", "cuda"} else 0
    if devices == "auto":
        shared = _shared_out(config).values()
        return max(n for n in range(1, max(num_gpus, 1) + 1) if not any(number % n for number in shared)), config
    number = _count_of(devices)
    if num_gpus and number > num_gpus:
        raise DeviceError(f"--devices {number} was asked for; there are {num_gpus} GPUs. Ask for at most that many.")
    if number > 1 and config.device not in {"auto", "cpu", "cuda"}:
        raise DeviceError(
            f"device is {config.device}, and --devices {number} asks for {number} processes. Set device=auto, or leave "
            "--devices out."
        )
    _check_batch(config, number)
    return number, config


def _count_of(devices: str) -> int:
    if not devices.isdecimal() or int(devices) < 1:
        raise ConfigError(f"--devices {devices} is neither a number of processes nor cpu or auto.")
    return int(devices)


def _check_batch(config: RunConfig, num_processes: int) -> None:
    for key, number in _shared_out(config).items():
        if number % num_processes:
            raise ConfigError(
                f"{key} is {number}, which {num_processes} processes cannot share equally. "
                f"Choose a multiple of {num_processes}."
            )


def _shared_out(config: RunConfig) -> dict[str, int]:
    """What processes that train one model share out among them, by its key."""
    shared = {"train.batch_size": config.train.batch_size}
    if config.sampling.pixels_per_crop is not None:
        shared["train.pixels"] = config.train.pixels
    return shared


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="YAML file, or the name of a recipe")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override keys")
    parser.add_argument("--devices", default="auto", help="number of processes, cpu, or auto (all GPUs)")
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with this run")
    parser.add_argument("--check", action="store_true", help="print versions, devices, data and class mix, then stop")
    parser.add_argument("--train_data", help="data.train")
    parser.add_argument("--train_masks", help="data.train_masks")
    parser.add_argument("--val_data", help="data.val")
    parser.add_argument("--val_masks", help="data.val_masks")
    parser.add_argument("--scheme", help="data.scheme: the class scheme of the masks")
    parser.add_argument("--epochs", type=int, help="train.epochs")
    parser.add_argument("--batch_size", type=int, help="train.batch_size")
    parser.add_argument("--lr", type=float, help="optim.lr")
    parser.add_argument(
        "--save_path", help="also put the best weights here (.safetensors, or .pth: a plain state dict)"
    )
    options = parser.parse_args(arguments)
    if options.config is not None and options.resume is not None:
        parser.error("--resume goes on with the run's own configuration; leave --config out")
    if options.config is None and options.resume is None and options.train_data is None:
        parser.error("give --config FILE or RECIPE, --resume RUN_DIR, or --train_data DIR")
    return options


if __name__ == "__main__":
    sys.exit(main())
