"""Between Triton's wire formats and ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from platform_assets.resources.triton_api import IndexEntry, TensorMetadata

if TYPE_CHECKING:
    import numpy.typing as npt
    from tritonclient.http import InferInput


def index_entry(line: Mapping[str, str]) -> IndexEntry:
    """Read a line of the repository index."""
    version = line.get("version")
    return IndexEntry(
        name=line["name"],
        version=int(version) if version else None,
        state=line.get("state", ""),
        reason=line.get("reason", ""),
    )


def tensor_metadata(tensor: Mapping[str, Any]) -> TensorMetadata:
    """Read one tensor of the metadata."""
    return TensorMetadata(tensor["name"], tensor["datatype"], tuple(map(int, tensor["shape"])))


def infer_input(name: str, array: npt.NDArray[Any]) -> InferInput:
    """Make an input tensor of an array; text as `str`, `bytes` or object arrays."""
    import numpy as np
    from tritonclient.http import InferInput
    from tritonclient.utils import np_to_triton_dtype

    # numpy's own text types pad and cut: the wire format wants the objects.
    data = array.astype(np.object_) if array.dtype.kind in "US" else np.ascontiguousarray(array)
    tensor = InferInput(name, list(data.shape), np_to_triton_dtype(data.dtype))
    tensor.set_data_from_numpy(data)
    return tensor


def decoded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Decode a BYTES tensor; leave every other as it is."""
    import numpy as np

    if array.dtype.kind != "O":
        return array
    words = np.empty(array.size, dtype=np.object_)
    words[:] = [item.decode() if isinstance(item, bytes) else item for item in array.flat]
    return words.reshape(array.shape)
