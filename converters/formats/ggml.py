"""GGML, GGMF and GGJT: the files in which llama.cpp kept models before GGUF, one architecture alone.

The bytes stand in ggml_header.py. Tensors have Meta's names (`layers.0.attention.wq.weight`) and Meta's order of rows,
which is ours. Larger models were written in parts: ggml-model-q4_0.bin, ggml-model-q4_0.bin.1, …, each with a shard of
Meta's: matrices divided over the parts by columns (embedding, attention output, feed-forward output) or by rows, norms
in every part. The width of the embedding in the first part tells how many there are (`LLAMA_N_PARTS` and `split_type`
in llama.cpp of March 2023).

What the file does not say follows from what it is; where it does not follow, a warning says what was taken:
- heads for keys and values: from the shape of `wk`;
- scores of tokens in GGML: SentencePiece numbers the pieces of a BPE in order, from 0 down;
- norm_eps, rope_theta, context_length: `_known`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters import dtypes
from converters.architectures import llama
from converters.checkpoint import Checkpoint
from converters.errors import ConversionError, MalformedError, MissingError
from converters.folder import beside
from converters.formats import signatures
from converters.formats.ggml_header import Header, read_header
from converters.hyperparameters import HyperParameters
from converters.input_file import InputFile, Opener
from converters.joined_tensors import SideBySideTensor, StackedTensor
from converters.tensors import Bytes, RenamedTensor, StoredTensor, Tensor, TensorInfo, TensorView
from converters.tokenizers.vocabulary import TokenKind, Vocabulary, judged

NAME = "ggml"

_EMBEDDING, _FEED_FORWARD, _KEYS = (
    "tok_embeddings.weight",
    "layers.0.feed_forward.w1.weight",
    "layers.0.attention.wk.weight",
)
_BY_COLUMNS = (_EMBEDDING, ".attention.wo.weight", ".feed_forward.w2.weight")
_MOST_PARTS = 64
_PART = re.compile(r"(.+)\.([1-9]\d?)")

_UNKNOWN, _BOS, _EOS = 0, 1, 2
_FIRST_TEXTS = ("<unk>", "<s>", "</s>")
_FIRST_BYTE, _LAST_BYTE = 3, 258  # ids of the tokens <0x00> to <0xFF> in Llama's vocabulary
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}".encode()


def sniff(path: Path) -> bool:
    """Whether this is a file that begins as those before GGUF do, or their relatives, which get advice."""
    try:
        with InputFile(path) as file:
            head = file.read(0, min(file.size, signatures.LENGTH), "header")
            return signatures.of(head) is signatures.Signature.GGML
    except (ConversionError, OSError):
        return False


def open_checkpoint(path: Path, *, opener: Opener = InputFile) -> Checkpoint:
    """The model in one file, or in the parts of which this is the first.

    Raises MalformedError naming the number, token or tensor, MissingError for a part that is not there,
    UnsupportedError for versions that we do not read and files that are no model.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(opener(path))]
        headers = [read_header(files[0])]
        for number in range(1, _n_parts(files[0], headers[0])):
            files.append(stack.enter_context(_part(opener, path, number)))
            headers.append(_judged_part(files[0], headers[0], files[-1]))
        found = _joined(files, headers)
        parameters, warnings = _hyperparameters(path, headers[0], found)
        vocabulary = _vocabulary(path, headers[0])
        tensors = _by_gguf_name(path, parameters, found)
        _check_norms(headers)
        checkpoint = Checkpoint(
            path=path,
            format=NAME,
            architecture=llama.NAME,
            hyperparameters=parameters,
            vocabulary=vocabulary,
            tensors=tensors,
            files=tuple(files),
            warnings=warnings,
        )
        checkpoint.check_unchanged()
        stack.pop_all()
    return checkpoint


def _tensor(path: Path, tensors: Mapping[str, Tensor], name: str) -> TensorInfo:
    """A matrix that the others are judged by."""
    if name not in tensors or len(tensors[name].info.shape) != 2:
        found = "no such tensor" if name not in tensors else f"shape {tensors[name].info.shape}"
        raise MalformedError(path, name, found=found, allowed="a matrix, as in every llama")
    return tensors[name].info


def _n_parts(file: InputFile, header: Header) -> int:
    n_embd, width = header.numbers.n_embd, _tensor(file.path, header.tensors, _EMBEDDING).n_columns
    if n_embd % width or n_embd // width > _MOST_PARTS:
        raise MalformedError(
            file.path, _EMBEDDING, found=f"rows of {width}", allowed=f"n_embd, {n_embd}, or a part of it"
        )
    return n_embd // width


def _part(opener: Opener, path: Path, number: int) -> InputFile:
    other = beside(path, f"{path.name}.{number}")
    if not other.exists():
        match = _PART.fullmatch(path.name)
        if match and path.with_name(match[1]).exists():
            raise MissingError(other, f"{path.name} is a part of a model; give the first, {match[1]}")
        raise MissingError(other, f"part {number + 1} of a model that was written in parts; they belong side by side")
    return opener(other)


