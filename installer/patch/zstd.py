"""The distribution's libzstd: the very library that mksquashfs compresses with, so that its blocks can be made again.

Only functions of the library's stable interface (zstd.h, since 1.4.0). Each call works within lengths that the caller
gives, and lets go of the interpreter lock.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import c_char_p, c_int, c_size_t, c_ulonglong, c_void_p
from functools import cache

from engine.errors import ResourceError, TrustError

_LEVEL, _WINDOW_LOG, _LONG_DISTANCE = 100, 101, 160  # ZSTD_cParameter
_WINDOW_LOG_MAX = 100  # ZSTD_dParameter
MAX_WINDOW_LOG = 28  # 256 MiB; the longest reference and what is made from it fit
NO_SIZE = (1 << 64) - 2  # ZSTD_CONTENTSIZE_ERROR and above: no size is told

Bytes = bytes | bytearray | memoryview


@cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise ResourceError("libzstd is not installed", remedy="Install it: apt-get install libzstd1") from error
    sizes: dict[str, list[type]] = {
        "ZSTD_compressBound": [c_size_t],
        "ZSTD_compressCCtx": [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_int],
        "ZSTD_compress2": [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t],
        "ZSTD_CCtx_setParameter": [c_void_p, c_int, c_int],
        "ZSTD_CCtx_refPrefix": [c_void_p, c_void_p, c_size_t],
        "ZSTD_CCtx_reset": [c_void_p, c_int],
        "ZSTD_freeCCtx": [c_void_p],
        "ZSTD_decompressDCtx": [c_void_p, c_void_p, c_size_t, c_void_p, c_size_t],
        "ZSTD_DCtx_setParameter": [c_void_p, c_int, c_int],
        "ZSTD_DCtx_refPrefix": [c_void_p, c_void_p, c_size_t],
        "ZSTD_DCtx_reset": [c_void_p, c_int],
        "ZSTD_freeDCtx": [c_void_p],
        "ZSTD_findFrameCompressedSize": [c_void_p, c_size_t],
    }
    for name, arguments in sizes.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_size_t
    lib.ZSTD_getFrameContentSize.argtypes = [c_void_p, c_size_t]
    lib.ZSTD_getFrameContentSize.restype = c_ulonglong
    lib.ZSTD_createCCtx.argtypes, lib.ZSTD_createCCtx.restype = [], c_void_p
    lib.ZSTD_createDCtx.argtypes, lib.ZSTD_createDCtx.restype = [], c_void_p
    lib.ZSTD_isError.argtypes, lib.ZSTD_isError.restype = [c_size_t], c_int
    lib.ZSTD_getErrorName.argtypes, lib.ZSTD_getErrorName.restype = [c_size_t], c_char_p
    lib.ZSTD_versionString.argtypes, lib.ZSTD_versionString.restype = [], c_char_p
    return lib


class _Context:
    """A context of the library, freed with this object."""

    def __init__(self, make: str, free: str) -> None:
        lib = _library()
        self.at, self._free = getattr(lib, make)(), getattr(lib, free)
        if not self.at:
            raise MemoryError

    def __del__(self) -> None:
        self._free(self.at)


_of_thread = threading.local()


def _context(job: str) -> object:
    """This thread's context for a job: costly to make, not to be shared, gone when the thread ends."""
    context: _Context | None = getattr(_of_thread, job, None)
    if context is None:
        side = "D" if job == "decompress" else "C"
        context = _Context(f"ZSTD_create{side}Ctx", f"ZSTD_free{side}Ctx")
        setattr(_of_thread, job, context)
    return context.at


def version() -> str:
    """The library's version, such as 1.5.4; another one compresses the same bytes differently."""
    told: bytes = _library().ZSTD_versionString()
    return told.decode()


def pack(raw: Bytes, level: int) -> bytes:
    """``raw`` as one frame, exactly as `mksquashfs -comp zstd -Xcompression-level LEVEL` makes it of a block."""
    lib = _library()
    out = bytearray(lib.ZSTD_compressBound(len(raw)))
    n = lib.ZSTD_compressCCtx(_context("pack"), _at(out), len(out), _at(raw), len(raw), level)
    return bytes(memoryview(out)[: _checked(n)])


def compress(raw: Bytes, level: int, reference: Bytes = b"") -> bytes:
    """``raw`` as one frame that refers to ``reference``, both of them no longer than a window together."""
    lib, context = _library(), _context("compress")
    window = max(20, (len(raw) + len(reference)).bit_length())
    if window > MAX_WINDOW_LOG:
        raise ValueError(f"{len(raw)} bytes with a reference of {len(reference)} are too long for one frame")
    out = bytearray(lib.ZSTD_compressBound(len(raw)))
    _checked(lib.ZSTD_CCtx_reset(context, 3))
    for parameter, value in ((_LEVEL, level), (_WINDOW_LOG, window), (_LONG_DISTANCE, 1)):
        _checked(lib.ZSTD_CCtx_setParameter(context, parameter, value))
    _checked(lib.ZSTD_CCtx_refPrefix(context, _at(reference), len(reference)))
    n = lib.ZSTD_compress2(context, _at(out), len(out), _at(raw), len(raw))
    return bytes(memoryview(out)[: _checked(n)])


def decompress(frame: Bytes, size: int, reference: Bytes = b"") -> bytearray:
    """The ``size`` bytes in ``frame``; no more is ever written, whatever the frame says.

    Raises:
        TrustError: it holds another number of bytes, or is no frame.
    """
    lib, context = _library(), _context("decompress")
    out = bytearray(size)
    _checked(lib.ZSTD_DCtx_reset(context, 3))
    _checked(lib.ZSTD_DCtx_setParameter(context, _WINDOW_LOG_MAX, MAX_WINDOW_LOG))
    _checked(lib.ZSTD_DCtx_refPrefix(context, _at(reference), len(reference)))
    n = _checked(lib.ZSTD_decompressDCtx(context, _at(out), size, _at(frame), len(frame)))
    if n != size:
        raise TrustError(f"compressed data holds {n} bytes, {size} were told")
    return out


def frame_length(data: Bytes) -> int:
    """Bytes of the frame that ``data`` begins with; 0 when it does not begin with a whole one."""
    lib = _library()
    n: int = lib.ZSTD_findFrameCompressedSize(_at(data), len(data))
    return 0 if lib.ZSTD_isError(n) else n


def content_size(data: Bytes) -> int:
    """Bytes that the frame at the begin of ``data`` says it holds; -1 when it does not say."""
    n: int = _library().ZSTD_getFrameContentSize(_at(data), len(data))
    return -1 if n >= NO_SIZE else n


def _checked(n: int) -> int:
    lib = _library()
    if lib.ZSTD_isError(n):
        raise TrustError(f"compressed data is damaged: {lib.ZSTD_getErrorName(n).decode()}")
    return n


def _at(data: Bytes) -> object:
    """The address of a buffer, which must outlive the call. A view must be of something writable."""
    if isinstance(data, bytes):
        return data
    return (ctypes.c_char * len(data)).from_buffer(data) if len(data) else None
