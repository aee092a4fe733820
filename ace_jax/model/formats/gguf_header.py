"""Reads a GGUF header within bounds.

The header states how many fields, array items, tensors and bytes follow, and the `gguf` package
makes arrays for each. This reader compares those numbers with the file's size and with any model's.
"""

from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType

MOST_FIELDS = 1 << 12
MOST_TENSORS = 1 << 16
MOST_DIMENSIONS = 4
MOST_ITEMS = 1 << 21  # in all arrays; a vocabulary of 256,000 with its merges has 1.3 million


class BoundedReader(GGUFReader):
    """A `GGUFReader` that raises `ValueError` for a header that no model has.

    It overrides the methods through which all reads, arrays, fields and tensors pass. Their numbers
    are of NumPy's types.
    """

    data: Any
    _items = 0

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        if isinstance(self.data, np.memmap):  # its slices are slow
            self.data = self.data.view(np.ndarray)
        if count > 1:  # a text, a shape or a tensor
            end = offset + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"{count} values end at byte {end} of {len(self.data)}")
            if dtype is np.uint64:
                _check_most(count, MOST_DIMENSIONS, "dimensions")
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
        if raw_type == GGUFValueType.ARRAY:
            self._items += int(self._get(orig_offs + 4, np.uint64)[0])
            _check_most(self._items, MOST_ITEMS, "items")
        return super()._get_field_parts(orig_offs, raw_type)

    def _build_fields(self, offs: Any, count: Any) -> Any:
        _check_most(count, MOST_FIELDS, "fields")
        return super()._build_fields(offs, count)

    def _build_tensor_info(self, offs: Any, count: Any) -> Any:
        _check_most(count, MOST_TENSORS, "tensors")
        return super()._build_tensor_info(offs, count)


def _check_most(count: Any, most: int, what: str) -> None:
    if count > most:
        raise ValueError(f"{count} {what}, where no model has more than {most}")
