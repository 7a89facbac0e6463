"""Who races: one small class a library, each the fastest plain way that a user of it would write."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from workloads import Samples, Workload, initial_parameters, learning_rates, make_network

import fastmlp

Array = np.ndarray


class Contender(ABC):
    """A library that trains and predicts.

    A subclass builds its network in `prepare`. Then `restart` goes back to the initial parameters (and is not timed),
    `train` trains the epochs of a turn and returns the last one's mean training loss, `learn` takes a single step on a
    batch and returns its loss, and `predict` takes and gives NumPy arrays.
    """

    title = ""
    packages: tuple[str, ...] = ()
    """Distributions that it needs."""

    def __init__(self, work: Workload, samples: Samples, seed: int = 0) -> None:
        self.work, self.samples, self.seed = work, samples, seed
        self.n_samples = len(samples.X)
        self.weights, self.biases = initial_parameters(work, seed)
        self.rates = [learning_rates(work, self.n_samples, epoch) for epoch in range(work.epochs)]
        self.prepare()

    @staticmethod
    def supports(work: Workload) -> bool:
        """Whether the library can do this work."""
        return True

    @abstractmethod
    def prepare(self) -> None: ...

    @abstractmethod
    def restart(self) -> None: ...

    @abstractmethod
    def train(self) -> float: ...

    @abstractmethod
    def learn(self, X: Array, y: Array) -> float: ...

    @abstractmethod
    def predict(self, X: Array) -> Array: ...


class EpochByEpoch(Contender):
    """A library whose training loop is written out here: `epoch` takes the learning rate of each step."""

    @abstractmethod
    def epoch(self, rates: Array) -> float: ...

    def train(self) -> float:
        for rates in self.rates:
            loss = self.epoch(rates)
        return loss

    def train_until(self, accuracy: float) -> tuple[float, int]:
        """Train the whole recipe, or until a test accuracy is reached; give the accuracy and the epochs it took."""
        for epochs, rates in enumerate(self.rates, start=1):  # noqa: B007
            self.epoch(rates)
            reached = float((self.predict(self.samples.X_test) == self.samples.y_test).mean())
            if reached >= accuracy:
                break
        return reached, epochs


class FastMLP(Contender):
    """`fastmlp.MLP.fit` and `predict`, and `fastmlp.OnlineTrainer`, as anyone calls them."""

    title = "fastmlp"
    packages = ("numba", "numpy")
    engine = "numba"

    def prepare(self) -> None:
        self.net = make_network(self.work, self.seed, engine=self.engine)

    def restart(self) -> None:
        self.net.set_parameters(self.weights, self.biases)
        self.trainer = fastmlp.OnlineTrainer(self.net, self.work.optimizer)

    def learn(self, X: Array, y: Array) -> float:
        return self.trainer.step(X, y)

    def train(self) -> float:
        work, samples = self.work, self.samples
        history = self.net.fit(
            samples.X, samples.y, epochs=work.epochs, batch_size=work.batch_size, optimizer=work.optimizer,
            schedule=work.schedule,
        )  # fmt: skip
        return history.train_loss[-1]

    def train_until(self, accuracy: float) -> tuple[float, int]:
        work, samples = self.work, self.samples
        history = self.net.fit(
            samples.X, samples.y, epochs=work.epochs, batch_size=work.batch_size, optimizer=work.optimizer,
            schedule=work.schedule, validation_data=(samples.X_test, samples.y_test),
            callbacks=[lambda history: history.validation_accuracy[-1] >= accuracy],
        )  # fmt: skip
        return history.validation_accuracy[-1], len(history.train_loss)

    def predict(self, X: Array) -> Array:
        return self.net.predict(X)


class NumPyEngine(FastMLP):
    """The same with ``engine="numpy"``: `fastmlp.reference`."""

    title = "NumPy engine"
    packages = ("numpy",)
    engine = "numpy"


class NumPy(EpochByEpoch):
    """A loop written by hand: every array is allocated once, every call writes into one."""

    title = "NumPy by hand"
    packages = ("numpy",)

    def prepare(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        shapes = [a.shape for pair in zip(self.weights, self.biases, strict=True) for a in pair]
        sizes = [int(np.prod(shape)) for shape in shapes]
        bounds = np.cumsum([0, *sizes])
        n = int(bounds[-1])
        self.w, self.g, self.m, self.v, self.t = (np.zeros(n, self.work.dtype) for _ in range(5))

        def views(flat: Array) -> list[Array]:
            return [flat[a:b].reshape(s) for a, b, s in zip(bounds, bounds[1:], shapes, strict=False)]

        parameters, gradients = views(self.w), views(self.g)
        self.W, self.b = parameters[::2], parameters[1::2]
        self.dW, self.db = gradients[::2], gradients[1::2]
        self.buffers: dict[int, Any] = {}
        self.restart()

    def restart(self) -> None:
        for view, array in zip([*self.W, *self.b], [*self.weights, *self.biases], strict=True):
            view[:] = array
        self.m[:] = self.v[:] = 0
        self.steps_done = 0

    def buffers_for(self, n: int) -> Any:
        """Arrays for a batch of `n`: the gathered X, each layer's A (the Z before it) and dZ, and a mask of it."""
        if n not in self.buffers:
            sizes, dtype = self.work.layer_sizes, self.work.dtype
            A = [np.empty((n, size), dtype) for size in sizes]
            D = [np.empty((n, size), dtype) for size in sizes]
            masks = [np.empty((n, size), bool) for size in sizes]
            y = np.empty((n, *self.samples.y.shape[1:]), self.samples.y.dtype)
            self.buffers[n] = A, D, masks, y, np.arange(n), np.empty((n, 1), dtype), np.ones(n, dtype)
        return self.buffers[n]

    def epoch(self, rates: Array) -> float:
        order, batch_size = self.rng.permutation(self.n_samples), self.work.batch_size
        total = 0.0
        for i, rate in enumerate(rates.tolist()):
            total += self.step(order[i * batch_size : (i + 1) * batch_size], rate)
        return total / self.n_samples

    def forward(self, A: list[Array]) -> None:
        last = len(self.W) - 1
        for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            Z = A[layer + 1]
            np.matmul(A[layer], W, out=Z)
            Z += b
            if layer < last:
                np.maximum(Z, 0, out=Z) if self.work.activation == "relu" else np.tanh(Z, out=Z)

    def step(self, rows: Array, rate: float) -> float:
        buffers = self.buffers_for(len(rows))
        A, _, _, y, *_ = buffers
        self.samples.X.take(rows, axis=0, out=A[0], mode="clip")  # "raise", the default, would gather into a copy.
        self.samples.y.take(rows, axis=0, out=y, mode="clip")
        return self.learn_from(A, y, buffers, rate)

    def learn(self, X: Array, y: Array) -> float:
        buffers = self.buffers_for(len(X))
        return self.learn_from([X, *buffers[0][1:]], y, buffers, self.work.optimizer.learning_rate) / len(X)

    def learn_from(self, A: list[Array], y: Array, buffers: Any, rate: float) -> float:
        n = len(y)
        _, D, masks, _, samples, column, ones = buffers
        self.forward(A)
        Z, dZ = A[-1], D[-1]
        if self.work.loss == "softmax_cross_entropy":
            Z.max(axis=1, keepdims=True, out=column)
            np.subtract(Z, column, out=Z)
            picked = Z[samples, y]
            np.exp(Z, out=dZ)
            dZ.sum(axis=1, keepdims=True, out=column)
            dZ /= column
            dZ[samples, y] -= 1
            loss = float(np.log(column, out=column).sum() - picked.sum())
        else:
            np.subtract(Z, y, out=dZ)
            flat = dZ.ravel()
            loss = 0.5 * float(flat @ flat)
        dZ *= 1.0 / n
        for layer in reversed(range(len(self.W))):
            np.matmul(A[layer].T, D[layer + 1], out=self.dW[layer])
            np.matmul(ones, D[layer + 1], out=self.db[layer])
            if layer:
                np.matmul(D[layer + 1], self.W[layer].T, out=D[layer])
                if self.work.activation == "relu":
                    D[layer] *= np.greater(A[layer], 0, out=masks[layer])
                else:  # 1 - A², in place: A is not needed any more.
                    np.square(A[layer], out=A[layer])
                    np.subtract(1, A[layer], out=A[layer])
                    D[layer] *= A[layer]
        self.update(rate)
        return loss

    def update(self, rate: float) -> None:
        optimizer = self.work.optimizer
        w, g, m, v, t = self.w, self.g, self.m, self.v, self.t
        self.steps_done += 1
        if optimizer.weight_decay:
            np.multiply(w, optimizer.weight_decay, out=t)
            g += t
        if optimizer.name == "sgd":
            if optimizer.momentum:
                m *= optimizer.momentum
                m += g
                g = m
            np.multiply(g, rate, out=t)
            w -= t
            return
        m *= optimizer.beta1
        np.multiply(g, 1 - optimizer.beta1, out=t)
        m += t
        v *= optimizer.beta2
        np.multiply(g, g, out=t)
        t *= 1 - optimizer.beta2
        v += t
        np.sqrt(v, out=t)
        t *= (1 - optimizer.beta2**self.steps_done) ** -0.5
        t += optimizer.epsilon
        np.divide(m, t, out=t)
        t *= rate / (1 - optimizer.beta1**self.steps_done)
        w -= t

    def predict(self, X: Array) -> Array:
        A = X
        for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            A = A @ W
            A += b
            if layer < len(self.W) - 1:
                np.maximum(A, 0, out=A) if self.work.activation == "relu" else np.tanh(A, out=A)
        return A.argmax(axis=1) if self.work.loss == "softmax_cross_entropy" else A


