"""The delta rule: one sigmoid unit that learns from one sample at a time, and what it cannot learn.

The unit answers y = σ(x · w). After each sample, with target t and learning rate α,

    e = t - y        δ = y (1 - y) e        w ← w + α δ x

which is a step down the gradient of the squared error E = ½ (t - y)², as σ' = y (1 - y). There is no bias: the third
input is always 1, and its weight does the same.

The first target is the first input: learnt. The second is exclusive or: not learnt, and no weights exist that could.
"""

import numpy as np

import fastmlp

X = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
TARGETS = {"first input": np.array([0.0, 0, 1, 1]), "exclusive or": np.array([0.0, 1, 1, 0])}
EPOCHS = 10_000
SHOWN = (1, 10, 100, 1_000, 10_000)


def train(y, engine):
    """Give the mean squared error of each epoch, every sample's taken before its update, and the final outputs."""
    unit = fastmlp.MLP(
        [3, 1], output_activation="sigmoid", loss="squared_error", bias=False, dtype="float64", engine=engine
    )
    np.random.seed(3)
    unit.set_parameters([2 * np.random.random((3, 1)) - 1])
    history = unit.fit(X, y, epochs=EPOCHS, batch_size=1, optimizer=fastmlp.SGD(learning_rate=0.9), shuffle=False)
    return 2 * np.array(history.train_loss), unit.forward(X).ravel()


def main(engine="numba"):
    figures = {}
    for name, y in TARGETS.items():
        errors, outputs = train(y, engine)
        figures[name] = {"errors": errors, "outputs": outputs}

        print(f"Target: {name}\n\nepoch   mean squared error")
        for epoch in SHOWN:
            print(f"{epoch:5}   {errors[epoch - 1]:.6f}")
        print("\ninput   target   output")
        for x, target, output in zip(X, y, outputs, strict=True):
            print(f"{x[0]:g} {x[1]:g}{target:10g}{output:11.4f}")
        print()

    print(
        "The first target is learnt. Exclusive or is not: all outputs end near 0.5.\n"
        "The unit says more than 0.5 where x1 w1 + x2 w2 + w3 > 0: on one side of a straight line. It would need\n"
        "    w3 < 0,   w2 + w3 > 0,   w1 + w3 > 0,   w1 + w2 + w3 < 0,\n"
        "but the middle two add up to w1 + w2 + 2 w3 > 0, and the outer two to w1 + w2 + 2 w3 < 0. No line parts the\n"
        "corners of the square crosswise: the classes are not linearly separable. It takes a hidden layer, which\n"
        "xor_online.py has."
    )
    return figures


if __name__ == "__main__":
    main()
