"""Arrow columns as numpy arrays, one type at a time; pictures stay bytes until they are needed."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raysb.errors import DataError

Array: TypeAlias = npt.NDArray[np.generic]


def to_numpy(column: pa.Array | pa.ChunkedArray, where: str) -> Array:
    """One column without missing values.

    numbers and booleans          -> [n] of their type
    fixed-size lists of numbers   -> [n, k], nested ones [n, k, l, ...]
    fixed-shape tensors           -> [n, ...]
    lists of numbers              -> object [n] of 1-D arrays, whatever their lengths
    strings                       -> object [n] of str
    binary, struct<bytes, path>   -> object [n] of bytes (None where a struct has a path only)
    dictionaries                  -> as their values

    Args:
        column: An Arrow column; nulls have been refused before.
        where: File and column, for messages.

    Raises:
        DataError: The type cannot become rows of a batch.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than one chunk of an extension type
        array = pa.concat_arrays(array.chunks)
    kind = array.type
    if pa.types.is_dictionary(kind):
        return to_numpy(array.cast(kind.value_type), where)
    if _is_number(kind) or _is_text_or_bytes(kind):
        return np.asarray(array.to_numpy(zero_copy_only=False))
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.asarray(array.to_numpy_ndarray())
    if pa.types.is_fixed_size_list(kind):
        inner = to_numpy(array.flatten(), where)
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type):
        return _ragged(array)
    if _is_struct_of_bytes(kind):
        return np.asarray(pc.struct_field(array, "bytes").to_numpy(zero_copy_only=False))
    raise DataError(
        f"{where}: the type {kind} cannot become a batch. Numbers, lists of numbers, strings, "
        "binary and struct<bytes, path> can: convert the column, or leave it out of data.inputs."
    )


def as_ragged(column: Array) -> Array:
    """Rows of arrays as object [n], also where all of them happen to have one shape."""
    if column.dtype == object:
        return column
    rows = np.empty(len(column), object)
    rows[:] = list(column)
    return rows


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    names = [kind.field(i).name for i in range(kind.num_fields)]
    return "bytes" in names and _is_bytes(kind.field("bytes").type)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_text_or_bytes(kind: pa.DataType) -> bool:
    text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
    return bool(text) or _is_bytes(kind)


def _ragged(array: pa.Array) -> Array:
    """Lists of numbers as views of one array; always dtype object, so no batch is special."""
    values = np.asarray(array.flatten().to_numpy(zero_copy_only=False))
    lengths = np.asarray(pc.list_value_length(array).to_numpy(zero_copy_only=False), np.int64)
    ends = np.cumsum(lengths)
    rows = np.empty(len(array), object)
    for i, (start, end) in enumerate(zip(ends - lengths, ends, strict=True)):
        rows[i] = values[start:end]
    return rows
