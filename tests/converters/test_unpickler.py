"""Pickles as data: what torch writes is read, what would run is named, and nothing is ever imported."""

from __future__ import annotations

import pickle
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import MalformedError, UnsafeError
from converters.formats import unpickler
from converters.formats.unpickler import Call, Global, Persistent
from tests.fakes.audit import audited

ALLOWED = frozenset({"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage"})
PATH = Path("model.bin")

# What advisories against picklescan, fickling, modelscan and torch.load were about: ways to code that a list of
# forbidden names forgot. A list of allowed ones needs none of them.
_HOSTILE = """
os.system os.popen os.execv os.spawnl posix.system nt.system subprocess.Popen subprocess.run subprocess.check_output
subprocess.getoutput builtins.eval builtins.exec builtins.getattr builtins.__import__ builtins.compile builtins.open
builtins.apply __builtin__.eval __builtin__.file runpy.run_path runpy._run_code pty.spawn ctypes.CDLL
ctypes.cdll.LoadLibrary webbrowser.open socket.socket socket.create_connection urllib.request.urlopen
urllib.request.urlretrieve http.client.HTTPSConnection requests.get requests.api.post pip.main pip._internal.main
ensurepip._run_pip venv.create importlib.import_module importlib._bootstrap._load code.InteractiveInterpreter
code.InteractiveConsole codeop.CommandCompiler cProfile.run cProfile.runctx profile.run profile.Profile.runctx
trace.Trace.run trace.Trace.runctx pdb.run bdb.Bdb.run doctest.debug_script timeit.timeit timeit.repeat
operator.methodcaller operator.attrgetter operator.itemgetter functools.partial functools.reduce
logging.FileHandler logging.config.listen io.FileIO io.open _io.open shutil.rmtree shutil.copyfile tempfile.mktemp
numpy.f2py.crackfortran.getlincoef numpy.testing._private.utils.runstring numpy.load pandas.read_pickle
pkgutil.resolve_name uuid._get_command_stdout imaplib.IMAP4_stream _pyrepl.pager.pipe_pager
_osx_support._read_output _aix_support._read_cmd_output asyncio.unix_events._UnixSubprocessTransport._start
multiprocessing.util.spawnv_passfds commands.getoutput distutils.spawn.spawn distutils.file_util.write_file
lib2to3.pgen2.pgen.ParserGenerator idlelib.pyshell.ModifiedInterpreter.runcode idlelib.run.Executive.runcode
idlelib.autocomplete.AutoComplete.fetch_completions smtplib.SMTP ssl.get_server_certificate sys.setprofile
types.CodeType types.FunctionType marshal.loads pickle.loads _pickle.loads dill.loads cloudpickle.loads joblib.load
torch.load torch.jit.load torch.hub.load torch._inductor.codecache.compile_file torch.utils._config_module.load_config
torch.utils.collect_env.run torch.utils.bottleneck.__main__.run_cprofile torch.fx.experimental.symbolic_shapes.ShapeEnv
torch.serialization.load torch.storage._load_from_bytes torch.distributed.run.main collections.OrderedDict.fromkeys
torch._utils._rebuild_tensor_v2.__globals__ torch.FloatStorage.from_file transformers.models.llama.LlamaForCausalLM
site.main bz2.BZ2File gzip.open zipfile.ZipFile tarfile.open sqlite3.connect readline.read_history_file
"""
HOSTILE = sorted(_HOSTILE.split())


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def load(data: bytes) -> object:
    return unpickler.load(PATH, "data.pkl", data, ALLOWED).value


