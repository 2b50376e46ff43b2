"""Living with an engine inside one's own process: its working directory, its memory, its configuration.

Three facts about chdb, each seen:

* It reads ``config.xml`` in the working directory, already while it is imported, and fails on a foreign one. Its
  threads here have a working directory of their own, so the process's stays where it is.
* Importing it touches some 170 MB of the library's pages, most of them never again. They are pages of a file: given
  back to the kernel they return by themselves when they are needed. At rest that saves over 100 MB.
* Its Python layer imports pyarrow when it is installed: 37 MB for a result format that nobody asks for here.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_CLONE_FS: Final = 0x200  # linux/sched.h
_MADV_DONTNEED: Final = 4  # asm-generic/mman-common.h
_LIBRARY: Final = "_chdb.abi3.so"

CONFIGURATION: Final = """<clickhouse>
  <!-- The engine shares a process with a server: bounded caches, few threads, and a limit on everything together. -->
  <max_server_memory_usage>1073741824</max_server_memory_usage>
  <mark_cache_size>16777216</mark_cache_size>
  <index_mark_cache_size>4194304</index_mark_cache_size>
  <primary_index_cache_size>4194304</primary_index_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
  <compiled_expression_cache_size>1048576</compiled_expression_cache_size>
  <query_cache><max_size_in_bytes>0</max_size_in_bytes></query_cache>
  <max_thread_pool_size>64</max_thread_pool_size>
  <max_thread_pool_free_size>4</max_thread_pool_free_size>
  <background_pool_size>2</background_pool_size>
  <background_schedule_pool_size>2</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <merge_tree>
    <!-- Merges of more than this would hold the disk and the memory of a small machine for minutes. -->
    <max_bytes_to_merge_at_max_space_in_pool>2147483648</max_bytes_to_merge_at_max_space_in_pool>
    <number_of_free_entries_in_pool_to_execute_mutation>1</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>1</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>1</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
  </merge_tree>
</clickhouse>
"""

_import_lock = threading.Lock()


def own_working_directory(directory: Path) -> None:
    """Give the calling thread, and the threads it starts, a working directory of their own.

    Linux lets a thread leave the shared one (unshare(2), ``CLONE_FS``) without any privilege. Elsewhere the whole
    process moves, which is why every path this project is given is made absolute first.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(_CLONE_FS) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    os.chdir(directory)


def import_sessions() -> ModuleType:
    """Import the engine, without pyarrow, and return its module of sessions."""
    with _import_lock, _absent("pyarrow"):
        from chdb import session

    return session


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Make an optional module look as if it were not installed, unless it is loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def give_back_start_up_pages() -> int:
    """Unmap the untouched pages of the engine's library; return the bytes given back.

    Only mappings without a single page of our own (no relocation, nothing written) are touched, so what is dropped is
    in the file, and the kernel maps it again on the next access.
    """
    if sys.platform != "linux":
        return 0
    library = ctypes.CDLL(None, use_errno=True)
    dropped = 0
    for start, end, resident in _clean_mappings(Path("/proc/self/smaps").read_text("utf-8", "replace")):
        if library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED) == 0:
            dropped += resident
    return dropped


def _clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and resident bytes of the library's read-only mappings that hold nothing private."""
    mapping: dict[str, Any] = {}
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            mapping = {"range": words[0], "mine": words[-1].endswith(_LIBRARY) and words[1] in ("r-xp", "r--p")}
        elif words[0] in ("Rss:", "Anonymous:"):
            mapping[words[0]] = int(words[1]) * 1024
            if words[0] == "Anonymous:" and mapping["mine"] and mapping["Anonymous:"] == 0:
                start, _, end = mapping["range"].partition("-")
                yield int(start, 16), int(end, 16), mapping["Rss:"]
