"""``python -m fastmlp.train``: arguments in, a trained network and a report out; nothing else.

The arguments are read in `fastmlp.options`; what the run prints and draws is in `fastmlp.report`, what it writes in
`fastmlp.folder`.
"""

from __future__ import annotations

import sys


def interrupted() -> int:
    """Answer a Ctrl-C that leaves nothing to keep."""
    # CPython dies by SIGINT at its end if a KeyboardInterrupt came out of the last `exec` of a string, as dataclasses
    # and Numba do it: another `exec` makes it forget.
    exec("")
    print("fastmlp.train: error: interrupted", file=sys.stderr)
    return 130


try:
    import json
    import os
    from collections.abc import Callable, Sequence
    from dataclasses import asdict, replace
    from typing import TYPE_CHECKING, Any
    from zlib import crc32

    import numpy as np
    from numpy.typing import NDArray

    from fastmlp import __version__
    from fastmlp.datasets import are_whole
    from fastmlp.divergence import DivergenceError
    from fastmlp.folder import RunFolder
    from fastmlp.optimizers import Optimizer
    from fastmlp.options import PROGRAM, Options, UsageError, located, make_optimizer, parse_options, spell
    from fastmlp.report import Reporter
    from fastmlp.resuming import CHECKPOINT
    from fastmlp.spec import LOSSES, shown
    from fastmlp.stopping import StopRequest
except KeyboardInterrupt:  # Ctrl-C in the first moments: `main` is not there yet to answer it
    sys.exit(interrupted())

if TYPE_CHECKING:
    from fastmlp.datasets import Dataset
    from fastmlp.network import MLP
    from fastmlp.recipe import History, Progress, TrainingState

    Array = NDArray[Any]

MOST_BYTES = 800_000
"""Of the names of features in a model file, whose header may have a million; as it is JSON in JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if None.

    Returns
    -------
    int
        The exit status: 0, also for a run that was stopped and kept what it had learnt; 2 for what the user got
        wrong, with one line on standard error; 130 for a Ctrl-C that left nothing to keep.
    """
    try:
        run(parse_options(sys.argv[1:] if argv is None else argv))
        return 0
    except KeyboardInterrupt:
        return interrupted()
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename is not None else str(error))
    except MemoryError as error:
        return fail(f"not enough memory: {error}")
    except (UsageError, ValueError, ImportError, ArithmeticError) as error:
        return fail(str(error))


