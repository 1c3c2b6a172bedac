"""DCP's table of contents, `.metadata`, read without running what is in it.

The file is a pickle, and DCP's own reader executes whatever a stranger wrote there. Here a pickle can name the classes
of such a table and nothing else, and what it describes is tensors alone: DCP unpickles other values without any check.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.serialization import _get_layout

from cookbook.errors import UserError, last_line

KNOWN = {
    (kind.__module__, kind.__name__): kind
    for kind in (
        dcp.Metadata,
        dcp.MetadataIndex,
        dcp.StorageMeta,
        dcp.TensorStorageMetadata,
        dcp.BytesStorageMetadata,
        dcp.ChunkStorageMetadata,
        dcp.TensorProperties,
        dcp._MEM_FORMAT_ENCODING,
        _StorageInfo,
        torch.Size,
        _get_layout,
    )
}


class _Unpickler(pickle._Unpickler):  # the one in Python: in the one in C, no instruction can be overridden
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if module.split(".")[0] == "pathlib":  # where the checkpoint was written, which nobody reads
            return lambda *parts: "/".join(parts)
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a checkpoint")
        return KNOWN[module, name]

    def load_build(self) -> None:
        if callable(self.stack[-2]):  # else a pickle could replace methods of the classes that it may name
            raise pickle.UnpicklingError("it changes a class")
        super().load_build()

    dispatch: dict[int, Callable] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


class Reader(FileSystemReader):
    """Reads the tensors of a DCP folder, after checking that every file in its table is there and long enough.

    Raises:
        UserError: the folder is incomplete or damaged, or its table holds what is no part of a checkpoint.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        path = folder / ".metadata"
        if not path.exists():
            raise UserError(f"{path} is missing: not a checkpoint, or an incomplete copy; copy it again")
        try:
            with open(path, "rb") as file:
                self.table, needed = _tensors(_Unpickler(file).load())
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to mean
            raise UserError(f"{path} is damaged ({last_line(error)}); use another checkpoint") from None
        for name, size in needed.items():
            if not (folder / name).exists():
                raise UserError(f"{folder / name} is missing: the checkpoint is incomplete; copy it again")
            if (actual := (folder / name).stat().st_size) < size:
                raise UserError(f"{folder / name} is cut short: {actual} of {size} bytes; copy the checkpoint again")

    def read_metadata(self, *_: Any, **kwargs: Any) -> dcp.Metadata:
        """Replaces DCP's method, which unpickles; reads the table once, not for each tensor."""
        return self.table


def _tensors(table: dcp.Metadata) -> tuple[dcp.Metadata, dict[str, int]]:
    """The table without entries that are not tensors, and the least size of each file."""
    entries = {n: e for n, e in table.state_dict_metadata.items() if isinstance(e, dcp.TensorStorageMetadata)}
    needed: dict[str, int] = {}
    for info in table.storage_data.values():
        if Path(info.relative_path).name != info.relative_path:
            raise ValueError(f"it names the file {info.relative_path}, which is outside")
        needed[info.relative_path] = max(needed.get(info.relative_path, 0), info.offset + info.length)
    return replace(table, state_dict_metadata=entries, storage_meta=dcp.StorageMeta()), needed
