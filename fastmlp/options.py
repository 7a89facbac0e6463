"""The command line of `fastmlp.train`: options declared, checked, and laid over those of a run that goes on.

Nothing heavy is imported here: a wrong option is answered at once, in one line, and costs no training.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NoReturn

from fastmlp import __version__
from fastmlp.optimizers import OPTIMIZERS, SCHEDULES, SGD, Optimizer
from fastmlp.spec import ACTIVATIONS, DTYPES, ENGINES, LOSSES, check_count, check_name, check_number, make_spec

PROGRAM = "fastmlp.train"

SGD_RECIPE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 2e-4}
"""What SGD gets where the command line says nothing; the other optimizers have defaults of their own."""

RESUME_KEEPS = (
    "dataset", "target", "standardize", "hidden", "activation", "loss", "optimizer", "batch_size", "seed", "dtype"
)  # fmt: skip
"""Options that cannot change when a run goes on."""


class UsageError(Exception):
    """The command line is wrong; the message says how, in one line."""


@dataclass(frozen=True)
class Options:
    """The command line, checked. Its defaults are the default recipe; None follows from the data or the optimizer."""

    dataset: str = "mnist"
    target: str | None = None
    standardize: bool = False
    data_dir: str | None = None
    hidden: tuple[int, ...] = (100, 64, 32)
    activation: tuple[str, ...] = ("relu",)
    loss: str | None = None
    optimizer: str = "sgd"
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: str = "one_cycle"
    epochs: int = 10
    batch_size: int = 100
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None
    engine: str = "numba"
    out: str | None = None
    resume: str | None = None
    quiet: bool = False


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        wrong = re.fullmatch(
            r"argument (?:-\w/|--lr/)?--(\S+): (expected one|ignored explicit) argument ?(.*)", message
        )
        if wrong:
            name, how_many = wrong[1].replace("-", "_"), "a" if wrong[2] == "expected one" else "no"
            message = f"{name} must have {how_many} value, got {wrong[3] or 'none'}"
        raise UsageError(message)


def parse_options(argv: Sequence[str]) -> Options:
    """Turn the arguments into `Options`, those of the run to go on with beneath them; raise if one is wrong."""
    parser = make_parser()
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # Its own takes -1e-3 and -5,3 for names of options.
    # --batch_size is --batch-size. Option names are rewritten here and not declared twice, which would double the help.
    dashed = [
        name.replace("_", "-") + equals + value if name.startswith("--") else name + equals + value
        for name, equals, value in (argument.partition("=") for argument in argv)
    ]
    namespace, unknown = parser.parse_known_args(dashed)
    if unknown:
        # Without the dashes: what all names share is no likeness.
        known = {name.lstrip("-"): name for action in parser._actions for name in action.option_strings}
        near = difflib.get_close_matches(unknown[0].partition("=")[0].lstrip("-"), known, n=1)
        hint = f" (did you mean {known[near[0]]}?)" if near else "; --help lists the options"
        raise UsageError(f"unknown argument {unknown[0]!r}{hint}")
    given = vars(namespace)
    for name in ("dataset", "data_dir", "out", "resume"):
        if given.get(name) == "":  # as a path it would be the current folder
            raise UsageError(f"{name} must not be empty, got ''")
    return check_options(resumed_options(given["resume"], given) if "resume" in given else Options(**given))


def check_options(options: Options) -> Options:
    """Check what single values do not show, and give each hidden layer its activation."""
    if len(options.activation) == 1:
        options = replace(options, activation=options.activation * len(options.hidden))
    make_spec((1, *options.hidden, 1), options.activation, None, "squared_error", "mean", True, 1.0, options.dtype)
    make_optimizer(options)
    return options


def resumed_options(folder: str, given: dict[str, Any]) -> Options:
    """Read the options of the run in `folder` and put the given ones over them."""
    from fastmlp.checkpoint import SavedNetwork
    from fastmlp.resuming import CHECKPOINT

    if not os.path.exists(os.path.join(folder, CHECKPOINT)):
        raise UsageError(f"resume must be a folder with the {CHECKPOINT} of a run, got {folder!r}")
    saved = SavedNetwork(os.path.join(folder, CHECKPOINT))
    stored = saved.notes.get("options")
    if saved.state is None or not isinstance(stored, dict):
        raise UsageError(f"resume must be a folder that {PROGRAM} wrote, got {folder!r}")
    try:
        before = stored_options(stored)
    except UsageError as error:
        raise UsageError(f"resume must be a folder that {PROGRAM} wrote, got {folder!r}, where {error}") from None
    for name in RESUME_KEEPS:
        old, new = getattr(before, name), given.get(name, getattr(before, name))
        if name == "dataset":
            new = located(new)
            if os.path.isabs(old) and os.path.isabs(new) and os.path.basename(new) == os.path.basename(old):
                continue  # The same file or folder in another place: what is in it is compared when it has been read.
        if name == "activation" and len(new) == 1:
            new *= len(before.hidden)
        if new != old:
            raise UsageError(f"{name} must stay {spell(old)} when a run is resumed, got {spell(new)}")
    history, epoch = saved.state.history, saved.state.epoch
    n_evaluated = len(history.validation_loss)  # The evaluation of the last may be missing.
    if n_evaluated not in (epoch - 1, epoch) or len(history.validation_accuracy) not in (0, n_evaluated):
        raise UsageError(f"resume must be a folder that {PROGRAM} wrote, got {folder!r}, where evaluations are missing")
    options = replace(before, **{"out": folder, **given})
    has_momentum, momentum = len(saved.state.slots) > 0, getattr(make_optimizer(options), "momentum", None)
    if momentum is not None and (momentum > 0) != has_momentum:
        kept = "> 0" if has_momentum else "0"
        raise UsageError(f"momentum must stay {kept} when a run is resumed, got {momentum:g}")
    if options.epochs < epoch:
        raise UsageError(f"epochs must be >= {epoch} to go on with this run, got {options.epochs}")
    return options


def stored_options(stored: dict[str, Any]) -> Options:
    """Give the options that a file holds, each checked as if it stood on the command line."""
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    if stored.get("hidden") == ():  # A network without hidden layers, and so without activations.
        stored |= {"hidden": "none", "activation": None}
    kept = [field.name for field in fields(Options) if field.name not in ("out", "resume", "quiet")]
    values = {name: stored[name] for name in kept if stored.get(name) is not None and stored[name] is not False}
    arguments = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={spell(value)}") for name, value in values.items()
    ]
    return check_options(Options(**vars(make_parser().parse_args(arguments))))


def spell(value: Any) -> str:
    """Write an option's value as the command line takes it; on one line, whatever a checkpoint may hold."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if text.isprintable() else repr(text)


