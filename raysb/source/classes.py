"""Names of classes, as they lie in the metadata of a parquet file."""

import json

import pyarrow as pa

_KEY = b"classes"


def with_classes(field: pa.Field, names: tuple[str, ...]) -> pa.Field:
    """The field of a label with the names of its classes, by number."""
    return field.with_metadata({**(field.metadata or {}), _KEY: json.dumps(list(names))})


def classes_of(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Names of the classes of a column by number; None where the file names none."""
    if column not in schema.names:
        return None
    text = (schema.field(column).metadata or {}).get(_KEY)
    try:
        names = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None  # somebody else's `classes`
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)
