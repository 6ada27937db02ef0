"""The Numba engine: owns the buffers, and hands whole calls to the compiled code in steps.py.

Nothing is computed here but layouts and argument checks. Worker threads live for one call: they
run the same compiled function as the calling thread, without the GIL, and meet at a barrier in
compiled code. There is no pool and no global state, so engines may train in several Python
threads at once, and a process may fork between calls.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from fusedmlp.backend import Data, Engine, State, Sums, keep_threshold
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Parameters, zeros
from fusedmlp.optimizers import SGD
from fusedmlp.staging import (
    HostData,
    check_rates,
    check_rows,
    is_sparse,
    prepare,
    prepare_inputs,
    prepare_state,
)
from fusedmlp_numba import layers, steps
from fusedmlp_numba.layout import (
    Buffers,
    Rules,
    Source,
    aligned,
    nonzero_entries,
    pack,
    parameter_count,
    shape_of,
    unpack,
)
from fusedmlp_numba.products import BLOCK

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import Network, Objective
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Array, Float64Vector, FloatArray, FloatDtype, Inputs, IntArray

SPARSE_DENSITY: Final = 0.3
"""Share of nonzero inputs below which the first layer skips zeros: the sparse sums reach about a
third of the dense product's rate."""

SAMPLED_ROWS: Final = 1024
"""Rows that the density is measured on, evenly spaced."""

FORWARD_ROWS: Final = 128
"""Rows that forward and evaluate take at a time, or the batch size where that is larger."""

WORKER_FLOPS: Final = 2.0**20
"""Work of one step that is worth another worker: some ten microseconds, a few barriers."""

CALL_FLOPS: Final = 2.0**26
"""Work of one call that is worth starting threads: some hundred microseconds."""

UNTRAINED: Final = np.zeros(1), np.ones((1, 2))
"""Learning rate and bias corrections for calls that do not update."""


@dataclass
class NumbaData(Data):
    """A staged data set: read-only views of the checked host arrays, in the kernels' one type.

    ``form`` is what an engine must have in common with the one that staged it: compiled code
    checks no bounds.
    """

    source: Source
    rows: int
    labelled: bool
    form: tuple[int, int, str, str]


