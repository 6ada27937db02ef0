"""Validation of an engine's inputs, and their conversion to one canonical form on the host.

The ``stage``, ``forward`` and ``load`` of every backend call these functions first, so that all
backends reject the same inputs with the same messages before any computation. Arrays that already
have the canonical form are not copied: memory-mapped inputs stay mapped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import numpy as np

from fusedmlp.data_frames import as_numbers, column_names, columns_of, positions, stacked
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import NUMERIC, host_array, host_copy, on_device
from fusedmlp.wording import counted

if TYPE_CHECKING:
    import numpy.typing as npt
    import scipy.sparse

    from fusedmlp.backend import State
    from fusedmlp.network import Network
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import DenseInputs, FloatArray, FloatDtype, Inputs, InputsLike, IntArray

_SCAN_BYTES: Final = 32 * 2**20
"""Size of the chunks of a NaN scan: a memory-mapped file is not read into memory as a whole."""

STORED_DTYPES: Final = frozenset(map(np.dtype, ("uint8", "float32", "float64")))
"""Inputs of these dtypes are stored unchanged; others are converted to the engine's dtype."""


@dataclass(frozen=True, slots=True)
class HostData:
    """A validated data set on the host.

    Parameters
    ----------
    x
        (N, D) C-ordered array of one of :data:`STORED_DTYPES` (may be read-only or
        memory-mapped), or canonical CSR of a float dtype.
    y
        (N,) int64 class indices for softmax; (N, K) of the engine's dtype otherwise; or None.
    sample_weight
        (N,) of the engine's dtype, or None.
    """

    x: Inputs
    y: IntArray | FloatArray | None
    sample_weight: FloatArray | None

    @property
    def rows(self) -> int:
        """N."""
        return int(self.x.shape[0])


def is_sparse(x: object) -> TypeGuard[scipy.sparse.csr_array]:
    """Whether ``x`` is a sparse container, without importing SciPy."""
    if isinstance(x, np.ndarray):  # the common case, without slow attribute look-ups
        return False
    return hasattr(x, "indptr") or (hasattr(x, "tocsr") and hasattr(x, "nnz"))


def as_inputs(x: InputsLike, feature_names: tuple[str, ...] | None = None) -> Inputs:
    """Return inputs of any kind as an array or CSR matrix with a shape, once for all later steps.

    Arrays in device memory are returned as they are, numeric arrays and CSR without a copy. Values
    are not checked: engines do that.

    Parameters
    ----------
    feature_names
        Columns to take from a data frame whose columns have names; None for all of them.

    Raises
    ------
    InvalidInputError
        It is something else than numbers, has no rows and columns, or lacks a column.
    """
    if type(x) is np.ndarray and x.dtype.kind in NUMERIC:
        return x
    if is_sparse(x):
        if x.format == "csr" or on_device(getattr(x, "data", x)):
            return x
        import scipy.sparse

        return scipy.sparse.csr_array(x)
    if on_device(x):
        return cast("Inputs", x)
    if feature_names is not None and (found := column_names(x)) is not None:
        columns = columns_of(x) or []
        order = positions(feature_names, found, "x")
        return cast("Inputs", stacked("x", [columns[j] for j in order], len(columns[0].values)))
    return cast("Inputs", host_array("x", x))


def validate_data(
    x: Inputs,
    y: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    network: Network,
    dtype: FloatDtype,
) -> HostData:
    """Validate a data set for a network; see :meth:`fusedmlp.backend.Engine.stage`."""
    inputs = validate_inputs(x, network, dtype)
    check_rows_exist(inputs.shape)
    rows = int(inputs.shape[0])
    return HostData(
        inputs,
        None if y is None else validate_targets(y, rows, network, dtype),
        None if sample_weight is None else validate_sample_weight(sample_weight, rows, dtype),
    )


def validate_inputs(x: Inputs, network: Network, dtype: FloatDtype) -> Inputs:
    """Validate inputs and convert them to a form of :class:`HostData`; 0 rows are allowed."""
    if is_sparse(x):
        return _validate_sparse(x, network, dtype)
    array = host_array("x", x)
    check_input_dtype(array.dtype)
    check_input_shape(array.shape, network)
    if array.dtype not in STORED_DTYPES:
        array = array.astype(dtype)
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    check_finite("x", array, dtype)
    return cast("DenseInputs", array)


