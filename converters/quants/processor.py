"""LLVM's code as code of the processor at hand: compiled, and loaded into memory to be called."""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from typing import Any

import llvmlite
from llvmlite import binding

# Without these LLVM calls helper functions that nobody provides.
_NEEDED_FEATURES = ("avx2", "f16c")


@dataclass(frozen=True)
class Target:
    """The processor that code is made for."""

    cpu: str
    features: str

    def _has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")

    @property
    def can_run_kernels(self) -> bool:
        return all(self._has(feature) for feature in _NEEDED_FEATURES)

    @property
    def n_native(self) -> int:
        """float32 in one of its vectors."""
        return 16 if self._has("avx512f") else 8

    def key(self, kernel: str) -> str:
        """SHA-256 of all that machine code depends on. kernel: whatever decides the code that is compiled."""
        parts = (kernel, self.cpu, self.features, ".".join(map(str, binding.llvm_version_info)), llvmlite.__version__)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compile(self, code: str) -> bytes:
        """An object file."""
        machine = self._machine()
        module = binding.parse_assembly(code)
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        # Only cells become registers. The rest of the usual passes doubles the time and finds nothing to gain: what is
        # to be side by side, or unrolled, the kernel has written so.
        passes = binding.create_new_function_pass_manager()
        passes.add_sroa_pass()
        builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
        passes.run(module.get_function("kernel"), builder)
        return bytes(machine.emit_object(module))

    def _machine(self) -> Any:
        target = binding.Target.from_triple(binding.get_process_triple())
        return target.create_target_machine(cpu=self.cpu, features=self.features, opt=3, jit=True)

    def load(self, compiled: bytes, n_lanes: int) -> LoadedKernel:
        """n_lanes: those that it was written for. Raises RuntimeError where the system forbids executable memory."""
        machine = self._machine()
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        engine.add_object_file(binding.ObjectFileRef.from_data(compiled))
        engine.finalize_object()
        address = engine.get_function_address("kernel")
        if not address:
            raise RuntimeError("the object file has no kernel")
        return LoadedKernel(engine, address, n_lanes)


class LoadedKernel:
    """Machine code in memory. It lives as long as this object, which therefore keeps the engine that owns it."""

    def __init__(self, engine: Any, address: int, n_lanes: int) -> None:
        self._engine = engine
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
        )
        self._call = kind(address)
        self.n_lanes = n_lanes

    def __call__(
        self,
        source: int,
        target: int,
        n_tiles: int,
        columns: int | None = None,
        n_blocks_in_row: int = 0,
        row_mean_squares: int | None = None,
    ) -> None:
        """Addresses; the interpreter's lock is free meanwhile."""
        if n_tiles:  # the loop's body comes before its test
            self._call(source, target, n_tiles, columns, n_blocks_in_row, row_mean_squares)


def host() -> Target:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return Target(binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
