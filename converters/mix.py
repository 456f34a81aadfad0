"""Which tensor gets which type: a named mix (`q4_k_m`) applied to one checkpoint.

A mix has one base type; some tensors deserve more bits than the rest, or tolerate fewer. Names, numbers and rules are
llama.cpp's, so that a file made here is the file made there: `llama_ftype` in include/llama.h;
`tensor_allows_quantization`, `llama_tensor_get_type_impl`, `tensor_type_fallback` and `tensor_requires_imatrix` in
src/llama-quant.cpp.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from converters.dtypes import (
    BF16,
    F16,
    F32,
    IQ1_M,
    IQ1_S,
    IQ2_S,
    IQ2_XS,
    IQ2_XXS,
    IQ3_S,
    IQ3_XXS,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    Q1_0,
    Q2_0,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    TQ1_0,
    TQ2_0,
    DType,
)
from converters.errors import RefusedError
from converters.hyperparameters import HyperParameters
from converters.tensors import TensorInfo


@dataclass(frozen=True)
class Mix:
    """A named mix of types. file_type: its number in `general.file_type`. base: the type of most tensors."""

    name: str
    file_type: int
    base: DType


@dataclass(frozen=True)
class Overrides:
    """What a user wants otherwise than the mix has it.

    pure: no rules, the base type everywhere. output, token_embedding: types of these two (the output's is also that of
    an embedding that serves as output). patterns: (regular expression, type) pairs; the first that is found in a
    tensor's name decides. Tensors that may not be quantized stay as they are, and so do mixes of plain numbers.
    """

    pure: bool = False
    output: DType | None = None
    token_embedding: DType | None = None
    patterns: tuple[tuple[str, DType], ...] = ()

    def of(self, name: str, role: str, *, is_tied: bool) -> DType | None:
        """The type that was asked for by hand, None where none was."""
        if role == "token_embd" and self.token_embedding:
            return self.token_embedding
        if self.output and (role == "output" or (role == "token_embd" and is_tied)):
            return self.output
        return next((dtype for pattern, dtype in self.patterns if re.search(pattern, name)), None)


MIXES: Mapping[str, Mix] = {
    mix.name: mix
    for mix in (
        Mix("f32", 0, F32), Mix("f16", 1, F16), Mix("bf16", 32, BF16),
        Mix("q4_0", 2, Q4_0), Mix("q4_1", 3, Q4_1), Mix("q5_0", 8, Q5_0), Mix("q5_1", 9, Q5_1), Mix("q8_0", 7, Q8_0),
        Mix("q2_k", 10, Q2_K), Mix("q2_k_s", 21, Q2_K),
        Mix("q3_k_s", 11, Q3_K), Mix("q3_k_m", 12, Q3_K), Mix("q3_k_l", 13, Q3_K),
        Mix("q4_k_s", 14, Q4_K), Mix("q4_k_m", 15, Q4_K),
        Mix("q5_k_s", 16, Q5_K), Mix("q5_k_m", 17, Q5_K), Mix("q6_k", 18, Q6_K),
        Mix("iq1_s", 24, IQ1_S), Mix("iq1_m", 31, IQ1_M),
        Mix("iq2_xxs", 19, IQ2_XXS), Mix("iq2_xs", 20, IQ2_XS), Mix("iq2_s", 28, IQ2_XS), Mix("iq2_m", 29, IQ2_S),
        Mix("iq3_xxs", 23, IQ3_XXS), Mix("iq3_xs", 22, IQ3_S), Mix("iq3_s", 26, IQ3_S), Mix("iq3_m", 27, IQ3_S),
        Mix("iq4_nl", 25, IQ4_NL), Mix("iq4_xs", 30, IQ4_XS),
        Mix("tq1_0", 36, TQ1_0), Mix("tq2_0", 37, TQ2_0),
        Mix("mxfp4_moe", 38, MXFP4), Mix("q1_0", 40, Q1_0), Mix("q2_0", 41, Q2_0),
    )
}  # fmt: skip

# Below about three bits everything is dear; these mixes have rules of their own.
_SMALLEST = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m"}

# Where a row is no whole number of blocks, a type of about the same size whose blocks have 32 weights.
_FALLBACK: Mapping[DType, DType] = dict.fromkeys(
    (IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ4_XS), IQ4_NL
) | dict.fromkeys((Q2_0, Q2_K, Q3_K, TQ1_0, TQ2_0), Q4_0) | {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}  # fmt: skip

# Small, or too sensitive to be worth it.
_NEVER = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|attn_rel_b\.weight|^position_embd\.weight|^token_types\.weight"
)
_LAYER = re.compile(r"blk\.(\d+)\.", re.ASCII)


@dataclass(frozen=True)
class Situation:
    """What a rule looks at: the mix, the model, and the how-many-th tensor of its role this is."""

    mix: str
    base: DType
    parameters: HyperParameters
    has_imatrix: bool
    i: int = 0  # counted over the tensors of one role, in order of layers
    n: int = 0  # how many there are

    @property
    def many_queries(self) -> bool:
        """Whether at least four query heads share a key head, so that attn_v is small beside the rest."""
        return self.parameters.n_heads // self.parameters.n_kv_heads >= 4

    @property
    def eight_experts(self) -> bool:
        return self.parameters.n_experts == 8

    @property
    def in_first_eighth(self) -> bool:
        return self.i < self.n // 8

    @property
    def more_bits(self) -> bool:
        """First and last eighth of the layers, and every third in between."""
        return self.in_first_eighth or self.i >= 7 * self.n // 8 or (self.i - self.n // 8) % 3 == 2

    @property
    def is_70b(self) -> bool:
        return self.parameters.n_layers == 80 and self.parameters.n_heads != self.parameters.n_kv_heads


def named(name: str) -> Mix:
    """The mix of that name, in any case; RefusedError lists what there is."""
    mix = MIXES.get(name.lower().replace("-", "_"))
    if mix is None:
        raise RefusedError(f"{name}: no such type; there are {', '.join(sorted(MIXES))}")
    return mix


def types(
    mix: Mix,
    tensors: Iterable[TensorInfo],
    parameters: HyperParameters,
    *,
    has_imatrix: bool = False,
    overrides: Overrides | None = None,
) -> dict[str, DType]:
    """The type of every tensor, by GGUF name."""
    overrides = overrides or Overrides()
    tensors = sorted(tensors, key=_layer_then_name)
    roles = {info.name: _role(info.name) for info in tensors}
    is_tied = "output" not in roles.values()
    counts = Counter(roles.values())
    situation = Situation(mix.name, mix.base, parameters, has_imatrix)
    seen: Counter[str] = Counter()
    result = {}
    for info in tensors:
        role = roles[info.name]
        if not is_quantizable(info):
            result[info.name] = F32
        elif mix.base.is_plain:
            result[info.name] = mix.base
        else:
            of_role = counts[role] if role == "attn_v" else parameters.n_layers
            place = replace(situation, i=_place(info.name, role, seen, parameters), n=of_role)
            asked = overrides.of(info.name, role, is_tied=is_tied)
            ruled = mix.base if overrides.pure else _wanted(role, info, place, is_tied=is_tied)
            result[info.name] = fitting(asked or ruled, info.n_columns)
        seen[role] += 1
    return result


def is_quantizable(info: TensorInfo) -> bool:
    """Whether a tensor may be anything but F32: matrices that are neither small nor delicate."""
    return len(info.shape) >= 2 and info.name.endswith("weight") and not _NEVER.search(info.name)


def needs_imatrix(mix: Mix, name: str, dtype: DType) -> bool:
    """Whether packing this tensor without an importance matrix would give nonsense."""
    if name in ("output.weight", "token_embd.weight"):
        return False
    return dtype in (IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS) or (dtype == Q2_K and mix.name == "q2_k_s")


def fitting(dtype: DType, n_columns: int) -> DType:
    """The type itself where rows of so many weights divide into its blocks, else the nearest that fits."""
    if dtype.fits(n_columns):
        return dtype
    nearest = _FALLBACK.get(dtype, F16)
    return nearest if nearest.fits(n_columns) else F16


def _layer_then_name(info: TensorInfo) -> tuple[int, str]:
    match = _LAYER.match(info.name)
    return (int(match[1]) if match else -1, info.name)


def _role(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd"
    if any(part in name for part in ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")):
        return "attn_v"
    for role in ("attn_k", "attn_q", "attn_output"):
        if f"{role}.weight" in name:
            return role
    return next((role for role in ("ffn_up", "ffn_gate", "ffn_down") if role in name), "other")


def _place(name: str, role: str, seen: Counter[str], parameters: HyperParameters) -> int:
    """Which of its role a tensor is. A layer of experts may have several of a role, so its number decides there."""
    match = _LAYER.match(name)
    if parameters.n_experts > 1 and role.startswith("ffn") and match:
        return int(match[1])
    return seen[role]


def _wanted(role: str, info: TensorInfo, s: Situation, *, is_tied: bool) -> DType:
    if s.mix == "mxfp4_moe":  # experts, stacked in three dimensions, and nothing else
        return MXFP4 if len(info.shape) > 2 else Q8_0
    if role == "output" or (role == "token_embd" and is_tied):
        return _output(info, s)
    if role == "token_embd":
        return _TOKEN_EMBD.get(s.mix, s.base)
    rules = _SMALLEST_RULES if s.mix in _SMALLEST else _RULES
    rule = rules.get(role)
    return rule(s) if rule else s.base


def _output(info: TensorInfo, s: Situation) -> DType:
    if not s.base.fits(info.n_columns) or s.base == Q8_0:
        return Q8_0
    return Q5_K if s.mix in _SMALLEST or s.mix == "iq3_xxs" else Q6_K


_TOKEN_EMBD: Mapping[str, DType] = {
    "iq1_s": Q2_K, "iq1_m": Q2_K, "iq2_xxs": Q2_K, "iq2_xs": Q2_K,
    "iq2_s": IQ3_S, "iq2_m": IQ3_S, "iq3_xxs": IQ3_S,
    "tq1_0": Q4_K, "tq2_0": Q4_K, "q2_0": Q4_K,
}  # fmt: skip


def _attn_v(s: Situation) -> DType:
    """The smallest matrix of a layer and the most sensitive."""
    dtype = s.base
    match s.mix:
        case "q2_k":
            dtype = Q4_K if s.many_queries else Q3_K
        case "q2_k_s" | "iq3_xs" | "iq3_s" if s.many_queries:
            dtype = Q4_K
        case "iq3_xxs":
            dtype = Q4_K if s.many_queries else IQ3_XXS if s.has_imatrix else IQ3_S
        case "iq3_m":
            dtype = Q4_K
        case "q3_k_m":
            dtype = Q5_K if s.i < 2 else Q4_K
        case "q3_k_l":
            dtype = Q5_K
        case "iq4_nl" | "iq4_xs" if s.many_queries:
            dtype = Q5_K
        case "q4_k_m" | "q5_k_m" if s.more_bits:
            dtype = Q6_K
        case "q4_k_s" if s.i < 4:
            dtype = Q5_K
    if s.is_70b and dtype in (Q3_K, Q4_K):
        dtype = Q5_K
    return Q8_0 if s.eight_experts else dtype


def _attn_k(s: Situation) -> DType:
    return Q8_0 if s.eight_experts else _attn_q(s)


def _attn_q(s: Situation) -> DType:
    return {"iq3_xs": IQ3_XXS, "iq3_xxs": IQ2_S}.get(s.mix, s.base)


def _attn_output(s: Situation) -> DType:
    if s.eight_experts:
        raised = {
            "q2_k",
            "iq3_xs",
            "iq3_xxs",
            "q3_k_s",
            "q3_k_m",
            "iq4_nl",
            "q4_k_s",
            "q4_k_m",
            "iq3_s",
            "iq3_m",
            "iq4_xs",
        }
        return Q5_K if s.mix in raised else s.base
    raised_to = {"q2_k": Q3_K, "iq3_xxs": IQ3_S, "q3_k_m": Q4_K, "q3_k_l": Q5_K, "iq3_m": Q4_K}
    return raised_to.get(s.mix, s.base)


def _ffn_down(s: Situation) -> DType:
    match s.mix:
        case "q2_k":
            return Q3_K
        case "q2_k_s" if s.in_first_eighth:
            return Q4_K
        case "iq3_xxs" if not s.has_imatrix:
            return Q4_K if s.in_first_eighth else Q3_K
        case "q3_k_m":
            return Q5_K if s.i < s.n // 16 else Q4_K
        case "iq3_m" if s.in_first_eighth or (s.eight_experts and s.more_bits):
            return Q4_K
        case "q3_k_l":
            return Q5_K
        case "q4_k_m" | "q5_k_m" if s.more_bits:
            return Q6_K
        case "iq4_nl" | "iq4_xs" if s.in_first_eighth and not s.has_imatrix:
            return Q5_K
        case "q4_k_s" if s.in_first_eighth:
            return Q5_K
        case "q4_0" if s.in_first_eighth and s.has_imatrix:
            return Q4_1
        case "q5_0" if s.in_first_eighth and s.has_imatrix:
            return Q5_1
    return s.base


def _ffn_gate_or_up(s: Situation) -> DType:
    in_the_middle = s.n // 8 <= s.i < 7 * s.n // 8
    return IQ3_XXS if s.mix == "iq3_xs" and in_the_middle else s.base


def _smallest_attn_v(s: Situation) -> DType:
    return Q4_K if s.many_queries or s.parameters.n_experts >= 4 else _smallest_raised(s)


def _smallest_attn_k(s: Situation) -> DType:
    return Q4_K if s.eight_experts else s.base


def _smallest_ffn_down(s: Situation) -> DType:
    return _smallest_raised(s) if s.in_first_eighth else s.base


def _smallest_attn_output(s: Situation) -> DType:
    if s.eight_experts:
        return Q5_K
    return {"iq1_s": IQ2_XXS, "iq1_m": IQ2_XXS, "iq2_s": IQ3_S, "iq2_m": IQ3_S}.get(s.mix, s.base)


def _smallest_raised(s: Situation) -> DType:
    return IQ3_S if s.mix in ("iq2_s", "iq2_m") else Q2_K


_RULES: Mapping[str, Callable[[Situation], DType]] = {
    "attn_v": _attn_v, "attn_k": _attn_k, "attn_q": _attn_q, "attn_output": _attn_output,
    "ffn_down": _ffn_down, "ffn_gate": _ffn_gate_or_up, "ffn_up": _ffn_gate_or_up,
}  # fmt: skip
_SMALLEST_RULES: Mapping[str, Callable[[Situation], DType]] = {
    "attn_v": _smallest_attn_v, "attn_k": _smallest_attn_k, "attn_output": _smallest_attn_output,
    "ffn_down": _smallest_ffn_down,
}  # fmt: skip