def validate_targets(
    y: npt.ArrayLike, rows: int, network: Network, dtype: FloatDtype
) -> IntArray | FloatArray:
    """Validate targets for the network's output.

    Returns
    -------
    (N,) class indices for softmax, else (N, K) values.
    """
    array = as_numbers("y", host_copy("y", y))
    if array.dtype.kind not in NUMERIC:
        raise InvalidInputError(
            f"y has dtype {array.dtype}: give numbers (class indices for a softmax output)"
        )
    if array.shape[:1] != (rows,):
        raise InvalidInputError(f"y has shape {array.shape}, but x has {counted(rows, 'row')}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInputError(f"y{_first_index(~np.isfinite(array))} is NaN or infinite")
    if network.output == "softmax":
        return _class_indices(array, network.n_outputs)
    values = array.reshape(rows, -1)
    if array.ndim > 2 or values.shape[1] != network.n_outputs:
        raise InvalidInputError(
            f"y has shape {array.shape}, the network's {network.n_outputs} outputs need "
            f"({rows}, {network.n_outputs})"
        )
    if network.output == "sigmoid":
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            at = _first_index(wrong)
            raise InvalidInputError(
                f"y{at} is {values[wrong][0]}: labels of a sigmoid output are 0 or 1"
            )
    if network.output == "exp" and (values < 0).any():
        wrong = values < 0
        raise InvalidInputError(
            f"y{_first_index(wrong)} is {values[wrong][0]}: targets of an exp output are at least 0"
        )
    check_finite("y", values, dtype)
    return cast("FloatArray", np.ascontiguousarray(values, dtype=dtype))


def validate_state(state: State, network: Network, optimizer: Optimizer) -> None:
    """Raise :class:`InvalidInputError` unless a state fits the network and the optimizer."""
    state.parameters.check(network)
    if len(state.slots) != len(optimizer.slots):
        raise InvalidInputError(
            f"the state has {len(state.slots)} optimizer slots, "
            f"{type(optimizer).__name__} needs {len(optimizer.slots)}: {optimizer.slots}"
        )
    for slot in state.slots:
        slot.check(network)
    if state.step < 0:
        raise InvalidInputError(f"step {state.step} is not at least 0")


def check_rows(rows: IntArray, n_rows: int) -> IntArray:
    """Check that row indices are in [0, n_rows), and return them as contiguous int64."""
    array = np.ascontiguousarray(rows)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInputError(
            f"row indices have shape {array.shape} and dtype {array.dtype}: give (n,) integers"
        )
    if array.size == 0:
        raise InvalidInputError("there are no row indices: give at least one")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_rows:
        raise InvalidInputError(
            f"row index {low if low < 0 else high} is outside the data set's {n_rows} rows"
        )
    return array.astype(np.int64, copy=False)


def check_rates(lr: npt.ArrayLike, n_batches: int) -> npt.NDArray[np.float64]:
    """Check that learning rates are finite and ≥ 0, and return them as (n_batches,) float64."""
    rates = np.ascontiguousarray(lr, dtype=np.float64)
    if rates.shape != (n_batches,):
        raise InvalidInputError(f"lr has shape {rates.shape}, the batches need ({n_batches},)")
    if not (np.isfinite(rates).all() and (rates >= 0.0).all()):
        raise InvalidInputError("learning rates must be finite and at least 0")
    return rates


def _validate_sparse(
    x: scipy.sparse.csr_array, network: Network, dtype: FloatDtype
) -> scipy.sparse.csr_array:
    import scipy.sparse

    if on_device(getattr(x, "data", x)):
        raise InvalidInputError(
            "x is a sparse matrix in GPU memory, which no backend supports: "
            "pass SciPy's CSR (x.get() of CuPy)"
        )
    csr = scipy.sparse.csr_array(x)
    check_input_shape(csr.shape, network)
    if csr.dtype.kind not in NUMERIC:
        raise InvalidInputError(f"x has dtype {csr.dtype}: give numbers (float32 or float64)")
    if csr.dtype.name not in ("float32", "float64"):
        # Sparse integers are counts, and uint8 is no exception: they are not divided by 255.
        csr = csr.astype(dtype)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    check_finite("x.data", csr.data.reshape(1, -1), dtype)
    return csr


def check_rows_exist(shape: tuple[int, ...]) -> None:
    """Raise :class:`InvalidInputError` for a data set without rows."""
    if shape[0] == 0:
        raise InvalidInputError(f"the data set is empty: x has shape {shape}")


def check_input_dtype(dtype: np.dtype[Any]) -> None:
    """Raise :class:`InvalidInputError` for dense inputs that are not numeric."""
    if dtype.kind not in NUMERIC:
        raise InvalidInputError(
            f"x has dtype {dtype}: give numbers (float32, float64, or uint8 pixels)"
        )


def check_input_shape(shape: tuple[int, ...], network: Network) -> None:
    """Raise :class:`InvalidInputError` unless a shape is (N, D)."""
    if len(shape) != 2:
        raise InvalidInputError(
            f"x has shape {shape}: give (N, {network.n_inputs}); one row is x.reshape(1, -1)"
        )
    if shape[1] != network.n_inputs:
        raise InvalidInputError(
            f"x has {counted(shape[1], 'column')}, the network has "
            f"{counted(network.n_inputs, 'input')}"
        )


def check_finite(name: str, array: npt.NDArray[Any], dtype: FloatDtype = "float64") -> None:
    """Raise an error for a value of an array (N, C) that is not finite in the engine's dtype.

    The array is scanned in chunks of bounded size.

    Raises
    ------
    InvalidInputError
        A value is not finite, or too large; the message has its row and column, from 0.
    """
    if array.dtype.kind != "f" or array.size == 0:
        return
    # A sum of squares is twice as fast as a look at each value. NaN and infinity make it
    # non-finite, and a value that is too large makes it too large; so may many others, which the
    # second check excludes.
    largest = _largest(dtype)
    most = largest * largest if dtype == "float32" else math.inf
    if array.nbytes <= _SCAN_BYTES and float(np.vdot(array, array)) < most:
        return
    rows_per_chunk = max(1, _SCAN_BYTES * len(array) // array.nbytes)
    for start in range(0, len(array), rows_per_chunk):
        chunk = array[start : start + rows_per_chunk]
        if float(np.vdot(chunk, chunk)) < most:
            continue
        fits = np.abs(chunk) <= min(largest, _largest(chunk.dtype.name))
        if not fits.all():
            row, column = (int(i) for i in np.argwhere(~fits)[0])
            raise non_finite(f"{name}[{start + row}, {column}]", array[start + row, column])


def non_finite(place: str, value: float) -> InvalidInputError:
    """Return the error for an input value that is NaN, infinite, or too large for float32."""
    if math.isfinite(value):
        return InvalidInputError(
            f"{place} is {value}, and float32 holds numbers up to {_largest('float32'):.2g}: use "
            "dtype='float64', or scale the data"
        )
    return InvalidInputError(f"{place} is {value}: inputs must be finite; drop or fill such rows")


def _largest(dtype: str) -> float:
    return float(np.finfo(dtype).max)


def _class_indices(array: npt.NDArray[np.generic], n_classes: int) -> IntArray:
    if array.shape[1:] == (1,):
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidInputError(
            f"y has shape {array.shape}: a softmax output needs (N,) class indices "
            "(one-hot rows: pass y.argmax(axis=1))"
        )
    labels = array.astype(np.int64)
    wrong = labels != array
    if wrong.any():
        raise InvalidInputError(
            f"y{_first_index(wrong)} is {array[wrong][0]}: class indices are integers"
        )
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        raise InvalidInputError(
            f"y{_first_index(outside)} is {labels[outside][0]}: the network's {n_classes} "
            f"outputs need class indices 0 to {n_classes - 1}"
        )
    return labels


def validate_sample_weight(
    sample_weight: npt.ArrayLike, rows: int, dtype: FloatDtype
) -> FloatArray:
    """Validate sample weights and return them as (N,) of the engine's dtype."""
    weights = as_numbers("sample_weight", host_copy("sample_weight", sample_weight))
    if weights.dtype.kind not in NUMERIC:
        raise InvalidInputError(f"sample_weight has dtype {weights.dtype}: give numbers")
    if weights.shape != (rows,):
        raise InvalidInputError(f"sample_weight has shape {weights.shape}, x needs ({rows},)")
    wrong = ~np.isfinite(weights) | (weights < 0)
    if wrong.any():
        raise InvalidInputError(
            f"sample_weight{_first_index(wrong)} is {weights[wrong][0]}: "
            "weights are finite and at least 0"
        )
    check_finite("sample_weight", weights.reshape(-1, 1), dtype)
    return cast("FloatArray", np.ascontiguousarray(weights, dtype=dtype))


def _first_index(mask: npt.NDArray[np.bool_]) -> str:
    return str([int(i) for i in np.argwhere(mask)[0]])