class SklearnMLP(Contender):
    """`MLPClassifier` or `MLPRegressor`, float32 as it takes it."""

    title = "scikit-learn"
    packages = ("scikit-learn",)

    @staticmethod
    def supports(work: Workload) -> bool:
        return work.kind != "start"  # It has no schedule by the step.

    def prepare(self) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        warnings.simplefilter("ignore", ConvergenceWarning)
        work, optimizer = self.work, self.work.optimizer
        is_classifier = work.loss == "softmax_cross_entropy"
        self.estimator = (MLPClassifier if is_classifier else MLPRegressor)(
            hidden_layer_sizes=work.layer_sizes[1:-1], activation=work.activation, solver=optimizer.name, alpha=0.0,
            batch_size=min(work.batch_size, self.n_samples), learning_rate_init=optimizer.learning_rate, max_iter=1,
            momentum=getattr(optimizer, "momentum", 0.0), nesterovs_momentum=False, warm_start=True, tol=0.0,
            n_iter_no_change=10**9, random_state=self.seed,
        )  # fmt: skip
        samples = self.samples
        X, y = samples.X, samples.y
        if is_classifier and len(set(y.tolist())) < work.layer_sizes[-1]:  # One row, of predict, has not all classes.
            y = np.arange(work.layer_sizes[-1])
            X = np.resize(X, (len(y), X.shape[1]))
            self.estimator.batch_size = len(y)
        self.estimator.fit(X, y)  # Makes the arrays that `restart` writes into.
        self.estimator.max_iter = work.epochs
        self.restart()

    def restart(self) -> None:
        for array, initial in zip(
            [*self.estimator.coefs_, *self.estimator.intercepts_], [*self.weights, *self.biases], strict=True
        ):
            array[:] = initial

    def train(self) -> float:
        loss = float(self.estimator.fit(self.samples.X, self.samples.y).loss_)
        # It says the mean of a squared error over the outputs, though it follows the gradient of the sum.
        return loss if self.work.loss == "softmax_cross_entropy" else loss * self.work.layer_sizes[-1]

    def learn(self, X: Array, y: Array) -> float:
        loss = float(self.estimator.partial_fit(X, y).loss_)
        return loss if self.work.loss == "softmax_cross_entropy" else loss * self.work.layer_sizes[-1]

    def predict(self, X: Array) -> Array:
        return self.estimator.predict(X)


