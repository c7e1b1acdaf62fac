"""Hostile pickles, assembled opcode by opcode. Load with ``runpy.run_path(...)["HOSTILE"]``: name to bytes.

Every one must be refused with a ``FormatError``, without side effects, in bounded time and memory. Those in ``NAMED``
must be refused with a message that holds the given text. ``MARKER`` is the file that a successful attack would make.
"""

from __future__ import annotations

import struct

MARKER = "/tmp/neurofm_shards_was_here"  # noqa: S108  (never made unless a test fails)
P = b"\x80\x04"
STOP = b"."
F8 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x89\x88\x87R"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def raw(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(module: str, attribute: str, *args: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(args) + b"tR"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def ndarray(*args: bytes) -> bytes:
    return P + call("numpy", "ndarray", *args) + STOP


def built(state: bytes) -> bytes:
    """An array made by ``_reconstruct`` and given a state."""
    made = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), numbers(0), b"C\x01b")
    return P + made + state + b"b" + STOP


def dag(levels: int, pair: bytes) -> bytes:
    """A value that holds itself twice, ``levels`` deep: small in memory, endless when walked."""
    steps = b"".join(b"q" + bytes([i]) + b"0h" + bytes([i]) + b"h" + bytes([i]) + pair for i in range(levels))
    return b")" + steps


TUPLES = dag(60, b"\x86")
LISTS = b"]" + b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(60))
TOUCH = text(f"touch {MARKER}")
CODE = text(f"open({MARKER!r}, 'w').close()")


def storage_file(storage: bytes, count: int, data: bytes, key: str = "0") -> bytes:
    """A file of torch's older format, as ``torch.storage._load_from_bytes`` takes it."""
    p2 = b"\x80\x02"
    head = p2 + number(0x1950A86A20F9469CFC6C) + STOP + p2 + number(1001) + STOP
    system = p2 + b"}(" + text("protocol_version") + number(1001) + text("little_endian") + b"\x88u" + STOP
    identity = p2 + b"(" + text("storage") + storage + text(key) + text("cpu") + number(count) + b"NtQ" + STOP
    return head + system + identity + p2 + b"](" + text(key) + b"e" + STOP + struct.pack("<Q", count) + data


def tensor(file: bytes, first: int, shape: bytes, strides: bytes) -> bytes:
    storage = call("torch.storage", "_load_from_bytes", raw(file))
    hooks = call("collections", "OrderedDict")
    return P + call("torch._utils", "_rebuild_tensor_v2", storage, number(first), shape, strides, b"\x89", hooks) + STOP


FLOATS = storage_file(name("torch", "FloatStorage"), 4, bytes(16))
SNEAKY = storage_file(call("os", "system", TOUCH), 4, bytes(16))

CALLS: dict[str, bytes] = {
    "os.system": call("os", "system", TOUCH),
    "posix.system": call("posix", "system", TOUCH),
    "subprocess.Popen": call("subprocess", "Popen", TOUCH),
    "builtins.eval": call("builtins", "eval", CODE),
    "builtins.exec": call("builtins", "exec", CODE),
    "__builtin__.eval": call("__builtin__", "eval", CODE),
    "builtins.getattr": call("builtins", "getattr", name("os", "path"), text("os")),
    "builtins.__import__": call("builtins", "__import__", text("os")),
    "builtins.open": call("builtins", "open", text(MARKER), text("w")),
    "pickle.loads": call("pickle", "loads", raw(P + call("os", "system", TOUCH) + STOP)),
    "importlib.import_module": call("importlib", "import_module", text("antigravity")),
    "operator.attrgetter": call("operator", "attrgetter", text("system")),
    "functools.partial": call("functools", "partial", name("os", "system"), TOUCH),
    "numpy.load": call("numpy", "load", text("/etc/passwd"), b"N", b"\x88"),
    "numpy.fromfile": call("numpy", "fromfile", text("/etc/passwd")),
    "numpy.save": call("numpy", "save", text(MARKER), numbers(1)),
    "numpy.frombuffer": call("numpy", "frombuffer", raw(bytes(8))),
    "numpy.core.multiarray.array": call("numpy.core.multiarray", "array", numbers(1), text("O")),
    "numpy.ctypeslib.load_library": call("numpy.ctypeslib", "load_library", text("libc"), text("/")),
    "numpy.f2py.compile": call("numpy.f2py", "compile", TOUCH),
    "numpy.testing._private.utils.runstring": call("numpy.testing._private.utils", "runstring", CODE, b"}"),
    "numpy.lib.stride_tricks.as_strided": call("numpy.lib.stride_tricks", "as_strided", numbers(1), numbers(99)),
    "numpy.lib.format.read_array": call("numpy.lib.format", "read_array", text("x")),
    "numpy.ndarray.tofile": call("numpy", "ndarray.tofile", text(MARKER)),
    "torch.load": call("torch", "load", text("/etc/passwd")),
    "torch.hub.load": call("torch.hub", "load", text("x")),
    "torch.serialization.load": call("torch.serialization", "load", text("x")),
    "torch._utils._rebuild_wrapper_subclass": call("torch._utils", "_rebuild_wrapper_subclass", b"N"),
    "copyreg.__newobj__": call("copyreg", "__newobj__", name("os", "system")),
    "copyreg._reconstructor": call("copyreg", "_reconstructor", name("os", "system"), b"N", b"N"),
    "copy_reg._reconstructor": call("copy_reg", "_reconstructor", name("os", "system"), b"N", b"N"),
    "webdataset.autodecode.torch_loads": call("webdataset.autodecode", "torch_loads", raw(b"x")),
    "collections.defaultdict": call("collections", "defaultdict", name("os", "system")),
    "neurofm_shards.codecs.pyd.PydCodec": call("neurofm_shards.codecs.pyd", "PydCodec"),
}
#: What the message must name.
NAMED = {key: key for key in CALLS} | {"torch storage that runs code": "os.system", "global by stack": "nt.system"}

