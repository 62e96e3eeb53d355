"""A SavedModel through TensorFlow's C interface, which TensorFlow Serving stands on, without Python TensorFlow.

Usage: python -P c_api.py VERSION_FOLDER, then a request a line on standard input, an answer a line on standard output:
{"feeds": {"image:0": {"dtype": 4, "shape": [1, 8, 8, 1], "data": "base64"}}, "fetches": ["probabilities:0"]}
{"code": 0, "message": "", "values": [{"dtype": 1, "shape": [1, 10], "data": "base64"}]}
`dtype` is TensorFlow's number; the data of strings (7) are a list of base64.
"""

import base64
import ctypes
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy.random  # before TensorFlow's library is opened, or that ends the process

STRING, STRING_BYTES = 7, 24


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def library() -> Any:
    spec = importlib.util.find_spec("tensorflow")
    assert spec
    assert spec.origin
    loaded = ctypes.CDLL(str(Path(spec.origin).with_name("libtensorflow_cc.so.2")))
    for name in ("NewStatus", "NewSessionOptions", "NewGraph", "LoadSessionFromSavedModel", "GraphOperationByName"):
        getattr(loaded, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("AllocateTensor", "TensorData", "StringGetDataPointer"):
        getattr(loaded, f"TF_{name}").restype = ctypes.c_void_p
    for name in ("StringGetSize", "TensorByteSize"):
        getattr(loaded, f"TF_{name}").restype = ctypes.c_size_t
    loaded.TF_Message.restype = ctypes.c_char_p
    loaded.TF_Dim.restype = ctypes.c_int64
    return loaded


class Servable:
    """A version folder, open."""

    def __init__(self, folder: str) -> None:
        self.tf = library()
        self.status = ctypes.c_void_p(self.tf.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.tf.TF_NewGraph())
        options = ctypes.c_void_p(self.tf.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        session = self.tf.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, self.graph, None, self.status
        )
        if self.tf.TF_GetCode(self.status):
            raise SystemExit(self.tf.TF_Message(self.status).decode())
        self.session = ctypes.c_void_p(session)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        feeds, fetches = request["feeds"], request["fetches"]
        places = (Output * len(feeds))(*map(self._place, feeds))
        given = (ctypes.c_void_p * len(feeds))(*map(self._tensor, feeds.values()))
        wanted = (Output * len(fetches))(*map(self._place, fetches))
        values = (ctypes.c_void_p * len(fetches))()
        self.tf.TF_SessionRun(
            self.session, None, places, given, len(feeds), wanted, values, len(fetches), None, 0, None, self.status
        )
        code = self.tf.TF_GetCode(self.status)
        reply = {"code": code, "message": self.tf.TF_Message(self.status).decode(errors="replace"), "values": []}
        if not code:
            reply["values"] = [self._value(ctypes.c_void_p(value)) for value in values]
        for tensor in [*given, *values]:
            if tensor:
                self.tf.TF_DeleteTensor(ctypes.c_void_p(tensor))
        return reply

    def _place(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        return Output(self.tf.TF_GraphOperationByName(self.graph, operation.encode()), int(index or 0))

    def _tensor(self, value: dict[str, Any]) -> int:
        shape, dtype, data = value["shape"], value["dtype"], value["data"]
        dims = (ctypes.c_int64 * len(shape))(*shape)
        strings = [base64.b64decode(text) for text in data] if dtype == STRING else []
        content = b"" if dtype == STRING else base64.b64decode(data)
        size = STRING_BYTES * len(strings) if dtype == STRING else len(content)
        tensor = self.tf.TF_AllocateTensor(dtype, dims, len(shape), ctypes.c_size_t(size))
        start = self.tf.TF_TensorData(ctypes.c_void_p(tensor))
        for i, text in enumerate(strings):
            place = ctypes.c_void_p(start + STRING_BYTES * i)
            self.tf.TF_StringInit(place)
            self.tf.TF_StringCopy(place, text, ctypes.c_size_t(len(text)))
        if content:
            ctypes.memmove(start, content, len(content))
        return tensor

    def _value(self, tensor: ctypes.c_void_p) -> dict[str, Any]:
        dtype = self.tf.TF_TensorType(tensor)
        shape = [self.tf.TF_Dim(tensor, axis) for axis in range(self.tf.TF_NumDims(tensor))]
        start, size = self.tf.TF_TensorData(tensor), self.tf.TF_TensorByteSize(tensor)
        data: Any = base64.b64encode(ctypes.string_at(start, size)).decode() if dtype != STRING else []
        for i in range(size // STRING_BYTES if dtype == STRING else 0):
            place = ctypes.c_void_p(start + STRING_BYTES * i)
            text = ctypes.string_at(self.tf.TF_StringGetDataPointer(place), self.tf.TF_StringGetSize(place))
            data.append(base64.b64encode(text).decode())
        return {"dtype": dtype, "shape": shape, "data": data}


def main(folder: str) -> None:
    servable = Servable(folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(servable.answer(json.loads(line))), flush=True)
    assert "tensorflow" not in sys.modules
    assert numpy.random


if __name__ == "__main__":
    main(*sys.argv[1:])
