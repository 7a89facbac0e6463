"""Exclusive or, all four samples at once: without a hidden layer, and with three hidden units.

    A₀ = X        Aₗ₊₁ = σ(Aₗ Wₗ + bₗ)        E = ½ Σ (A - y)²

The gradients are summed over the samples, and every epoch is one step down them. From the last layer to the first,

    dZ = (A - y) A (1 - A)        then        dZₗ = (dZₗ₊₁ Wₗ₊₁ᵀ) Aₗ (1 - Aₗ)
    W ← W - η A₋ᵀ dZ              b ← b - η Σ dZ

with A₋ the layer's input. Both nets are drawn from one seed, so every digit below can be reproduced.

No weights of a single layer will do (delta_rule.py says why), and it ends at 0.5 for every sample. Three hidden units
learn it.
"""

import numpy as np

import fastmlp

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
y = np.array([0.0, 1, 1, 0])
EPOCHS = 10_000
EVERY = 1_000


def train(layer_sizes, weights, engine):
    """Give the mean squared error of each epoch and the outputs of the last one."""
    net = fastmlp.MLP(
        layer_sizes,
        activation="sigmoid",
        output_activation="sigmoid",
        loss="squared_error",
        reduction="sum",
        dtype="float64",
        engine=engine,
    )
    net.set_parameters(weights)  # The biases are zero.
    # An epoch's figures are those of its forward pass, before its update: the last ones come after EPOCHS - 1 updates.
    history = net.fit(
        X, y, epochs=EPOCHS - 1, batch_size=len(X), optimizer=fastmlp.SGD(learning_rate=0.1), shuffle=False
    )
    losses = np.array([*history.train_loss, net.loss(X, y)])
    return losses * 2 / len(X), net.forward(X).ravel()


def main(engine="numba"):
    np.random.seed(42)
    single_errors, single_outputs = train([2, 1], [np.random.randn(2, 1)], engine)
    hidden_errors, hidden_outputs = train([2, 3, 1], [np.random.randn(2, 3), np.random.randn(3, 1)], engine)

    print("Mean squared error\n")
    print("epoch      2-1    2-3-1")
    for epoch in range(0, EPOCHS, EVERY):
        print(f"{epoch:5}{single_errors[epoch]:9.4f}{hidden_errors[epoch]:9.4f}")
    print(f"\nOutputs in epoch {EPOCHS}\n")
    print("input   target          2-1        2-3-1")
    for x, target, single, hidden in zip(X, y, single_outputs, hidden_outputs, strict=True):
        print(f"{x[0]:g} {x[1]:g}{target:10g}{single:14.8f}{hidden:13.8f}")

    return {
        "single": {"errors": single_errors, "outputs": single_outputs},
        "hidden": {"errors": hidden_errors, "outputs": hidden_outputs},
    }


if __name__ == "__main__":
    main()