HOSTILE: dict[str, bytes] = {key: P + body + STOP for key, body in CALLS.items()} | {
    "global by stack": P + text("nt") + text("system") + b"\x93" + TOUCH + b"\x85R.",
    "ndarray of objects": ndarray(numbers(1), text("O"), raw(b"A" * 8)),
    "ndarray of objects, named O8": ndarray(numbers(1), text("|O8"), raw(b"A" * 8)),
    "ndarray of hidden objects": ndarray(numbers(1), text("i8,O"), raw(b"A" * 16)),
    "ndarray without buffer": ndarray(numbers(4), text("<f8")),
    "ndarray with None as buffer": ndarray(numbers(4), text("<f8"), b"N"),
    "ndarray with offset": ndarray(numbers(1), text("<f8"), raw(bytes(8)), number(-8)),
    "ndarray with strides": ndarray(numbers(2), text("<f8"), raw(bytes(16)), number(8), numbers(-8)),
    "ndarray beyond its buffer": ndarray(numbers(1000), text("<f8"), raw(bytes(8))),
    "ndarray of fewer bytes": ndarray(numbers(1), text("<f8"), raw(bytes(16))),
    "ndarray of negative length": ndarray(numbers(-1), text("<f8"), raw(b"")),
    "ndarray of overflowing size": ndarray(numbers(2**32, 2**32), text("<f8"), raw(b"")),
    "ndarray of a huge empty shape": ndarray(numbers(0, 2**62), text("<f8"), raw(b"")),
    "ndarray of 33 dimensions": ndarray(numbers(*[1] * 33), text("<f8"), raw(bytes(8))),
    "ndarray of float dimensions": ndarray(b"G" + bytes(8) + b"\x85", text("<f8"), raw(b"")),
    "ndarray of text": ndarray(numbers(1), text("<U1"), raw(b"\xff" * 4)),
    "ndarray of dates": ndarray(numbers(1), text("<M8[ns]"), raw(bytes(8))),
    "ndarray of voids": ndarray(numbers(1), text("|V8"), raw(bytes(8))),
    "ndarray of long doubles": ndarray(numbers(1), text("<f16"), raw(bytes(16))),
    "ndarray of sub-arrays": ndarray(numbers(1), text("(2,)f8"), raw(bytes(16))),
    "dtype of objects": built(b"(K\x01" + numbers(1) + F8.replace(b"f8", b"O8") + b"\x89" + raw(b"A" * 8) + b"t"),
    "dtype with hidden fields": built(
        b"(K\x01"
        + numbers(1)
        + F8
        + b"(K\x03"
        + text("|")
        + b"N"
        + text("a")
        + b"\x85}("
        + text("a")
        + F8.replace(b"f8", b"O8")
        + b"K\x00\x86u"
        + number(8)
        + number(1)
        + number(63)
        + b"tb\x89"
        + raw(b"A" * 8)
        + b"t"
    ),
    "dtype with object flags": built(
        b"(K\x01"
        + numbers(1)
        + F8
        + b"(K\x03"
        + text("<")
        + b"NNN"
        + number(-1)
        + number(-1)
        + number(63)
        + b"tb\x89"
        + raw(b"A" * 8)
        + b"t"
    ),
    "dtype with an endless state": P + F8 + TUPLES + b"b.",
    "dtype with an endless order": P + F8 + b"(K\x03" + TUPLES + b"NNNK\x00K\x00K\x00tb.",
    "dtype with endless flags": P
    + F8
    + b"(K\x03"
    + text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    + TUPLES
    + b"tb.",
    "dtype by an endless name": P + name("numpy", "dtype") + TUPLES + b"\x85R.",
    "array without state": built(b"")[:-2] + STOP,
    "array whose state is a list of objects": built(b"(K\x01" + numbers(1) + F8 + b"\x89]t"),
    "array of another class": P
    + call("numpy.core.multiarray", "_reconstruct", name("os", "system"), numbers(0), b"C\x01b"),
    "array of an allowed class that is no array": P
    + call("numpy.core.multiarray", "_reconstruct", name("numpy", "dtype"), numbers(0), b"C\x01b")
    + STOP,
    "scalar of too few bytes": P + call("numpy.core.multiarray", "scalar", F8, raw(b"A")) + STOP,
    "scalar of an object": P + call("numpy.core.multiarray", "scalar", F8.replace(b"f8", b"O8"), raw(b"A" * 8)) + STOP,
    "frombuffer with impossible axes": P
    + call("numpy.core.numeric", "_frombuffer", raw(bytes(32)), F8, numbers(2, 2), text("K"), numbers(0, 5))
    + STOP,
    "frombuffer beyond its buffer": P
    + call("numpy.core.numeric", "_frombuffer", raw(bytes(8)), F8, numbers(2**40), text("C"))
    + STOP,
    "frombuffer in an endless order": P
    + call("numpy.core.numeric", "_frombuffer", raw(bytes(8)), F8, numbers(1), TUPLES)
    + STOP,
    "text in another encoding": P + call("_codecs", "encode", text("cat"), text("rot13")) + STOP,
    "text in an endless encoding": P + call("_codecs", "encode", text("cat"), TUPLES) + STOP,
    "text encoded again and again": P
    + name("_codecs", "encode")
    + b"q\x00"
    + text("x" * 1_000_000)
    + text("latin1")
    + b"\x86q\x010"
    + b"h\x00h\x01R" * 5_000
    + STOP,
    "bytes repeated by memo": P + b"](" + raw(bytes(1_000_000)) + b"q\x00" + b"h\x00" * 100_000 + b"e.",
    "arrays repeated by memo": P
    + b"]("
    + call("numpy", "ndarray", numbers(125_000), text("<f8"), raw(bytes(1_000_000)))
    + b"q\x00"
    + b"h\x00" * 100_000
    + b"e.",
    "torch storage that runs code": P + call("torch.storage", "_load_from_bytes", raw(SNEAKY)) + STOP,
    "torch storage that runs code when loaded": P
    + call("torch.storage", "_load_from_bytes", raw(P + call("os", "system", TOUCH) + STOP))
    + STOP,
    "torch storage in a zip": P + call("torch.storage", "_load_from_bytes", raw(b"PK\x03\x04" + bytes(100))) + STOP,
    "torch storage itself": P + call("torch.storage", "_load_from_bytes", raw(FLOATS)) + STOP,
    "torch storage of 2**60": tensor(
        storage_file(name("torch", "FloatStorage"), 2**60, b""), 0, numbers(4), numbers(1)
    ),
    "torch storage of another class": tensor(
        storage_file(name("numpy", "ndarray"), 4, bytes(16)), 0, numbers(4), numbers(1)
    ),
    "torch storage read again and again": P
    + name("torch.storage", "_load_from_bytes")
    + b"q\x00"
    + raw(FLOATS)
    + b"\x85q\x010"
    + b"h\x00h\x01R0" * 100_000
    + b"N.",
    "tensor beyond its storage": tensor(FLOATS, 0, numbers(5), numbers(1)),
    "tensor before its storage": tensor(FLOATS, -1, numbers(4), numbers(1)),
    "tensor with negative strides": tensor(FLOATS, 3, numbers(4), numbers(-1)),
    "tensor with overflowing strides": tensor(FLOATS, 0, numbers(2), numbers(2**62)),
    "tensor expanded to 2**40": tensor(FLOATS, 0, numbers(2**40), numbers(0)),
    "tensor with hooks": tensor(FLOATS, 0, numbers(4), numbers(1)).replace(
        b"ccollections\nOrderedDict\n(tR", b"}" + text("a") + b"Ns"
    ),
    "persistent id": P + text("storage") + b"Q.",
    "persistent id in text": P + b"Pstorage\n.",
    "extension code 1": P + b"\x82\x01.",
    "extension code 2": P + b"\x83\x01\x00.",
    "extension code 4": P + b"\x84\x01\x00\x00\x00.",
    "new object": P + name("collections", "OrderedDict") + b")\x81.",
    "new object with keywords": P + name("collections", "OrderedDict") + b")}\x92.",
    "instance": P + b"(ios\nsystem\n.",
    "object": P + b"(" + name("collections", "OrderedDict") + b"o.",
    "state of a dict": P + call("collections", "OrderedDict") + b"}" + text("__class__") + b"Nsb.",
    "state of a function": P + name("numpy", "ndarray") + b"}" + text("__dict__") + b"Nsb.",
    "call of a value": P + text("system") + b")R.",
    "call with a list": P + name("numpy", "ndarray") + b"]R.",
    "a function as value": P + name("numpy", "ndarray") + STOP,
    "a dtype as value": P + F8 + STOP,
    "a function in a list": P + b"]" + name("numpy", "ndarray") + b"a.",
    "call of an endless name": P + TUPLES + text("x") + b"\x93.",
    "dict with an endless key": P + b"}" + TUPLES + b"Ns.",
    "dict with a list as key": P + b"}]Ns.",
    "out-of-band buffer": P + b"\x97.",
    "list that holds itself": P + b"]q\x00h\x00a.",
    "dict that holds itself": P + b"}q\x00" + text("a") + b"h\x00s.",
    "tuples that double": P + TUPLES + STOP,
    "lists that double": P + LISTS + STOP,
    "shape that doubles": ndarray(TUPLES, text("<f8"), raw(b"")),
    "nested lists": P + b"]" * 100_000 + b"a" * 99_999 + STOP,
    "nested tuples": P + b")" + b"\x85" * 100_000 + STOP,
    "marks": P + b"(" * 900_000 + STOP,
    "too many values": P + b"](" + b"N" * 3_000_000 + b"e.",
    "too many lists": P + b"](" + b"]" * 3_000_000 + b"e.",
    "bytes of 2**63": P + b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "bytes of 2**64": P + b"\x8e" + b"\xff" * 8 + b".",
    "text of 2**60": P + b"\x8d" + struct.pack("<Q", 2**60) + b".",
    "bytearray of 2**60": P + b"\x96" + struct.pack("<Q", 2**60) + b".",
    "frame of 2**60": P + b"\x95" + struct.pack("<Q", 2**60) + b"N.",
    "integer of 255 bytes": P + b"\x8a\xff" + b"\x7f" * 255 + b".",
    "integer of 2**31 bytes": P + b"\x8b\xff\xff\xff\x7f.",
    "integer in text": P + b"L" + b"9" * 100_000 + b"L\n.",
    "name without end": P + b"c" + b"a" * 100_000,
    "text that is not UTF-8": P + b"X\x02\x00\x00\x00\xff\xfe.",
    "memo that was never stored": P + b"h\x05.",
    "empty stack": P + b"0.",
    "no value": P + STOP,
    "two values": P + b"NN.",
    "append to a tuple": P + b")Na.",
    "items of a list": P + b"]NNs.",
    "odd items": P + b"}(Nu.",
    "truncated": P + call("numpy", "ndarray", numbers(4), text("<f8"), raw(bytes(32)))[:-20],
    "trailing bytes": ndarray(numbers(4), text("<f8"), raw(bytes(32))) + b"x",
    "a second pickle": P + b"N." + P + call("os", "system", TOUCH) + STOP,
    "empty": b"",
    "only a protocol": P,
    "protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "protocol 1": b"N.",
    "protocol 6": b"\x80\x06N.",
    "protocol twice": P + P + b"N.",
}