def fail(message: str) -> int:
    """Print one line on standard error."""
    print(f"{PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def run(options: Options) -> None:
    """Train, write and report."""
    reporter = Reporter(options.quiet)
    folder = None if options.out is None else RunFolder(options.out, options.resume, reporter)
    data = load_data(options)
    if options.loss is None and may_be_classes(data):
        reporter.say(
            f"the labels of {data.name} are whole numbers with a decimal point, which count as values; if they are "
            "classes: --loss softmax_cross_entropy"
        )
    options = replace(options, loss=choose_loss(options.loss, data))
    checksum = checksum_of(data)
    make_raw = standardize_columns(options, data, reporter)
    net, state = begin_or_resume(options, data, checksum)
    about = {"class_names": data.class_names, "image_shape": data.image_shape, "feature_names": names_to_save(data)}
    net.notes = about | {
        "n_train": len(data.X_train),
        "checksum": checksum,
        "options": asdict(options) | {"dataset": located(options.dataset), "out": None, "resume": None},
    }
    optimizer = make_optimizer(options)
    reporter.say(headline(net, data, options))
    latest: list[Progress] = []

    def on_stop() -> None:
        if not latest:  # compiling cannot be broken off, and may take a while
            reporter.say("stopping after compilation and the first step; Ctrl-C again stops at once")

    stop = StopRequest(on_stop)

    # The folder is taken before the first checkpoint, which `fit` writes at the end of an epoch or of the run, after
    # its callbacks.
    def on_progress(progress: Progress) -> bool:
        latest[:] = [progress]
        reporter.progress(progress)
        if stop.by and folder is not None:
            folder.take()
        return bool(stop.by) or (reporter.closed and folder is None)

    def on_epoch(history: History) -> None:
        reporter.epoch(history, options.epochs)
        if folder is not None:
            folder.take()

    if folder is not None and state.epoch == options.epochs:  # over, but perhaps killed before its last files
        folder.take()
    n_train = len(data.X_train)
    with stop:
        reporter.begin(n_train, options.epochs, samples_done(state, options, n_train))
        try:
            # A run that diverges is told of by an error; NumPy's warnings would come before it.
            with np.errstate(over="ignore", invalid="ignore"):
                net.fit(
                    data.X_train, data.y_train, options.epochs, options.batch_size, optimizer, options.schedule,
                    validation_data=(data.X_test, data.y_test), threads=options.threads, callbacks=[on_epoch],
                    progress=on_progress, state=state, checkpoint=options.out,
                )  # fmt: skip
        except DivergenceError as error:
            advice = ", as --standardize does" if may_standardize(options, data) else ""
            left = "" if folder is None else f"; {folder.what_is_left(error)}"
            raise UsageError(f"{error}{advice}{left}") from None
        finally:
            reporter.end()
        train_loss = latest[0].loss if latest else state.history.train_loss[-1]
        summary = summarise(net, data, options, optimizer, state, train_loss)
        summary |= make_raw(net)
        net.notes = about  # The rest was for going on.
        files = [] if folder is None else folder.write_files(net, data, state.history, summary)
        reporter.table(summary, len(data.X_test), options.out, files)
        if not summary["stopped"] and has_learnt_nothing(summary, data):
            answer = "the mean" if data.class_names is None else "one class"
            reporter.say(
                f"it seems to have learnt nothing: to answer always with {answer} would be as good; "
                f"try {what_to_try(options, data)}"
            )
        if summary["stopped"]:
            kept = f"; go on with --resume {options.out}" if folder is not None else ""
            reporter.say(f"stopped by {stop.by} after {summary['epochs_done']:.3g} of {options.epochs} epochs{kept}")


def load_data(options: Options) -> Dataset:
    """Read the data set, its pixels as bytes."""
    from fastmlp.datasets import load_dataset

    return load_dataset(
        options.dataset, raw=True, target=options.target, seed=options.seed, data_dir=options.data_dir,
        as_values=options.loss is not None and not LOSSES[options.loss].is_classifier,
        as_classes=options.loss is not None and LOSSES[options.loss].is_classifier, dtype=options.dtype,
    )  # fmt: skip


def may_be_classes(data: Dataset) -> bool:
    """Whether values are so few and whole that they may stand for classes."""
    return data.class_names is None and are_whole(data.y_train) and len(np.unique(data.y_train)) <= 20


def choose_loss(loss: str | None, data: Dataset) -> str:
    """Take the loss that follows from the data, or check that the given one can be used with it."""
    if data.class_names is None:
        if loss == "softmax_cross_entropy":
            raise UsageError(f"loss must be one of values for {data.name}, such as squared_error or huber, got {loss}")
        if loss == "sigmoid_cross_entropy" and not (data.y_train.min() >= 0.0 and data.y_train.max() <= 1.0):
            lowest, highest = data.y_train.min(), data.y_train.max()
            raise UsageError(f"labels must be in [0, 1] for {loss}, got {lowest:g} to {highest:g} in {data.name}")
        return loss or "squared_error"
    n_classes = len(data.class_names)
    if n_classes < 2:
        raise UsageError(f"target must hold at least 2 classes, got {n_classes} in {data.name}")
    loss = loss or "softmax_cross_entropy"
    if not LOSSES[loss].is_classifier or (loss == "sigmoid_cross_entropy" and n_classes != 2):
        raise UsageError(
            f"loss must be softmax_cross_entropy for {data.name}, which has {n_classes} classes, got {loss}"
        )
    return loss


def names_to_save(data: Dataset) -> Sequence[str] | None:
    """Give the names of the features for the model's notes, which have little room; None if they would fill it."""
    return None if len(json.dumps(json.dumps(data.feature_names))) > MOST_BYTES else data.feature_names


def holds_images(data: Dataset) -> bool:
    """Whether the samples are images, or pixels without a shape."""
    return data.image_shape is not None or data.X_train.dtype == np.uint8


def may_standardize(options: Options, data: Dataset) -> bool:
    """Whether the option would help, and be allowed."""
    return not (options.standardize or options.resume or holds_images(data))


def what_to_try(options: Options, data: Dataset) -> str:
    """Advise after a run that learnt nothing."""
    from fastmlp.datasets.source import is_number

    names = () if holds_images(data) else data.class_names or ()
    advice = ["--loss squared_error, if the labels are values"] if len(names) > 2 and all(map(is_number, names)) else []
    if may_standardize(options, data):
        advice.append("--standardize")
    elif not options.standardize and data.input_scale == 1.0:
        advice.append("inputs scaled to about [-1, 1]")
    if options.optimizer != "adam":
        advice.append("--optimizer adam")
    return ", ".join([*advice, "a smaller --lr", "or more --epochs"])


def standardize_columns(
    options: Options, data: Dataset, reporter: Reporter
) -> Callable[[MLP], dict[str, float | None]]:
    """Standardise the columns in place, if that is asked for.

    Return what makes the trained network take, and give, the columns as they were, and gives its scores on them.
    """
    from fastmlp.standardizing import divide_by_mean, standardize

    if not options.standardize:
        return lambda net: {}
    if holds_images(data):
        what = "bytes (uint8), which count as pixels," if data.image_shape is None else "images"
        way_out = "; store them as int8 or as floats" if data.image_shape is None else ""
        raise UsageError(f"standardize must be for the columns of a table, got {what} in {data.name}{way_out}")
    X_test, y_test, mean = data.X_test.copy(), data.y_test.copy(), 1.0
    inputs, outputs = standardize(data.X_train, data.X_test), None
    names = data.feature_names or [f"feature {column + 1}" for column in range(data.X_train.shape[1])]
    far = [shown(names[column]) for column in inputs.far_from_zero(options.dtype)]
    if options.loss == "poisson":  # The outputs are exponentials.
        mean = divide_by_mean(data.y_train, data.y_test)
    elif not LOSSES[str(options.loss)].is_classifier:
        outputs = standardize(data.y_train[:, None], data.y_test[:, None])
        far += ["target" for _ in outputs.far_from_zero(options.dtype)]
    if far:
        way_out = "use --dtype float64" if options.dtype == "float32" else "subtract a number from it first"
        reporter.say(
            f"{', '.join(far[:5])}{' ...' if len(far) > 5 else ''}: so far from zero, for how little it varies, that "
            f"{options.dtype} keeps few of its digits; {way_out}"
        )

    def make_raw(net: MLP) -> dict[str, float | None]:
        inputs.fold_into_inputs(net)
        if outputs is not None:
            outputs.fold_into_outputs(net)
        net.biases[-1] = net.biases[-1] + np.log(mean)  # 0 but of counts.
        return scores(net, X_test, y_test)

    return make_raw


def begin_or_resume(options: Options, data: Dataset, checksum: int) -> tuple[MLP, TrainingState]:
    """Build the network, or read it and where its training stood."""
    from fastmlp.network import MLP

    n_outputs = len(data.class_names or ()) if options.loss == "softmax_cross_entropy" else 1
    sizes = (data.X_train.shape[1], *options.hidden, n_outputs)
    if options.resume is None:
        net = MLP(
            sizes, options.activation, loss=str(options.loss), input_scale=data.input_scale, dtype=options.dtype,
            seed=options.seed, engine=options.engine,
        )  # fmt: skip
        return net, net.training_state(make_optimizer(options))
    from fastmlp.checkpoint import SavedNetwork

    path = os.path.join(options.resume, CHECKPOINT)
    saved = SavedNetwork(path)
    assert saved.state is not None
    before, classes = saved.notes.get("class_names"), None if data.class_names is None else list(data.class_names)
    if before != classes:
        raise UsageError(
            f"dataset must have the classes that the run in {options.resume!r} began with, {shown(before)}, "
            f"got {shown(classes)}"
        )
    now = {"n_train": len(data.X_train), "checksum": checksum}
    if saved.spec.layer_sizes != sizes or any(saved.notes.get(name, value) != value for name, value in now.items()):
        raise UsageError(f"dataset must be the one that the run in {options.resume!r} began with, got other data")
    return MLP._from_saved(saved, options.engine), saved.state


def checksum_of(data: Dataset) -> int:
    """Give a number that tells these training samples from others: of all labels, and of a thousand of the samples."""
    sample = np.ascontiguousarray(data.X_train[:: max(1, len(data.X_train) // 1000)])
    return crc32(sample.data, crc32(np.ascontiguousarray(data.y_train).data))


def samples_done(state: TrainingState, options: Options, n_train: int) -> int:
    """Count the samples that a run has taken."""
    return state.epoch * n_train + state.batch * min(options.batch_size, n_train)


def headline(net: MLP, data: Dataset, options: Options) -> str:
    """Say what is going to be trained on what."""
    sizes = "-".join(map(str, net.spec.layer_sizes))
    n_parameters = sum(array.size for array in net.weights + net.biases)
    names = spell(tuple(dict.fromkeys(net.spec.activations))) or "linear"
    kind = "values" if data.class_names is None else f"{len(data.class_names)} classes"
    return (
        f"{data.name}: {len(data.X_train):,} training and {len(data.X_test):,} test samples of {kind}; "
        f"network {sizes} ({names}), {n_parameters:,} parameters, {options.dtype}"
    )


def has_learnt_nothing(summary: dict[str, Any], data: Dataset) -> bool:
    """Whether the network is wrong at times, and one answer to all of the test part would be as good."""
    accuracy, r2 = summary["test_accuracy"], summary["test_r2"]
    if accuracy is None:
        # Of the other losses, the mean is not the best answer.
        return summary["loss"] in ("squared_error", "poisson") and r2 is not None and bool(r2 <= 0.0)
    commonest = np.unique(np.rint(data.y_test), return_counts=True)[1].max()
    return bool(accuracy < 1.0 and accuracy <= commonest / len(data.y_test))


def scores(net: MLP, X: Array, y: Array) -> dict[str, float | None]:
    """Say how well the network predicts: the accuracy of classes, R² of values, and None for the other."""
    if net.spec.is_classifier:
        return {"test_accuracy": net.accuracy(X, y), "test_r2": None}
    return {"test_accuracy": None, "test_r2": r2_score(net.predict(X)[:, 0], y)}


def r2_score(predicted: Array, y: Array) -> float | None:
    """``1 - Σ (y - ŷ)² / Σ (y - ȳ)²``, the share of the variance that is explained; None if all values are equal."""
    y = y.astype(np.float64)
    squares = float(np.sum((y - y.mean()) ** 2))
    return 1.0 - float(np.sum((y - predicted) ** 2)) / squares if squares > 0 else None


def summarise(
    net: MLP, data: Dataset, options: Options, optimizer: Optimizer, state: TrainingState, train_loss: float
) -> dict[str, Any]:
    """Evaluate the network and gather what ``summary.json`` holds."""
    n_train = len(data.X_train)
    done = samples_done(state, options, n_train)
    train_seconds = sum(state.history.seconds) + state.seconds
    return {
        "dataset": data.name,
        "standardize": options.standardize,
        "layer_sizes": list(net.spec.layer_sizes),
        "activations": list(net.spec.activations),
        "loss": net.spec.loss,
        "optimizer": optimizer.name,
        **asdict(optimizer),
        "schedule": options.schedule,
        "epochs": options.epochs,
        "epochs_done": done / n_train if done % n_train else done // n_train,
        "stopped": state.epoch < options.epochs,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "dtype": options.dtype,
        "engine": options.engine,
        "threads": net.threads(min(options.batch_size, n_train), options.threads),
        "n_train": n_train,
        "n_test": len(data.X_test),
        "train_loss": train_loss,
        "test_loss": net.loss(data.X_test, data.y_test),
        **scores(net, data.X_test, data.y_test),
        "train_seconds": train_seconds,
        "compile_seconds": state.history.compile_seconds,
        "samples_per_second": done / train_seconds,
        "version": __version__,
    }


if __name__ == "__main__":
    sys.exit(main())