def _judged_part(first: InputFile, header: Header, file: InputFile) -> Header:
    """A later part: the same model, cut in the same way."""
    other = read_header(file)
    for field in ("generation", "numbers", "tokens", "scores"):
        if getattr(other, field) != getattr(header, field):
            raise MalformedError(
                file.path, field, found="others than in the first part", allowed=f"{first.path.name}'s"
            )
    for name in {**header.tensors, **other.tensors}:
        found, allowed = (_described(each, name) for each in (other, header))
        if found != allowed:
            raise MalformedError(file.path, name, found=found, allowed=f"{allowed}, as in {first.path.name}")
    return other


def _check_norms(headers: Sequence[Header]) -> None:
    """Every part has the norms, and must have the same. Read only when their shapes are known to be a llama's."""
    first, *others = headers
    for name, tensor in first.tensors.items():
        if len(tensor.info.shape) == 1:
            rows = tensor.read_rows(0, 1).tobytes()
            for part in (each.tensors[name] for each in others):
                if part.read_rows(0, 1).tobytes() != rows:
                    allowed = f"those of {tensor.file.path.name}"
                    raise MalformedError(part.file.path, name, found="other weights", allowed=allowed)


def _described(header: Header, name: str) -> str:
    info = header.tensors[name].info if name in header.tensors else None
    return f"{info.dtype}, shape {info.shape}" if info else "no such tensor"


def _joined(files: Sequence[InputFile], headers: Sequence[Header]) -> dict[str, Tensor]:
    """The tensors by Meta's names, whole, in the types that we read."""
    joined: dict[str, Tensor] = {}
    for name in headers[0].tensors:
        parts = tuple(_in_todays_order(header.tensors[name], header) for header in headers)
        if len(parts) == 1 or len(parts[0].info.shape) == 1:
            joined[name] = parts[0]
        else:
            joined[name] = SideBySideTensor(parts) if name.endswith(_BY_COLUMNS) else StackedTensor(parts)
    return joined


def _in_todays_order(tensor: StoredTensor, header: Header) -> Tensor:
    repacked = header.generation.in_order and tensor.info.dtype in (dtypes.Q5_0, dtypes.Q5_1)
    return _RepackedTensor(tensor) if repacked else tensor


@dataclass(frozen=True)
class _RepackedTensor(TensorView):
    """Q5_0 or Q5_1 with its nibbles in today's order, which is all that changed in them: nothing is lost.

    The quants are the block's last 16 bytes: 2i and 2i + 1 were in byte i, i and i + 16 are.
    """

    def read_rows(self, start: int, stop: int) -> Bytes:
        rows = self.tensor.read_rows(start, stop)
        blocks = rows.reshape(-1, self.info.dtype.block_bytes)
        pairs = blocks[:, -16:]
        quants = np.stack([pairs & 15, pairs >> 4], axis=2).reshape(-1, 32)
        blocks[:, -16:] = quants[:, :16] | quants[:, 16:] << 4
        return rows


