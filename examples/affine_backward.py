"""Backward through an affine layer, a whole batch at once.

Forward, one sample a row, X (n_samples, n_in), W (n_in, n_out), b (n_out,):

    Y = X W + b

Backward, with dY (n_samples, n_out) the derivative of the loss by Y:

    dX = dY Wᵀ        dW = Xᵀ dY        db = Σ dY over the samples

Each derivative has the shape of what it belongs to, and this alone fixes the order and the transposes. The products
sum over the samples by themselves: a weight is used once for every sample, so its derivative is a sum over them.
"""

import numpy as np

import fastmlp


def nudged(layer_forward, array, dout, step=1e-6):
    """Estimate the derivative of Σ Y * dout by each element of `array`: two forward passes, that element moved."""
    derivative = np.empty_like(array)
    for index, value in np.ndenumerate(array):
        array[index] = value + step
        above = np.sum(layer_forward() * dout)
        array[index] = value - step
        below = np.sum(layer_forward() * dout)
        array[index] = value
        derivative[index] = (above - below) / (2 * step)
    return derivative


def refusal(kernels, X, W, dout):
    """Give what `affine_backward` says to arrays that do not fit together."""
    try:
        kernels.affine_backward(X, W, dout)
    except ValueError as error:
        return f"ValueError: {error}"
    raise AssertionError("shapes that do not align must raise")


def main(engine="numba"):
    kernels = fastmlp.kernels if engine == "numba" else fastmlp.reference

    np.random.seed(111)
    W = np.random.randn(3, 2)
    b = np.random.randn(2)
    X = np.random.rand(2, 3)
    # Six numbers are drawn and dropped: the dX that is known for this seed, -0.57717814 and so on, belongs to the dout
    # that comes after them. Without this line dout is another, and dX begins with -0.59898814.
    np.random.rand(2, 3)
    dout = np.random.rand(2, 2)

    Y = kernels.affine_forward(X, W, b)
    dX, dW, db = kernels.affine_backward(X, W, dout)

    print("Y = X W + b, two samples, three inputs, two outputs\n")
    for name, array in [("Y", Y), ("dX", dX), ("dW", dW), ("db", db)]:
        text = np.array2string(array, precision=8, prefix=" " * 5, floatmode="fixed")
        print(f"{name:<2} = {text}")

    def layer_forward():
        return kernels.affine_forward(X, W, b)

    print("\nThe same derivatives, each element moved by a little, and how far they are off:")
    errors = {}
    for name, array, derivative in [("dX", X, dX), ("dW", W, dW), ("db", b, db)]:
        errors[name] = float(np.abs(nudged(layer_forward, array, dout) - derivative).max())
        print(f"{name:<2}  {errors[name]:.0e}")

    print("\nShapes that do not align are refused, not broadcast:")
    refusals = [refusal(kernels, X, W.T, dout), refusal(kernels, X, W, dout[:1])]
    print("\n".join(refusals))

    return {"Y": Y, "dX": dX, "dW": dW, "db": db, "errors": errors, "refusals": refusals}


if __name__ == "__main__":
    main()
