"""A place for results that holds them in memory, and forgets nothing that a disk would notice."""

from __future__ import annotations

from pathlib import Path


class MemoryOutput:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.written = 0

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        assert offset + len(view) <= len(self.data), "written past the end"
        self.data[offset : offset + len(view)] = view
        self.written += len(view)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        return bytes(self.data[offset : offset + n_bytes])


class MemorySink:
    """Files by path."""

    def __init__(self) -> None:
        self.outputs: dict[str, MemoryOutput] = {}

    def create(self, path: str, size: int) -> MemoryOutput:
        assert path not in self.outputs, f"{path} made twice"
        self.outputs[path] = MemoryOutput(size)
        return self.outputs[path]

    @property
    def files(self) -> dict[str, bytes]:
        return {path: bytes(output.data) for path, output in self.outputs.items()}

    def save(self, folder: Path) -> Path:
        """Put the files on the disk, for judges that read files."""
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (folder / path).write_bytes(data)
        return folder