class Torch(EpochByEpoch):
    """PyTorch, eager: batches gathered from one tensor, which takes 0.6 times as long as a `DataLoader`."""

    title = "PyTorch"
    packages = ("torch",)

    def prepare(self) -> None:
        import torch

        self.torch = torch
        torch.manual_seed(self.seed)
        work, samples = self.work, self.samples
        dtype = getattr(torch, work.dtype)
        layers: list[Any] = []
        for n_in, n_out in zip(work.layer_sizes, work.layer_sizes[1:], strict=False):
            activation = torch.nn.ReLU() if work.activation == "relu" else torch.nn.Tanh()
            layers += [torch.nn.Linear(n_in, n_out, dtype=dtype), activation]
        self.model = self.model_of_predict = torch.nn.Sequential(*layers[:-1])
        self.X, self.y = torch.from_numpy(samples.X), torch.from_numpy(samples.y)
        self.loss = torch.nn.CrossEntropyLoss() if work.loss == "softmax_cross_entropy" else self.squared_error
        self.batch_loss: Callable[[Any, Any], Any] = lambda X, y: self.loss(self.model(X), y)
        self.restart()

    def squared_error(self, outputs: Any, y: Any) -> Any:
        return 0.5 * (outputs - y).square().sum() / len(y)

    def restart(self) -> None:
        torch, chosen = self.torch, self.work.optimizer
        with torch.no_grad():
            for layer, W, b in zip(self.model[::2], self.weights, self.biases, strict=True):
                layer.weight.copy_(torch.from_numpy(W.T))
                layer.bias.copy_(torch.from_numpy(b))
        options = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
        if chosen.name == "adam":  # Fused is faster for Adam (0.80 against 1.05 s an epoch), and slower for SGD.
            self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True, **options)
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), momentum=chosen.momentum, **options)

    def epoch(self, rates: Array) -> float:
        X, y, optimizer, batch_loss = self.X, self.y, self.optimizer, self.batch_loss
        (group,) = optimizer.param_groups
        total = self.torch.zeros(())
        batches = self.torch.randperm(self.n_samples).split(self.work.batch_size)
        for rows, rate in zip(batches, rates.tolist(), strict=True):
            loss = batch_loss(X[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            group["lr"] = rate
            optimizer.step()
            total += loss.detach() * len(rows)
        return total.item() / self.n_samples

    def learn(self, X: Array, y: Array) -> float:
        loss = self.batch_loss(self.torch.from_numpy(X), self.torch.from_numpy(y))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, X: Array) -> Array:
        with self.torch.inference_mode():
            outputs = self.model_of_predict(self.torch.from_numpy(X))
            return (outputs.argmax(1) if self.work.loss == "softmax_cross_entropy" else outputs).numpy()


class TorchCompiled(Torch):
    """PyTorch with the forward and backward pass of a batch compiled."""

    title = "PyTorch compiled"

    def prepare(self) -> None:
        super().prepare()
        self.batch_loss = self.torch.compile(self.batch_loss)
        self.model_of_predict = self.torch.compile(self.model)


class Jax(EpochByEpoch):
    """JAX: all epochs of a turn are one jitted scan over the batches, the shuffled gather included."""

    title = "JAX"
    packages = ("jax", "jaxlib")

    def prepare(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", self.work.dtype == "float64")
        self.jax = jax
        self.rng = np.random.default_rng(self.seed)
        self.X, self.y = jax.device_put(self.samples.X), jax.device_put(self.samples.y)
        self.run = jax.jit(self.epochs, donate_argnums=0)
        self.classify = jax.jit(self.outputs)
        rate = self.work.optimizer.learning_rate  # A constant of the code: to pass a number takes time.
        self.learn_batch = jax.jit(lambda state, X, y: self.step_on_batch(state, X, y, rate), donate_argnums=0)
        self.restart()

    def restart(self) -> None:
        jnp = self.jax.numpy
        parameters = [(jnp.array(W), jnp.array(b)) for W, b in zip(self.weights, self.biases, strict=True)]
        zeros = [self.jax.tree.map(jnp.zeros_like, parameters) for _ in range(2)]
        self.state = parameters, *zeros, jnp.zeros((), self.work.dtype)

    def forward(self, parameters: Any, A: Any) -> Any:
        jax = self.jax
        activation = jax.nn.relu if self.work.activation == "relu" else jax.numpy.tanh
        for W, b in parameters[:-1]:
            A = activation(A @ W + b)
        W, b = parameters[-1]
        return A @ W + b

    def batch_loss(self, parameters: Any, X: Any, y: Any) -> Any:
        jax = self.jax
        Z = self.forward(parameters, X)
        if self.work.loss == "softmax_cross_entropy":
            return -(jax.nn.log_softmax(Z) * jax.nn.one_hot(y, Z.shape[1], dtype=Z.dtype)).sum() / len(X)
        return 0.5 * jax.numpy.square(Z - y).sum() / len(X)

    def step(self, X: Any, y: Any, state: Any, rows: Any, rate: Any) -> Any:
        batch = X.at[rows].get(mode="promise_in_bounds"), y.at[rows].get(mode="promise_in_bounds")
        state, loss = self.step_on_batch(state, *batch, rate)
        return state, loss * len(rows)

    def step_on_batch(self, state: Any, X: Any, y: Any, rate: Any) -> Any:
        jax, optimizer = self.jax, self.work.optimizer
        jnp, tree = jax.numpy, jax.tree.map
        w, m, v, t = state
        loss, g = jax.value_and_grad(self.batch_loss)(w, X, y)
        t = t + 1
        if optimizer.weight_decay:
            g = tree(lambda g, w: g + optimizer.weight_decay * w, g, w)
        if optimizer.name == "adam":
            b1, b2 = optimizer.beta1, optimizer.beta2
            m = tree(lambda m, g: b1 * m + (1 - b1) * g, m, g)
            v = tree(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
            rate, root = rate / (1 - b1**t), (1 - b2**t) ** -0.5
            w = tree(lambda w, m, v: w - rate * m / (jnp.sqrt(v) * root + optimizer.epsilon), w, m, v)
        elif optimizer.momentum:
            m = tree(lambda m, g: optimizer.momentum * m + g, m, g)
            w = tree(lambda w, m: w - rate * m, w, m)
        else:
            w = tree(lambda w, g: w - rate * g, w, g)
        return (w, m, v, t), loss

    def epochs(self, state: Any, X: Any, y: Any, orders: Any, rates: Any) -> Any:
        """Train on the samples in the given orders, one row an epoch; give the last epoch's mean loss."""
        lax = self.jax.lax
        n, size = self.n_samples, min(self.work.batch_size, self.n_samples)
        n_full = n // size

        def one_step(state: Any, batch: Any) -> Any:
            return self.step(X, y, state, *batch)

        def one_epoch(state: Any, given: Any) -> Any:
            order, rates = given
            batches = order[: n_full * size].reshape(n_full, size), rates[:n_full]
            state, losses = lax.scan(one_step, state, batches)
            total = losses.sum()
            if n % size:
                state, loss = one_step(state, (order[n_full * size :], rates[-1]))
                total = total + loss
            return state, total / n

        state, losses = lax.scan(one_epoch, state, (orders, rates))
        return state, losses[-1]

    def run_epochs(self, rates: Array) -> float:
        orders = np.tile(np.arange(self.n_samples, dtype=np.int32), (len(rates), 1))
        orders = self.rng.permuted(orders, axis=1, out=orders)
        self.state, loss = self.run(self.state, self.X, self.y, orders, rates.astype(self.work.dtype))
        return float(loss)

    def epoch(self, rates: Array) -> float:
        return self.run_epochs(rates[None])

    def train(self) -> float:
        return self.run_epochs(np.stack(self.rates))

    def learn(self, X: Array, y: Array) -> float:
        self.state, loss = self.learn_batch(self.state, X, y)
        return float(loss)

    def outputs(self, parameters: Any, X: Any) -> Any:
        Z = self.forward(parameters, X)
        return Z.argmax(1) if self.work.loss == "softmax_cross_entropy" else Z

    def predict(self, X: Array) -> Array:
        return np.asarray(self.classify(self.state[0], X))


CONTENDERS: dict[str, type[Contender]] = {
    "fastmlp": FastMLP,
    "numpy": NumPy,
    "numpy-engine": NumPyEngine,
    "sklearn": SklearnMLP,
    "torch": Torch,
    "torch-compile": TorchCompiled,
    "jax": Jax,
}