def test_there_are_many_hostile_names() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 75


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_by_name_and_offset_and_never_looked_up(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    pair = f"{module}\n{attribute}\n".encode()
    forms = {
        b"\x80\x02]" + b"c" + pair + text("id") + b"\x85R.": ("GLOBAL", 3),
        b"c" + pair + b"(S'id'\ntR.": ("GLOBAL", 0),
        b"\x80\x04" + text(module) + text(attribute) + b"\x93" + text("id") + b"\x85R.": (
            "STACK_GLOBAL",
            12 + len(module) + len(attribute),
        ),
        b"(S'id'\ni" + pair + b".": ("INST", 7),
        b"(c" + pair + b"S'id'\no.": ("GLOBAL", 1),
        b"\x80\x02c" + pair + b")\x81.": ("GLOBAL", 2),
        b"\x80\x04c" + pair + b")}\x92.": ("GLOBAL", 2),
        b"\x80\x02(c" + pair + b"l.": ("GLOBAL", 3),
    }
    for data, (opcode, offset) in forms.items():
        with audited() as events, pytest.raises(UnsafeError) as caught:
            load(data)
        assert events == []
        assert (caught.value.found, caught.value.field, caught.value.offset) == (name, f"data.pkl: {opcode}", offset)


ORDERED = b"ccollections\nOrderedDict\n"
UNSAFE = [
    ("OBJ of an allowed class", b"(" + ORDERED + b"o.", "a new object of collections.OrderedDict"),
    ("NEWOBJ of an allowed class", b"\x80\x02" + ORDERED + b")\x81.", "a new object of collections.OrderedDict"),
    ("NEWOBJ_EX of an allowed class", b"\x80\x04" + ORDERED + b")}\x92.", "a new object of collections.OrderedDict"),
    ("NEWOBJ of text", b"\x80\x02" + text("os") + b")\x81.", "a new object of something without a name"),
    ("a call of text", b"\x80\x02" + text("os.system") + b")R.", "a call of str"),
    ("a call of a call", b"\x80\x02ctorch\nFloatStorage\n)R)R.", "a call of a result of torch.FloatStorage"),
    ("attributes of a dictionary", b"\x80\x02}}" + text("_metadata") + b"Nsb.", "attributes for dict"),
    ("attributes of a global", b"\x80\x02" + ORDERED + b"}b.", "attributes for collections.OrderedDict"),
    ("attributes of a call", b"\x80\x02ctorch\nFloatStorage\n)R}b.", "attributes for a result of torch.FloatStorage"),
    ("__setstate__", b"\x80\x02" + ORDERED + b")R}" + text("__setstate__") + b"Nsb.", "attributes for OrderedDict"),
    ("__dict__", b"\x80\x02" + ORDERED + b")R}" + text("__dict__") + b"}sb.", "attributes for OrderedDict"),
    ("slots", b"\x80\x02" + ORDERED + b")RN}\x86b.", "attributes for OrderedDict"),
    ("EXT1", b"\x80\x02\x82\x01.", "a number from the registry"),
    ("EXT4", b"\x80\x02\x84\x01\x00\x00\x00.", "a number from the registry"),
]


@pytest.mark.parametrize(("data", "found"), [case[1:] for case in UNSAFE], ids=[case[0] for case in UNSAFE])
def test_an_instruction_that_makes_objects_is_unsafe(data: bytes, found: str) -> None:
    with audited() as events, pytest.raises(UnsafeError) as caught:
        load(data)
    assert events == []
    assert str(caught.value.found).startswith(found)


MALFORMED = [
    ("nothing", b"", "pickle", 0),
    ("no stop", b"\x80\x02N", "", 3),
    ("stop without a value", b"\x80\x02.", "", 2),
    ("protocol 6", b"\x80\x06N.", "PROTO", 0),
    ("an unknown opcode", b"\x80\x02\xff.", "opcode", 2),
    ("DUP", b"\x80\x02N2.", "opcode", 3),
    ("a byte array", b"\x80\x05\x96" + bytes(8) + b".", "opcode", 2),
    ("SETITEM on a list", b"\x80\x02]NNs.", "SETITEM", 5),
    ("SETITEMS on a list", b"\x80\x02](NNu.", "SETITEMS", 6),
    ("APPEND on a dictionary", b"\x80\x02}Na.", "APPEND", 4),
    ("APPENDS on a tuple", b"\x80\x02)(Ne.", "APPENDS", 5),
    ("an odd number of items", b"\x80\x02}(NNNu.", "SETITEMS", 7),
    ("a key twice", b"\x80\x02}K\x01NsK\x01Ns.", "SETITEM", 10),
    ("a dictionary as a key", b"\x80\x02}}Ns.", "SETITEM", 5),
    ("a tuple as a key", b"\x80\x02})Ns.", "SETITEM", 5),
    ("arguments of OrderedDict", b"\x80\x02" + ORDERED + b"]\x85R.", "REDUCE", 29),
    ("arguments that are no tuple", b"\x80\x02" + ORDERED + b"]R.", "REDUCE", 28),
    ("a tuple without a mark", b"\x80\x02Nt.", "TUPLE", 3),
    ("a pop through a mark", b"\x80\x02N(\x85.", "TUPLE1", 4),
    ("an empty memo", b"\x80\x02h\x07.", "BINGET", 2),
    ("2 GB of text, 10 bytes there", b"\x80\x02X\xff\xff\xff\x7f0123456789", "BINUNICODE", 2),
    ("2^63 bytes of text", b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f" + b"0123456789", "BINUNICODE8", 2),
    ("an integer of 2^31 bytes", b"\x80\x02\x8b\x00\x00\x00\x80", "LONG4", 2),
    ("an integer of 17 bytes", b"\x80\x02\x8a\x11" + bytes(17) + b".", "LONG1", 2),
    ("an integer of 5000 digits", b"I" + b"9" * 4000 + b"\n.", "INT", 0),
    ("a line without end", b"I" + b"9" * 10_000, "INT", 0),
    ("an integer in octal", b"I010\n.", "INT", 0),
    ("an integer with an underscore", b"L1_0L\n.", "LONG", 0),
    ("an integer in other digits", "I\u0661\n.".encode(), "INT", 0),
    ("a float in words", b"Ffour\n.", "FLOAT", 0),
    ("a float with an L", b"F1L\n.", "FLOAT", 0),
    ("text with an escape", b"S'a\\x62'\n.", "STRING", 0),
    ("Unicode with an escape", b"Va\\u0062\n.", "UNICODE", 0),
    ("text that is no UTF-8", b"\x80\x02X\x01\x00\x00\x00\xff.", "BINUNICODE", 2),
    ("a frame beyond the end", b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "FRAME", 2),
    ("a name of numbers", b"\x80\x04K\x01K\x02\x93.", "STACK_GLOBAL", 6),
    ("a set", b"\x80\x04\x8f.", "EMPTY_SET", 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "opcode", "offset"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED]
)
def test_a_broken_pickle_is_refused_by_opcode_and_offset(data: bytes, opcode: str, offset: int) -> None:
    with pytest.raises(MalformedError) as caught:
        load(data)
    assert not isinstance(caught.value, UnsafeError)
    assert (caught.value.field.startswith(f"data.pkl: {opcode}"), caught.value.offset) == (True, offset)


N = 1_000_000
EXHAUSTING = [
    ("10^8 instructions", b"\x80\x02" + b"N" * N),
    ("a memo of everything", b"\x80\x04N" + b"\x94" * N),
    ("a stack of marks", b"\x80\x02" + b"(" * N),
    ("lists of lists by the memo", b"\x80\x02]q\x00" + b"h\x00h\x00\x86q\x00" * N),
    ("tuples inside tuples", b"\x80\x02)" + b"\x85" * N),
    ("ids inside ids", b"\x80\x02N" + b"Q" * N),
    ("calls inside calls", b"\x80\x02ctorch\nFloatStorage\nq\x000N" + b"h\x00\x85" * N),
    ("arguments of arguments", b"\x80\x02N" + b"\x85ctorch\nFloatStorage\nq\x00" * (N // 20)),
    (
        "integers of one hash",
        b"\x80\x02}("
        + b"".join(b"\x8a\x10" + (i * (2**61 - 1)).to_bytes(16, "little") + b"N" for i in range(100_000))
        + b"u.",
    ),
]


@pytest.mark.parametrize("data", [case[1] for case in EXHAUSTING], ids=[case[0] for case in EXHAUSTING])
def test_a_pickle_that_would_exhaust_us_is_stopped_soon(data: bytes) -> None:
    start = time.process_time()
    with pytest.raises(MalformedError):
        load(data)
    assert time.process_time() - start < 6  # about 1 on a machine of its own


def test_values_nested_a_hundred_thousand_deep_come_and_go() -> None:
    n = 100_000
    deep_call = b"\x80\x02ctorch\nFloatStorage\nq\x00" + b"h\x00" * n + b"N" + b"\x85R" * n + b"."
    assert isinstance(load(deep_call), Call)
    assert isinstance(load(b"\x80\x02N" + b"Q" * n + b"."), Persistent)
    assert isinstance(load(b"\x80\x02]" + b"q\x00]h\x00a" * n + b"."), list)


def test_a_value_may_contain_itself() -> None:
    value = load(b"\x80\x02]q\x00h\x00a}q\x01" + text("self") + b"h\x01sa.")
    assert isinstance(value, list)
    assert value[0] is value
    assert value[1]["self"] is value[1]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**127), 2**127 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(-(2**60), 2**60), inner)
    ),
    max_leaves=10,
)