def located(dataset: str) -> str:
    """Make the path of a data set absolute; a name stays a name."""
    if dataset == "mnist" or dataset.startswith("tfds:"):
        return dataset
    return os.path.abspath(os.path.expanduser(dataset))


def make_parser() -> Parser:
    """Declare the options. Each value is checked by the rule of the library's argument of the same name."""
    parser = Parser(
        prog=f"python -m {PROGRAM}",
        description="Train a multi-layer perceptron. Without arguments: [100, 64, 32] ReLU on the MNIST digits.",
        epilog="Underscores may stand for the dashes within an option: --batch_size 100.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", metavar="NAME", help="mnist (default), a folder of IDX files, a .npz, .csv or "
                       ".parquet file, or tfds:NAME")  # fmt: skip
    group.add_argument("--target", metavar="COLUMN", help="the column of labels in a table")
    group.add_argument("--standardize", action="store_true", help="train on columns of mean 0 and deviation 1; the "
                       "network that is saved takes and gives them as they are")  # fmt: skip
    group.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its prepared copies")

    group = parser.add_argument_group("network")
    group.add_argument("--hidden", type=layers, metavar="N,N,...", help="units of the hidden layers, or none "
                       "(default 100,64,32)")  # fmt: skip
    group.add_argument("--activation", type=activations, metavar="NAME", help="one for all hidden layers, or a comma "
                       f"list: {', '.join(ACTIVATIONS)} (default relu)")  # fmt: skip
    group.add_argument("--loss", type=name_of("loss", LOSSES), metavar="NAME", help=f"{', '.join(LOSSES)} (default: "
                       "softmax_cross_entropy for classes, squared_error for values)")  # fmt: skip
    group.add_argument("--dtype", type=name_of("dtype", DTYPES), metavar="NAME", help="float32 (default) or float64")

    group = parser.add_argument_group("training")
    group.add_argument("--optimizer", type=name_of("optimizer", OPTIMIZERS), metavar="NAME",
                       help=f"{', '.join(OPTIMIZERS)} (default sgd)")  # fmt: skip
    group.add_argument("--lr", "--learning-rate", dest="learning_rate", type=number("learning_rate", above=0.0),
                       metavar="RATE", help="peak learning rate (default 0.1 for sgd, 0.001 for others)")  # fmt: skip
    group.add_argument("--momentum", type=number("momentum", minimum=0.0, below=1.0), metavar="MU",
                       help="of sgd (default 0.9)")  # fmt: skip
    group.add_argument("--weight-decay", type=number("weight_decay", minimum=0.0), metavar="LAMBDA",
                       help="default 2e-4 for sgd, 0.01 for adamw, 0 for the others")  # fmt: skip
    group.add_argument("--schedule", type=name_of("schedule", SCHEDULES), metavar="NAME",
                       help=f"{', '.join(SCHEDULES)} (default one_cycle)")  # fmt: skip
    group.add_argument("--epochs", type=count("epochs", 1), metavar="N", help="passes over the data (default 10)")
    group.add_argument("-b", "--batch-size", type=count("batch_size", 1), metavar="N",
                       help="samples a step (default 100)")  # fmt: skip
    group.add_argument(
        "--seed",
        type=count("seed", 0),
        metavar="N",
        help="of the weights, of the shuffling, and of the draw of a test part (default 0)",
    )

    group = parser.add_argument_group("run")
    group.add_argument("--engine", type=name_of("engine", ENGINES), metavar="NAME",
                       help="numba (default) or numpy")  # fmt: skip
    group.add_argument("--threads", type=count("threads", 1), metavar="N", help="default: what is fastest")
    group.add_argument(
        "--out", metavar="DIR", help="write the model, history, summary, pictures and checkpoints to DIR"
    )
    group.add_argument("--resume", metavar="DIR", help="go on with the run in DIR, with its options; --epochs, "
                       "--schedule, the optimizer's constants, --engine and --threads may change")  # fmt: skip
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    return parser


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a converter whose error argparse hands on as it is."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except ValueError as error:
            raise UsageError(str(error)) from None

    return convert