def _hyperparameters(
    path: Path, header: Header, tensors: Mapping[str, Tensor]
) -> tuple[HyperParameters, tuple[str, ...]]:
    n = header.numbers
    if n.n_embd % n.n_head or n.n_rot != n.n_embd // n.n_head or n.n_rot % 2:
        allowed = f"n_embd / n_head, {n.n_embd} / {n.n_head}, an even number"
        raise MalformedError(path, "n_rot", found=n.n_rot, allowed=allowed)
    keys = _tensor(path, tensors, _KEYS).n_rows
    n_kv_heads = keys // n.n_rot
    if keys % n.n_rot or n_kv_heads > n.n_head or n.n_head % n_kv_heads:
        allowed = f"whole heads of {n.n_rot} rows, {n.n_head} or a divisor of it"
        raise MalformedError(path, _KEYS, found=f"{keys} rows", allowed=allowed)
    hidden_dim = _tensor(path, tensors, _FEED_FORWARD).n_rows
    # 1.3 is the `ffn_dim_multiplier` of Llama 2 70B, for which the files have no place.
    widths = [_multiple(int(factor * (8 * n.n_embd // 3)), n.n_mult) for factor in (1.0, 1.3)]
    if hidden_dim not in widths:
        allowed = f"{widths[0]}, or {widths[1]}, for n_embd {n.n_embd} and n_mult {n.n_mult}"
        raise MalformedError(path, _FEED_FORWARD, found=f"{hidden_dim} rows", allowed=allowed)
    known, warnings = _known(header, is_grouped=n_kv_heads < n.n_head)
    parameters = HyperParameters(
        dim=n.n_embd,
        hidden_dim=hidden_dim,
        n_layers=n.n_layer,
        n_heads=n.n_head,
        n_kv_heads=n_kv_heads,
        head_dim=n.n_rot,
        vocab_size=n.n_vocab,
        norm_eps=known.norm_eps,
        rope_theta=known.rope_theta,
        context_length=known.context_length,
    )
    return parameters, warnings


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of


@dataclass(frozen=True)
class _Release:
    """What its params.json says and these files do not."""

    name: str
    norm_eps: float
    rope_theta: float
    context_length: int


_LLAMA_1 = _Release("LLaMA 1", 1e-6, 1e4, 2048)
_LLAMA_2_70B = _Release("Llama 2 70B", 1e-5, 1e4, 4096)
_CODE_LLAMA = _Release("Code Llama", 1e-5, 1e6, 16384)
_LLAMA_1_OR_2 = _Release("LLaMA 1 or Llama 2", 5e-6, 1e4, 2048)


def _known(header: Header, *, is_grouped: bool) -> tuple[_Release, tuple[str, ...]]:
    """The release that this must be, and what to say where that is a guess.

    Before GGJT v3 (May 2023) there was LLaMA 1 alone. Of those in v3, Code Llama's vocabulary has 32,016 tokens and its
    34B 48 layers, and beside that only Llama 2 70B has grouped heads. All others may be of LLaMA 1 or of Llama 2:
    llama.cpp took an epsilon between the two for them (LLAMA_DEFAULT_RMS_EPS), and so do we.
    """
    if header.generation.name != "GGJT v3":
        return _LLAMA_1, ()
    n = header.numbers
    release = _LLAMA_1_OR_2
    if n.n_vocab == 32016 or (is_grouped and n.n_layer == 48):
        release = _CODE_LLAMA
    elif is_grouped:
        release = _LLAMA_2_70B
    taken = f"norm_eps {release.norm_eps:g}, rope_theta {release.rope_theta:g}, context_length {release.context_length}"
    return release, (f"GGJT files do not say these: {taken} are taken, as the model looks like {release.name}",)


def _by_gguf_name(path: Path, parameters: HyperParameters, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    names, shapes = llama.meta_names(parameters), llama.shapes(parameters)
    for ours, theirs in names.items():
        if theirs not in found:
            raise MalformedError(path, theirs, found="no such tensor", allowed=f"one of shape {shapes[ours]}")
        if found[theirs].info.shape != shapes[ours]:
            raise MalformedError(path, theirs, found=f"shape {found[theirs].info.shape}", allowed=f"{shapes[ours]}")
        tensors[ours] = RenamedTensor(found[theirs], ours)
    unknown = next((name for name in found if name not in names.values()), None)
    if unknown is not None:
        allowed = f"the tensors of a llama of {parameters.n_layers} layers"
        raise MalformedError(path, unknown, found="an unknown tensor", allowed=allowed)
    return tensors


def _vocabulary(path: Path, header: Header) -> Vocabulary:
    """As convert_llama_ggml_to_gguf.py makes it out of the texts, with scores where it has none."""
    if len(header.tokens) <= _EOS:
        raise MalformedError(path, "n_vocab", found=len(header.tokens), allowed="at least the three control tokens")
    pieces = [_piece(path, token_id, text) for token_id, text in enumerate(header.tokens)]
    kinds = tuple(kind for _, kind in pieces)
    vocabulary = Vocabulary(
        model="spm",
        pre_tokenizer="default",
        tokens=tuple(text for text, _ in pieces),
        kinds=kinds,
        scores=header.scores or _scores(kinds),
        bos_id=_BOS,
        eos_id=_EOS,
        unk_id=_UNKNOWN,
        stop_ids=(_EOS,),
        add_bos=True,
        add_space_prefix=True,
    )
    return judged(path, vocabulary, {"tokens": "vocabulary", "kinds": "vocabulary", "scores": "scores"})


def _piece(path: Path, token_id: int, text: bytes) -> tuple[str, TokenKind]:
    if token_id <= _EOS:
        return _FIRST_TEXTS[token_id], TokenKind.UNKNOWN if token_id == _UNKNOWN else TokenKind.CONTROL
    if not text:
        return f"[EMPTY_{token_id}]", TokenKind.CONTROL  # as llama.cpp calls it when it meets one
    if _FIRST_BYTE <= token_id <= _LAST_BYTE and (len(text) == 1 or text == _NO_CHARACTER):
        # The converter of the first days had the tokenizer decode each token by itself; half a character came out so.
        byte = token_id - _FIRST_BYTE if text == _NO_CHARACTER else text[0]
        return f"<0x{byte:02X}>", TokenKind.BYTE
    try:
        return text.decode().replace(" ", "\N{LOWER ONE EIGHTH BLOCK}"), TokenKind.NORMAL
    except UnicodeDecodeError:
        raise MalformedError(path, f"vocabulary[{token_id}]", found=text, allowed="UTF-8") from None


def _scores(kinds: Sequence[TokenKind]) -> tuple[float, ...]:
    """Of a BPE by SentencePiece: 0, -1, -2, … for the pieces in order, 0 for all else (bpe_model_trainer.cc)."""
    scores = []
    n_pieces = 0
    for kind in kinds:
        scores.append(-float(n_pieces) if kind is TokenKind.NORMAL else 0.0)
        n_pieces += kind is TokenKind.NORMAL
    return tuple(scores)
