"""Where kernels run, and the cache of compiled ones: nothing is run that was not just made or proved whole."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converters.quants import KERNELS, iq3_s, kernel, llvm_tile, machine_code, processor, q3_k, q4_0, q4_1, q4_k, q8_0
from converters.quants.base import KernelModule
from converters.quants.kernel import DEQUANTIZE, QUANTIZE, QUANTIZE_WITH_IMPORTANCE, KernelQuant
from converters.quants.llvm import Width
from converters.quants.object_cache import ObjectCache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectCache]:
    cache = ObjectCache(tmp_path / "kernels")
    monkeypatch.setattr(machine_code, "_cache", lambda: cache)
    yield cache


def some_weights() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((40, 32)).astype(np.float32)


def test_a_compiled_kernel_is_kept_for_the_user_alone(cache: ObjectCache) -> None:
    KernelQuant(q8_0).quantize_blocks(some_weights())
    (file,) = cache.folder.iterdir()
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert re.fullmatch("[0-9a-f]{64}[.]o", file.name)


def test_a_kept_kernel_is_neither_written_nor_compiled_again(
    cache: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = KernelQuant(q8_0).quantize_blocks(some_weights())

    def again(*arguments: object, **options: object) -> bytes:
        raise AssertionError("made again")

    monkeypatch.setattr(processor.Target, "compile", again)
    monkeypatch.setattr(llvm_tile, "write_quantizer", again)
    np.testing.assert_array_equal(KernelQuant(q8_0).quantize_blocks(some_weights()), expected)


def test_another_text_of_the_package_is_another_kernel(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = KernelQuant(q8_0).quantize_blocks(some_weights())
    for text in ("changed", None):  # None: there is no text, as in a zip; then the code itself decides
        monkeypatch.setattr(machine_code, "_sources", lambda text=text: text)
        np.testing.assert_array_equal(KernelQuant(q8_0).quantize_blocks(some_weights()), expected)
    assert len(list(cache.folder.iterdir())) == 3


def test_the_text_of_the_package_is_that_of_its_modules() -> None:
    text = machine_code._sources()
    assert text is not None
    assert re.fullmatch("[0-9a-f]{64}", text)


@pytest.mark.parametrize("damage", ["a byte changed", "cut short", "empty"])
def test_a_damaged_file_is_compiled_anew(cache: ObjectCache, damage: str) -> None:
    expected = KernelQuant(q4_0).quantize_blocks(some_weights())
    (file,) = cache.folder.iterdir()
    whole = file.read_bytes()
    changed = whole[:500] + bytes([whole[500] ^ 1]) + whole[501:]
    file.write_bytes({"a byte changed": changed, "cut short": whole[:-1], "empty": b""}[damage])
    assert cache.get(file.stem) is None
    np.testing.assert_array_equal(KernelQuant(q4_0).quantize_blocks(some_weights()), expected)
    assert file.read_bytes() == whole


def test_a_folder_that_others_may_enter_is_not_used(cache: ObjectCache) -> None:
    cache.folder.mkdir(mode=0o755)
    cache.put("0" * 64, b"code")
    assert list(cache.folder.iterdir()) == []
    cache.folder.chmod(0o700)
    cache.put("0" * 64, b"code")
    assert cache.get("0" * 64) == b"code"
    cache.folder.chmod(0o750)
    assert cache.get("0" * 64) is None


def test_a_link_is_not_followed(cache: ObjectCache, tmp_path: Path) -> None:
    cache.put("0" * 64, b"code")
    (cache.folder / ("1" * 64 + ".o")).symlink_to(cache.folder / ("0" * 64 + ".o"))
    assert cache.get("1" * 64) is None
    linked = ObjectCache(tmp_path / "linked")
    linked.folder.symlink_to(cache.folder)
    assert linked.get("0" * 64) is None


def test_a_folder_that_cannot_be_made_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ObjectCache(tmp_path / "file" / "kernels")
    cache.put("0" * 64, b"code")
    assert cache.get("0" * 64) is None


def test_the_key_names_all_that_code_depends_on() -> None:
    target = processor.Target("znver3", "+avx2,+f16c")
    keys = {
        target.key("code"),
        target.key("other code"),
        processor.Target("znver4", "+avx2,+f16c").key("code"),
        processor.Target("znver3", "+avx2,+f16c,+avx512f").key("code"),
    }
    assert len(keys) == 4


def test_no_code_for_a_processor_that_lacks_what_it_needs() -> None:
    assert processor.Target("znver3", "+sse4.2,+avx2,+f16c").can_run_kernels
    assert not processor.Target("x86-64-v2", "+sse4.2,-avx2,-f16c").can_run_kernels
    assert not processor.Target("generic", "").can_run_kernels


@pytest.mark.parametrize("module", KERNELS, ids=lambda module: module.DTYPE.name)
def test_code_is_the_same_each_time_and_has_no_fast_math(module: KernelModule) -> None:
    quant, width = KernelQuant(module), Width(16, 8)
    code = quant.code("quantize with importance", width)
    assert code == quant.code("quantize with importance", width)
    assert not re.search(r"\b(fast|contract|reassoc|nnan|ninf|nsz|arcp|afn)\b", code)
    assert "fmuladd" not in code


@pytest.mark.parametrize("work", [QUANTIZE, QUANTIZE_WITH_IMPORTANCE, DEQUANTIZE])
@pytest.mark.parametrize("module", [q3_k, q4_1, q4_k, iq3_s], ids=lambda module: module.DTYPE.name)
def test_kernels_come_out_for_larger_vectors_too(module: KernelModule, work: str) -> None:
    """Few of us have such a processor: at least LLVM knows what to make of the code."""
    processor.host()
    target = processor.Target("znver5", "+avx2,+f16c,+avx512f,+avx512bw,+avx512vl,+avx512dq")
    assert target.n_native == 16
    assert target.compile(KernelQuant(module).code(work, Width(16, 16)))[:4] == b"\x7fELF"


@pytest.mark.parametrize("n_lanes", [8, 16, 32])
def test_the_number_of_lanes_changes_nothing(cache: ObjectCache, n_lanes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(4).standard_normal((100, 256)).astype(np.float32)
    expected = KernelQuant(q4_k, with_llvm=False).quantize_blocks(weights)
    monkeypatch.setattr(kernel, "n_lanes", lambda module, work: n_lanes)
    np.testing.assert_array_equal(KernelQuant(q4_k).quantize_blocks(weights), expected)


@pytest.mark.parametrize("why", ["no llvmlite", "no executable memory"])
def test_numpy_steps_in(why: str) -> None:
    """In a process of its own, so that nothing is loaded yet."""
    prepare = {
        "no llvmlite": "sys.modules['llvmlite'] = None",
        "no executable memory": "machine_code.may_execute_memory = lambda: False",
    }[why]
    program = f"""
import sys
import numpy as np
from converters.quants import kernel, machine_code, q8_0
{prepare}
quant = kernel.KernelQuant(q8_0)
weights = np.ones((20, 32), np.float32)
assert quant.quantize_blocks(weights)[0].tolist() == [8, 32] + [127] * 32, quant.quantize_blocks(weights)[0]
assert quant._kernel("quantize") is None
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_threads_that_come_at_once_get_one_kernel(cache: ObjectCache) -> None:
    quant, weights = KernelQuant(q8_0), some_weights()
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(quant.quantize_blocks(weights))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, results[0])
