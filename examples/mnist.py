"""Handwritten digits: a network of [100, 64, 32] ReLU units on MNIST, with its learning curves.

Each digit is 784 pixels in [0, 1]. Three hidden layers, then one output for each of the ten classes:

    Aₗ₊₁ = max(0, Aₗ Wₗ + bₗ)        p = softmax(Z)        E = -ln p[class], the mean over a batch of 100

Three things make it learn well. He's initialisation draws the weights with variance 2 / n_in, so that signals keep
their size from layer to layer. Momentum v ← μ v + g, W ← W - η v averages the batches' gradients. And the learning rate
goes up and comes down again (one cycle): large steps in the middle, small ones to settle at the end.

Where the training curves go on to improve and the test curves do not, the network is learning its samples by heart.
The training loss is taken during the epoch, each batch before its update, so at first it is above the test loss.
"""

import argparse

import fastmlp


def draw(history, train_accuracy, picture):
    """Draw loss and accuracy against epochs into the file `picture`; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = range(1, len(history.train_loss) + 1)
    panels = [
        ("Cross-entropy", history.train_loss, history.validation_loss),
        ("Accuracy", train_accuracy, history.validation_accuracy),
    ]
    for axes, (title, train, test) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(epochs, train, marker="o", markersize=4, label="training")
        axes.plot(epochs, test, marker="o", markersize=4, label="test")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    figure.savefig(picture, dpi=150)
    return True


def main(engine="numba", epochs=10, samples=60_000, picture="mnist_curves.png"):
    data = fastmlp.load_dataset("mnist")
    X, y = data.X_train[:samples], data.y_train[:samples]
    net = fastmlp.MLP([784, 100, 64, 32, 10], activation="relu", init="he_normal", seed=0, engine=engine)
    train_accuracy = []

    def after_epoch(history):
        train_accuracy.append(net.accuracy(X, y))
        print(
            f"{len(history.train_loss):5}{history.train_loss[-1]:12.4f}{history.validation_loss[-1]:11.4f}"
            f"{train_accuracy[-1]:14.2%}{history.validation_accuracy[-1]:11.2%}{history.seconds[-1]:10.2f}",
            flush=True,
        )

    print("epoch  train loss  test loss  train accur.  test acc.   seconds")
    history = net.fit(
        X,
        y,
        epochs=epochs,
        batch_size=100,
        optimizer=fastmlp.SGD(learning_rate=0.1, momentum=0.9, weight_decay=2e-4),
        schedule="one_cycle",
        validation_data=(data.X_test, data.y_test),
        callbacks=[after_epoch],
    )
    if draw(history, train_accuracy, picture):
        print(f"\nCurves: {picture}")
    else:
        print("\nNo curves: matplotlib is not installed")
    return {"net": net, "history": history, "train_accuracy": train_accuracy}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="[100, 64, 32] ReLU on MNIST", allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=10, help="passes over the data (10)")
    parser.add_argument("--samples", type=int, default=60_000, help="training samples to use (60000)")
    parser.add_argument("--picture", default="mnist_curves.png", help="file of the curves (mnist_curves.png)")
    main(**vars(parser.parse_args()))
