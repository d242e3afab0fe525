"""Answer requests for kernels of neural-tangents. Runs in the peers' environment, knows nothing of ours.

``python serve_neural_tangents.py THREADS`` reads a request a line, and times an evaluation for each, a short
one again and again for a tenth of a second. The first of a kind compiles, and is run once before.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types

import numpy as np

LEAST = 0.1  # seconds


def main(threads: int) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the libraries print is no answer
    _limit_threads(threads)
    peer = NeuralTangents()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("task"))(**request)
        except Exception as error:  # whatever the library raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class NeuralTangents:
    """The requests, one a method; functions that were compiled are kept."""

    def __init__(self) -> None:
        # The package imports its converter from TensorFlow, which nothing else needs.
        sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
        import jax
        import neural_tangents

        self.jax, self.nt = jax, neural_tangents
        self.compiled: dict = {}
        self.arrays: dict = {}

    def versions(self) -> dict:
        """Return the versions, and the empirical methods that there are, but for the automatic choice."""
        methods = [method.name for method in self.nt.NtkImplementation if method.name != "AUTO"]
        found = {"neural-tangents": self.nt.__version__, "jax": self.jax.__version__}
        return {**found, "threads": len(os.sched_getaffinity(0)), "methods": methods}

    def analytic(self, x: str, depth: int, out: str) -> dict:
        """Evaluate the limit kernel of a ReLU network: its first layer has variance 1, the others 2."""
        inputs = self._array(x)
        key = ("analytic", depth, inputs.shape)
        if key not in self.compiled:
            dense, relu = self.nt.stax.Dense, self.nt.stax.Relu
            layers = [dense(1, W_std=inputs.shape[1] ** 0.5, b_std=0.0)]
            for _ in range(depth):
                layers += [relu(), dense(1, W_std=2**0.5, b_std=0.0)]
            *_, kernel = self.nt.stax.serial(*layers)
            self.compiled[key] = self.jax.jit(lambda x: kernel(x, None, "ntk"))
            self.compiled[key](inputs).block_until_ready()
        return self._timed(self.compiled[key], (inputs,), out)

    def empirical(self, x: str, weights: str, method: str, out: str) -> dict:
        """Evaluate the kernel of a ReLU network with given layers, x ↦ xW + b, by one of the methods."""
        inputs = self._array(x)
        with np.load(weights) as kept:
            layers = [(kept[f"weight{i}"], kept[f"bias{i}"][None]) for i in range(len(kept.files) // 2)]
        key = ("empirical", method, inputs.shape, *(w.shape for w, _ in layers))
        if key not in self.compiled:
            stax, parts = self.nt.stax, []
            for w, _ in layers:
                dense = stax.Dense(w.shape[1], W_std=1.0, b_std=1.0, parameterization="standard")
                parts += [dense, stax.Relu()]
            _, apply, _ = stax.serial(*parts[:-1])
            how = {"implementation": self.nt.NtkImplementation[method], "trace_axes": (), "vmap_axes": 0}
            kernel = self.nt.empirical_ntk_fn(apply, **how)
            function = self.jax.jit(lambda x, parameters: kernel(x, None, parameters))
            parameters = [part for layer in layers for part in (self._device(layer), ())][:-1]
            function(inputs, parameters).block_until_ready()
            self.compiled[key] = function, parameters
        function, parameters = self.compiled[key]
        return self._timed(function, (inputs, parameters), out)

    def _timed(self, function, arguments: tuple, out: str) -> dict:
        begun, times = time.perf_counter(), 0
        while not times or time.perf_counter() - begun < LEAST:
            result = function(*arguments).block_until_ready()
            times += 1
        seconds = (time.perf_counter() - begun) / times
        np.save(out, np.asarray(result))
        return {"seconds": seconds}

    def _array(self, path: str):
        if path not in self.arrays:
            self.arrays[path] = self._device(np.load(path))
        return self.arrays[path]

    def _device(self, arrays):
        return self.jax.tree_util.tree_map(self.jax.device_put, arrays)


def _limit_threads(threads: int) -> None:
    """Run on as many cores as threads are meant: XLA takes a thread for each core that it may use."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


if __name__ == "__main__":
    main(int(sys.argv[1]))