@given(plain, st.integers(3, 5))
def test_plain_values_are_read_as_python_reads_them(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert unpickler.load(PATH, "data.pkl", data + b"more", frozenset()) == unpickler.Unpickled(value, len(data))


@given(st.lists(st.none() | st.booleans() | st.integers(-(2**99), 2**99) | st.floats(allow_nan=False)))
def test_the_oldest_protocols_are_read_too(value: list[object]) -> None:
    assert load(pickle.dumps(value, 0)) == value
    assert load(pickle.dumps(value, 1)) == value


def test_calls_and_ids_are_kept_and_not_made() -> None:
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06tQ"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89" + ORDERED + b")RtR"
    )
    value = load(b"\x80\x02" + ORDERED + b")R" + text("w") + call + b"s}" + text("_metadata") + b"}sb.")
    assert isinstance(value, dict)
    tensor = value["w"]
    assert isinstance(tensor, Call)
    assert tensor.function == "torch._utils._rebuild_tensor_v2"
    assert tensor.arguments[1:] == (0, (2, 3), (3, 1), False, {})
    assert isinstance(tensor.arguments[0], Persistent)
    identity = tensor.arguments[0].identity
    assert isinstance(identity, tuple)
    assert isinstance(identity[1], Global)
    assert (identity[0], identity[1].name, *identity[2:]) == ("storage", "torch.FloatStorage", "0", "cpu", 6)
