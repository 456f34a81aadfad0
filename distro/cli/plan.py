"""What `--dry-run` shows of a conversion: every tensor of the result, and what it takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from distro.cli import console

if TYPE_CHECKING:
    from converters.plan import Plan


def print_plan(plan: Plan, threads: int, *, as_json: bool) -> None:
    """As a table, or as JSON with the offsets and inputs too. Memory and disk are bounds, in bytes."""
    if as_json:
        tensors = [
            {
                "name": work.placed.info.name,
                "file": work.file.path,
                "offset": work.placed.offset_in_file,
                "size": work.placed.info.n_bytes,
                "type": work.placed.info.dtype.name,
                "shape": list(work.placed.info.shape),
                "input": work.input.origin,
                "steps": list(work.steps),
            }
            for work in plan.work
        ]
        files = [{"path": file.path, "size": file.size} for file in plan.files]
        memory = plan.memory_bytes(threads)
        recipe = json.loads(plan.recipe.canonical())
        console.result_json({"size": plan.size, "memory": memory, "recipe": recipe, "files": files, "tensors": tensors})
        return
    rows = [
        [info.name, "x".join(map(str, info.shape)), info.dtype.name, str(info.n_bytes), ", ".join(work.steps)]
        for work in plan.work
        for info in [work.placed.info]
    ]
    console.table(["tensor", "shape", "type", "bytes", "steps"], rows, right=[3])
    for file in plan.files:
        console.result(f"{file.path}: {file.size} bytes")
    console.result(f"{plan.size} bytes in all, {8 * plan.size / plan.n_weights:.2f} bits per weight")
    console.result(f"needs {plan.size} bytes of disk, and {plan.memory_bytes(threads)} of memory at most for blocks")