class NumbaEngine(Engine):
    """One network in host memory, in panels."""

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
        threads: int,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.objective = objective
        self.batch_size = batch_size
        self.dtype = dtype
        self.seed = seed
        self._threads = threads

        self._rows = max(batch_size, FORWARD_ROWS)
        self._shape = shape_of(network, dtype, self._rows)
        self._rules = _rules(network, optimizer, objective, seed)
        self._buffers = self._allocate()
        self._form = network.n_inputs, network.n_outputs, network.output, str(dtype)
        self._step = 0
        self._compile_seconds = 0.0
        self._compile()

    @property
    def compile_seconds(self) -> float:
        """See :attr:`fusedmlp.backend.Engine.compile_seconds`."""
        return self._compile_seconds

    def load(self, state: State) -> None:
        """See :meth:`fusedmlp.backend.Engine.load`."""
        prepare_state(state, self.network, self.optimizer)
        pack(state.parameters, self._shape, self._buffers.theta)
        for slot, flat in zip(state.slots, self._slots(), strict=True):
            pack(slot, self._shape, flat)
        self._step = state.step

    def parameters(self) -> Parameters:
        """See :meth:`fusedmlp.backend.Engine.parameters`."""
        return unpack(self._buffers.theta, self._shape)

    def state(self) -> State:
        """See :meth:`fusedmlp.backend.Engine.state`."""
        slots = tuple(unpack(flat, self._shape) for flat in self._slots())
        return State(self.parameters(), slots, self._step)

    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> NumbaData:
        """See :meth:`fusedmlp.backend.Engine.stage`."""
        host = prepare(x, y, sample_weight, self.network, self.dtype)
        source = self._source(host, sparse=_density(host.x) < SPARSE_DENSITY)
        return NumbaData(source, host.rows, host.y is not None, self._form)

    def forward(self, x: Inputs) -> FloatArray:
        """See :meth:`fusedmlp.backend.Engine.forward`."""
        inputs = prepare_inputs(x, self.network, self.dtype)
        n_rows = int(inputs.shape[0])
        outputs = np.empty((n_rows, self.network.n_outputs), self.dtype)
        source = self._source(HostData(inputs, None, None), sparse=False)
        self._run(steps.FORWARD, source, np.arange(n_rows), self._rows, outputs=outputs)
        return outputs

    def evaluate(self, data: Data, rows: IntArray | None = None) -> Sums:
        """See :meth:`fusedmlp.backend.Engine.evaluate`."""
        own = self._own(data, labelled=True)
        rows = np.arange(own.rows) if rows is None else check_rows(rows, own.rows)
        return self._run(steps.EVALUATE, own.source, rows, self._rows)

    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[Sums, Parameters]:
        """See :meth:`fusedmlp.backend.Engine.loss_and_gradients`."""
        own = self._own(data, labelled=True)
        rows = check_rows(rows, own.rows)
        if len(rows) > self.batch_size:
            raise InvalidInputError(
                f"{len(rows)} rows are more than the engine's batch size {self.batch_size}"
            )
        sums = self._run(steps.GRADIENTS, own.source, rows, self.batch_size)
        return sums, unpack(self._buffers.gradient, self._shape)

    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """See :meth:`fusedmlp.backend.Engine.apply_gradients`."""
        gradients.check(self.network)
        (rate,) = check_rates([lr], 1)
        pack(gradients, self._shape, self._buffers.gradient)
        (corrections,) = self._corrections(1)
        arguments = self._shape, self._buffers, self._rules, float(rate), corrections
        self._compile_seconds += steps.APPLY.compile(*arguments)
        steps.APPLY(*arguments)
        self._step += 1

    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> Sums:
        """See :meth:`fusedmlp.backend.Engine.train_epoch`."""
        own = self._own(data, labelled=True)
        order = check_rows(order, own.rows)
        n_batches = -(-len(order) // self.batch_size)
        schedule = check_rates(lr, n_batches), self._corrections(n_batches)
        sums = self._run(steps.TRAIN, own.source, order, self.batch_size, schedule)
        self._step += n_batches
        return sums

    def synchronize(self) -> None:
        """See :meth:`fusedmlp.backend.Engine.synchronize`; every call ends with its work done."""

    def _run(
        self,
        task: int,
        source: Source,
        order: IntArray,
        batch: int,
        schedule: tuple[Float64Vector, Float64Array] = UNTRAINED,
        outputs: FloatArray | None = None,
    ) -> Sums:
        """Do a task with every batch of ``order``, on as many workers as it is worth."""
        self._reserve(source)
        sums = np.empty((-(-len(order) // batch), 3))
        outputs = np.empty((0, 0), self.dtype) if outputs is None else outputs
        lr, corrections = schedule
        arguments = (
            self._shape,
            self._buffers,
            self._rules,
            source,
            task,
            _read_only(order),
            batch,
            self._step,
            _read_only(lr),
            corrections,
            sums,
            outputs,
        )
        _run_workers(arguments, self._workers(len(order), batch), self._buffers.sync)
        losses, correct, weights = sums.T.copy()
        return Sums(losses, correct, weights)

    def _workers(self, rows: int, batch: int) -> int:
        flops = self.network.flops_per_row
        if flops * rows < CALL_FLOPS:
            return 1
        return max(1, min(self._threads, int(flops * min(rows, batch) / WORKER_FLOPS)))

    def _corrections(self, n_steps: int) -> Float64Array:
        """Adam's bias corrections for each step; ones for the other optimizers."""
        if isinstance(self.optimizer, SGD):
            return np.ones((n_steps, 2))
        return self.optimizer.bias_corrections(self._step, n_steps)

    def _source(self, host: HostData, *, sparse: bool) -> Source:
        """Describe checked data to the kernels."""
        x, capacity = host.x, self.network.n_inputs
        nothing: dict[str, npt.NDArray[np.generic]] = {
            "pixels": np.empty((0, 0), np.uint8),
            "single": np.empty((0, 0), np.float32),
            "double": np.empty((0, 0), np.float64),
            "indptr": np.empty(0, np.int64),
            "indices": np.empty(0, np.int32),
            "short_indices": np.empty(0, np.uint16),
            "pixel_data": np.empty(0, np.uint8),
            "single_data": np.empty(0, np.float32),
            "double_data": np.empty(0, np.float64),
            "labels": np.empty(0, np.int64),
            "targets": np.empty((0, 0), self.dtype),
            "sample_weight": np.empty(0, self.dtype),
        }
        if is_sparse(x):
            sparse = True
            name = "single_data" if x.dtype == np.float32 else "double_data"
            kind = layers.CSR_SINGLE if x.dtype == np.float32 else layers.CSR_DOUBLE
            nothing["indptr"] = np.ascontiguousarray(x.indptr, np.int64)
            nothing["indices"] = np.ascontiguousarray(x.indices, np.int32)
            nothing[name] = np.ascontiguousarray(x.data)
            capacity = max(1, int(np.diff(x.indptr).max(initial=0)))
        elif sparse and (entries := nonzero_entries(x)) is not None:
            kind, name = {
                "uint8": (layers.SHORT_PIXELS, "pixel_data"),
                "float32": (layers.SHORT_SINGLE, "single_data"),
                "float64": (layers.SHORT_DOUBLE, "double_data"),
            }[x.dtype.name]
            nothing["indptr"], nothing["short_indices"], nothing[name] = entries
            capacity = max(1, int(np.diff(entries[0]).max()))
        else:
            kind, name = {
                "uint8": (layers.PIXELS, "pixels"),
                "float32": (layers.SINGLE, "single"),
                "float64": (layers.DOUBLE, "double"),
            }[x.dtype.name]
            nothing[name] = cast("npt.NDArray[np.generic]", x)
        if host.y is not None:
            nothing["labels" if self.network.output == "softmax" else "targets"] = host.y
        if host.sample_weight is not None:
            nothing["sample_weight"] = host.sample_weight
        arrays: dict[str, Any] = {name: _read_only(array) for name, array in nothing.items()}
        return Source(kind=kind, sparse=sparse, capacity=capacity, **arrays)

    def _reserve(self, source: Source) -> None:
        """Let the buffers for inputs grow to a batch of this data's rows."""
        room, sparse = self._rows * source.capacity, source.sparse
        if sparse and len(self._buffers.entry_index) < room:
            self._buffers = self._buffers._replace(
                entry_index=np.zeros(room, np.uint32),
                entry_value=self._zeros(room),
                list_row=np.zeros(room, np.uint32),
                list_value=self._zeros(room),
            )
        elif not sparse and len(self._buffers.x) < room:
            self._buffers = self._buffers._replace(x=self._zeros(room))

    def _allocate(self) -> Buffers:
        shape, rows = self._shape, self._rows
        n, D = parameter_count(shape), self.network.n_inputs
        slots = [self._zeros(n if i < len(self.optimizer.slots) else 0) for i in range(2)]
        activations = int(shape.rows[-1] + rows * shape.widths[-1])
        H, W_t = shape.sizes[1:], shape.transposed
        return Buffers(
            theta=self._zeros(n),
            gradient=self._zeros(n),
            first=slots[0],
            second=slots[1],
            x=self._zeros(0),
            a=self._zeros(activations),
            delta=self._zeros(activations),
            kept=np.zeros(activations if self.network.dropout else 0, np.uint8),
            transposed=self._zeros(int(W_t[-1] + H[-1] * shape.widths[-2]) if len(H) > 1 else 0),
            left=self._zeros(BLOCK * self._threads),
            right=self._zeros(rows * int(shape.widths[1:].max())),
            entry_index=np.zeros(0, np.uint32),
            entry_value=self._zeros(0),
            entry_stop=np.zeros(rows, np.int64),
            list_row=np.zeros(0, np.uint32),
            list_value=self._zeros(0),
            list_start=np.zeros(D, np.int64),
            list_stop=np.zeros(D, np.int64),
            row_loss=np.zeros(rows),
            row_correct=np.zeros(rows),
            sync=np.zeros(3 * 8, np.int64),
        )

    def _zeros(self, n: int) -> FloatArray:
        return cast("FloatArray", aligned(n, self.dtype))

    def _slots(self) -> tuple[FloatArray, ...]:
        return (self._buffers.first, self._buffers.second)[: len(self.optimizer.slots)]

    def _compile(self) -> None:
        """Compile, or load from disk, what all calls run: its types do not depend on the data.

        Only :meth:`apply_gradients` has code of its own, compiled by its first call.
        """
        x = zeros(self.network, self.dtype).weights[0][:, :1].T.copy()
        source = self._source(HostData(x, None, None), sparse=False)
        lr, corrections = UNTRAINED
        order, sums = _read_only(np.zeros(0, np.int64)), np.empty((0, 3))
        self._compile_seconds += steps.RUN.compile(
            self._shape, self._buffers, self._rules, source, steps.FORWARD, order, 1, 0,
            _read_only(lr), corrections, sums, np.empty((0, 0), self.dtype), 0, 1,
        )  # fmt: skip

    def _own(self, data: Data, *, labelled: bool) -> NumbaData:
        if not isinstance(data, NumbaData):
            raise InvalidInputError(
                f"data was staged by another backend ({type(data).__name__}): "
                "call this engine's stage()"
            )
        if data.form != self._form:
            raise InvalidInputError(
                f"data was staged for (inputs, outputs, output, dtype) {data.form}, this engine "
                f"has {self._form}: call this engine's stage()"
            )
        if labelled and not data.labelled:
            raise InvalidInputError("this data was staged without targets: pass y to stage()")
        return data


def _rules(network: Network, optimizer: Optimizer, objective: Objective, seed: int) -> Rules:
    sgd = optimizer if isinstance(optimizer, SGD) else None
    adam = None if isinstance(optimizer, SGD) else optimizer
    return Rules(
        hidden=HIDDEN_ACTIVATIONS.index(network.hidden),
        output=OUTPUTS.index(network.output),
        optimizer=layers.OPTIMIZER_KERNELS.index(optimizer.kernel),
        mean=objective.reduction == "mean",
        l2=float(objective.l2),
        keep=1.0 - network.dropout,
        threshold=np.uint64(keep_threshold(network.dropout)),
        seed=np.uint64(seed),
        momentum=float(sgd.momentum) if sgd else 0.0,
        beta1=float(adam.beta1) if adam else 0.0,
        beta2=float(adam.beta2) if adam else 0.0,
        eps=float(adam.eps) if adam else 0.0,
        decay=float(adam.weight_decay) if adam else 0.0,
    )


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View an array, mapped or not, as plain and read-only: one type for the compiled code."""
    view = array.view(np.ndarray)
    view.flags.writeable = False
    return view


def _density(x: Inputs) -> float:
    """Share of nonzero inputs, over evenly spaced rows."""
    rows = int(x.shape[0])
    if is_sparse(x):
        return float(x.nnz / (rows * x.shape[1]))
    sample = np.asarray(x[:: -(-rows // SAMPLED_ROWS)])
    return float(np.count_nonzero(sample) / sample.size)


def _run_workers(arguments: tuple[object, ...], workers: int, sync: IntArray) -> None:
    """Run the compiled function once per worker: the first on this thread, the rest on new ones."""
    failures: list[BaseException] = []
    sync[:] = 0

    def work(worker: int) -> None:
        try:
            steps.RUN(*arguments, worker, workers)
        except BaseException as error:  # noqa: BLE001 - raised again by the calling thread
            failures.append(error)
            sync[steps.FAILED] = 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, workers)]
    started = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
        work(0)
    except BaseException:
        sync[steps.FAILED] = 1
        raise
    finally:
        for thread in started:
            thread.join()
    if failures:
        raise failures[0]
