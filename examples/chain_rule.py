"""The chain rule by hand: f = (a + b)(b + c), as a graph of add and multiply nodes.

Forward, each node computes its output from its inputs:

    x = a + b        y = b + c        f = x y

Backward, each node is given df/d(output) and multiplies it by its own derivative to give df/d(input):

    add        out = u + v    df/du = df/dout        df/dv = df/dout
    multiply   out = u v      df/du = df/dout v      df/dv = df/dout u

Adding hands the derivative on; multiplying hands it on times the other input. b goes into two nodes, so its
derivative is the sum of what comes back from both.

A layer of a network is the same graph, larger: Y = X W + b multiplies, then adds. The last lines show that the
layer of fastmlp gives the derivatives of the multiply node.
"""

import numpy as np

import fastmlp


class Add:
    """A node u + v."""

    def forward(self, u, v):
        """Give the node's output."""
        return u + v

    def backward(self, dout):
        """Give df/du and df/dv, from df/d(output)."""
        return dout, dout


class Multiply:
    """A node u v."""

    def forward(self, u, v):
        """Give the node's output, and keep the inputs: the derivatives will need them."""
        self.u, self.v = u, v
        return u * v

    def backward(self, dout):
        """Give df/du and df/dv, from df/d(output)."""
        return dout * self.v, dout * self.u


def main(engine="numba"):
    a, b, c = -1.0, 3.0, 4.0
    first_add, second_add, multiply = Add(), Add(), Multiply()

    x = first_add.forward(a, b)
    y = second_add.forward(b, c)
    f = multiply.forward(x, y)

    dx, dy = multiply.backward(1.0)  # df/df = 1
    da, db_first = first_add.backward(dx)
    db_second, dc = second_add.backward(dy)
    db = db_first + db_second

    print("f = (a + b)(b + c)\n")
    print("node        forward   df/d(node)")
    for name, value, derivative in [
        ("a", a, da),
        ("b", b, db),
        ("c", c, dc),
        ("x = a + b", x, dx),
        ("y = b + c", y, dy),
        ("f = x y", f, 1.0),
    ]:
        print(f"{name:<10}{value:9g}{derivative:13g}")

    # One sample, one input, one unit: x is the layer's input and y its weight.
    kernels = fastmlp.kernels if engine == "numba" else fastmlp.reference
    layer_dx, layer_dy, _ = kernels.affine_backward(np.array([[x]]), np.array([[y]]), np.array([[1.0]]))
    print(f"\nAn affine layer with input x and weight y: df/dx = {layer_dx.item():g}, df/dy = {layer_dy.item():g}")

    return {
        "forward": {"a": a, "b": b, "c": c, "x": x, "y": y, "f": f},
        "derivatives": {"a": da, "b": db, "c": dc, "x": dx, "y": dy},
        "layer": {"x": layer_dx.item(), "y": layer_dy.item()},
    }


if __name__ == "__main__":
    main()
