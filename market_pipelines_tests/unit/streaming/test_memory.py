"""What is freed goes back to the operating system, now and then."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pyarrow as pa
import pytest

from market_pipelines.streaming import memory
from market_pipelines.streaming.memory import FreedMemory, give_back

_SIZE, _COUNT, _KEPT_OF = 4_096, 20_000, 64


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library gives back by itself")
def test_what_another_thread_freed_between_things_that_stay_is_given_back() -> None:
    process = psutil.Process()
    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(lambda: [np.ones(_SIZE, dtype=np.uint8) for _ in range(_COUNT)]).result()
        full = process.memory_info().rss
        stays = made[::_KEPT_OF]
        del made
        held = process.memory_info().rss
        give_back()
        left = process.memory_info().rss
    freed = _SIZE * (_COUNT - len(stays))
    if full - held >= freed * 0.5:
        pytest.skip("this machine takes back what is free before anybody asks for it")
    assert full - left > freed * 0.8


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library gives back by itself")
def test_from_then_on_arrow_allocates_where_it_can_be_given_back() -> None:
    before = pa.default_memory_pool()
    try:
        pa.set_memory_pool(pa.mimalloc_memory_pool())
        FreedMemory()
        assert pa.default_memory_pool().backend_name == "system"
    finally:
        pa.set_memory_pool(before)


_THREADS_THAT_ALLOCATE = """
import ctypes, os, tempfile, threading
from market_pipelines.streaming.memory import FreedMemory
FreedMemory()
library = ctypes.CDLL(None)
library.fopen.restype = ctypes.c_void_p
everybody = threading.Barrier(17)
def allocate():
    kept = [bytes(4_000) for _ in range(100)]
    everybody.wait(30)
    everybody.wait(30)
threads = [threading.Thread(target=allocate) for _ in range(16)]
for thread in threads:
    thread.start()
everybody.wait(30)
with tempfile.NamedTemporaryFile() as told:
    file = ctypes.c_void_p(library.fopen(told.name.encode(), b"w"))
    library.malloc_info(0, file)
    library.fclose(file)
    print(told.read().count(b"<heap nr="))
everybody.wait(30)
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has one heap")
def test_its_threads_share_two_heaps() -> None:
    """In a process of its own, since heaps that exist stay."""
    told = subprocess.run(
        [sys.executable, "-c", _THREADS_THAT_ALLOCATE], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(told.stdout) <= memory.HEAPS


def test_it_is_given_back_when_it_is_time_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    now = [100.0]
    monkeypatch.setattr(memory, "give_back", lambda: given.append(now[0]))
    freed = FreedMemory(30.0, lambda: now[0])
    for moment in (100.0, 129.0, 131.0, 135.0, 160.0, 161.0, 200.0):
        now[0] = moment
        freed.look()
    assert given == [131.0, 161.0, 200.0]
