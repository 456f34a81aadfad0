"""The error of each tensor: small where a type explains it, large where something is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from converters import dtypes, quants
from converters.dtypes import DType
from converters.fidelity import tensor_errors
from converters.tensors import ComputedTensor, TensorInfo


def _tensor(weights: np.ndarray, dtype: DType) -> ComputedTensor:
    even = np.ones(weights.shape[1], np.float32) if quants.needs_importance(dtype) else None
    rows = quants.encode(weights.astype(np.float32), dtype, tensor="w", first_index=0, importance=even)
    return ComputedTensor(TensorInfo("w", dtype, weights.shape), "a test", rows)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 0.02, (512, 1024)).astype(np.float32)


@pytest.mark.parametrize("dtype", [each for each in dtypes.ALL if quants.can_encode(each)], ids=str)
def test_what_a_type_costs_is_allowed(dtype: DType, weights: np.ndarray) -> None:
    (found,) = tensor_errors({"w": _tensor(weights, dtypes.F32)}, {"w": _tensor(weights, dtype)})
    assert found.passed
    assert found.dtype == dtype
    if not dtype.is_plain:
        assert 0.1 * found.allowed < found.error  # a limit that says something


@pytest.mark.parametrize("dtype", [each for each in dtypes.ALL if quants.can_encode(each)], ids=str)
def test_rows_in_another_order_are_not_allowed(dtype: DType, weights: np.ndarray) -> None:
    (found,) = tensor_errors({"w": _tensor(weights, dtypes.F32)}, {"w": _tensor(weights[::-1], dtype)})
    assert not found.passed
    assert found.error > 1.25


def test_a_row_that_is_lost_at_the_end_is_seen(weights: np.ndarray) -> None:
    wrong = weights.copy()
    wrong[-1] = 0.0
    (found,) = tensor_errors({"w": _tensor(weights, dtypes.F32)}, {"w": _tensor(wrong, dtypes.F32)})
    assert not found.passed


def test_missing_and_misshapen_tensors_are_infinitely_far(weights: np.ndarray) -> None:
    source = {"w": _tensor(weights, dtypes.F32)}
    (missing,) = tensor_errors(source, {})
    (misshapen,) = tensor_errors(source, {"w": _tensor(weights[:256], dtypes.F32)})
    assert (missing.error, misshapen.error) == (np.inf, np.inf)
    assert not missing.passed and not misshapen.passed


def test_zeros_equal_zeros_and_nothing_else() -> None:
    zeros, ones = np.zeros((4, 256)), np.full((4, 256), 0.5)
    (same,) = tensor_errors({"w": _tensor(zeros, dtypes.F32)}, {"w": _tensor(zeros, dtypes.Q8_0)})
    (other,) = tensor_errors({"w": _tensor(zeros, dtypes.F32)}, {"w": _tensor(ones, dtypes.Q8_0)})
    assert (same.error, same.passed) == (0.0, True)
    assert not other.passed