def count(what: str, minimum: int) -> Callable[[str], Any]:
    """Make a converter to a whole number."""
    return checked(lambda text: check_count(what, to_int(text), minimum))


def number(what: str, **bounds: float) -> Callable[[str], Any]:
    """Make a converter to a number within bounds."""
    return checked(lambda text: check_number(what, to_float(text), **bounds))


def name_of(what: str, known: Sequence[str] | dict[str, Any]) -> Callable[[str], Any]:
    """Make a converter to a known name."""
    return checked(lambda text: check_name(what, text, known))


def layers(text: str) -> tuple[int, ...]:
    """Read the sizes of the hidden layers."""
    if text == "none":
        return ()
    if not text:
        raise UsageError("hidden must be whole numbers or none, got ''")
    return tuple(count("hidden", 1)(size) for size in text.split(","))


def to_int(text: str) -> Any:
    """Read a whole number; anything else stays as it is, for the check to refuse."""
    try:
        return int(text)
    except ValueError:
        return text


def to_float(text: str) -> Any:
    """Read a number; anything else stays as it is, for the check to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


activations = checked(
    lambda text: tuple(check_name("activation", name.strip(), ACTIVATIONS) for name in text.split(","))
)


def make_optimizer(options: Options) -> Optimizer:
    """Build the optimizer, with defaults that fit it."""
    kind = OPTIMIZERS[options.optimizer]
    if options.momentum is not None and kind is not SGD:
        raise UsageError(f"momentum is an option of sgd only, got {options.momentum:g} with {options.optimizer}")
    names = ("learning_rate", "momentum", "weight_decay")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return kind(**{**(SGD_RECIPE if kind is SGD else {}), **given})
