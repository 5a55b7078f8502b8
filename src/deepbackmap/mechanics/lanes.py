"""Short vectors of numbers for compiled loops: eight floats or four doubles worked on at once.

Numba leaves it to the optimiser whether a loop is vectorised, and forces that are added up in
memory often are not. These types say it: arithmetic on ``F8`` and ``D4`` becomes vector
instructions on values that stay in registers. In a compiled function ``load`` and ``store`` move
them between registers and one-dimensional arrays; operators work element by element, with scalars
spread over all elements; ``select`` chooses by a mask.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import operator
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
from llvmlite import ir
from numba import get_num_threads, njit, types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic as _intrinsic
from numba.extending import lower_builtin, models, register_model

WIDTH = 8
"""Floats in a vector: atoms of a cluster."""
LANES = 4
"""Doubles in a vector: copies of a molecule type that are worked on at once."""

if "NUMBA_THREADING_LAYER" not in os.environ:
    # Its threads sleep while they wait; OpenMP's spin, and on a busy machine a step then takes ten
    # times as long.
    numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's, whether or not tests have wrapped the function to check its arguments."""
    return _intrinsic(inspect.unwrap(function))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, where tests have wrapped it to check its arguments."""
    return inspect.unwrap(function)


class _PartLibrary(JITCodeLibrary):
    """Code that others link: it is optimised as a part of these.

    Numba by itself optimises each function, and makes machine code of it, before it is linked into
    those that call it, where all of that is done again.
    """

    @property
    def codegen(self) -> Any:
        """It is asked for nothing else than where code lies that does not lie anywhere."""
        return SimpleNamespace(set_env=lambda *_: None)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    @classmethod
    def _unserialize(cls, codegen: Any, state: Any) -> Any:
        """What was kept is no part: Python may call it, whoever read it from the cache."""
        with _libraries(codegen, JITCodeLibrary):
            return JITCodeLibrary._unserialize(codegen, state)


@contextmanager
def _libraries(codegen: Any, kind: type[JITCodeLibrary]) -> Iterator[None]:
    """Code that is made or read inside goes to libraries of one kind."""
    others, codegen._library_class = codegen._library_class, kind
    try:
        yield
    finally:
        codegen._library_class = others


class _Compiler(Compiler):
    """Compiles a function that Python calls; what is compiled on the way are parts."""

    library = JITCodeLibrary

    def define_pipelines(self) -> Any:
        codegen = self.state.targetctx.codegen()
        self.state.library = self.library(codegen, self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super().define_pipelines()

    def _compile_core(self) -> Any:
        # What is read from the cache may call loops that are shared by threads, which must then
        # run; Numba 0.60 sees that of the function itself only, not of those it calls, and crashes.
        # Asking for their number starts them.
        self.state.reload_init.append(get_num_threads)
        with _libraries(self.state.targetctx.codegen(), _PartLibrary):
            return super()._compile_core()


class _PartCompiler(_Compiler):
    """Compiles a part."""

    library = _PartLibrary


_njit: Any = njit  # its types know fewer options than it has

LOOPS = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
"""Of all that Numba can share among threads, ``prange`` loops alone; each takes long to compile."""


def part(function: Callable[..., Any], **options: Any) -> Any:
    """Compiles a function that is called by compiled ones only, never from Python.

    Args:
        function: loops over arrays.
        options: of ``numba.njit``.
    """
    return _njit(
        error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True,
        pipeline_class=_PartCompiler, **options,
    )(_plain(function))  # fmt: skip


def threaded_part(function: Callable[..., Any]) -> Any:
    """The same of a function whose ``prange`` loops are shared by threads."""
    return part(function, parallel=LOOPS)


def inner(function: Callable[..., Any]) -> Any:
    """The same of a function that allocates nothing and is called in inner loops.

    It neither owns nor counts references to arrays: counting them costs more than short loops do.
    """
    return part(function, _nrt=False)


def compiled(
    function: Callable[..., Any], *, folder: Path = Path(__file__).parent, **options: Any
) -> Any:
    """Compiles a function and keeps the outcome between runs until any file of a folder changes.

    Numba itself looks at the function's own file only, not at those of the functions it calls.

    Args:
        function: plain loops over arrays.
        folder: with the functions that it calls.
        options: of ``numba.njit``.
    """
    dispatcher = _njit(
        cache=True, error_model="numpy", no_cfunc_wrapper=True, pipeline_class=_Compiler, **options
    )(_plain(function))
    cache = dispatcher._cache
    key, sources = cache._index_key, _digest(folder)
    cache._index_key = lambda *args: (*key(*args), sources)
    # Numba counts the files of a function's types. Of two processes that compile at the same time,
    # one would put its code where the other's index looks for other types: a crash. So that each
    # process has names of its own.
    files = cache._cache_file
    files._data_name_pattern = files._data_name_pattern.replace("{number", f"{_OWN}-{{number")
    return dispatcher


def threaded(function: Callable[..., Any]) -> Any:
    """The same of a function whose ``prange`` loops are shared by threads."""
    return compiled(function, parallel=LOOPS)


_OWN = uuid.uuid4().hex[:12]
"""In the names of what this process compiles."""


@functools.cache
def _digest(folder: Path) -> str:
    """Of all files of a folder."""
    sources = (path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(b"".join(sources)).hexdigest()


class Lanes(types.Type):
    """A vector of some numbers of one type."""

    def __init__(self, dtype: types.Type, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype} x {count})")

    @property
    def mask(self) -> Lanes:
        """The type of a comparison."""
        return Lanes(types.boolean, self.count)


F8, D4 = Lanes(types.float32, WIDTH), Lanes(types.float64, LANES)
_BASE = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.boolean: ir.IntType(1),
}
_OF = {types.float32: F8, types.float64: D4}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        vector = ir.VectorType(_BASE[fe_type.dtype], fe_type.count)
        super().__init__(dmm, fe_type, vector)


def _spread(builder: Any, scalar: Any, count: int) -> Any:
    """A vector of equal numbers."""
    vector = ir.VectorType(scalar.type, count)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    return builder.shuffle_vector(one, undefined, zeros)


def _define(op: Callable[..., Any], emit: Callable[[Any, Any, Any], Any], *, mask: bool) -> None:
    """Gives an operator of two arguments its meaning for vectors."""

    @infer_global(op)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Lanes)]
            if len(args) != 2 or not vectors:
                return None
            v = vectors[0]
            given = (a if isinstance(a, Lanes) else v.dtype for a in args)
            return signature(v.mask if mask else v, *given)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        count = sig.return_type.count
        pairs = zip(args, sig.args, strict=True)
        a, b = (x if isinstance(t, Lanes) else _spread(builder, x, count) for x, t in pairs)
        return emit(builder, a, b)

    for first, second in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(op, first, second)(lower)


# A product and a sum may become one instruction: the same one on every call.
_FLAGS = ("contract",)
_define(operator.add, lambda s, a, b: s.fadd(a, b, flags=_FLAGS), mask=False)
_define(operator.sub, lambda s, a, b: s.fsub(a, b, flags=_FLAGS), mask=False)
_define(operator.mul, lambda s, a, b: s.fmul(a, b, flags=_FLAGS), mask=False)
_define(operator.truediv, lambda s, a, b: s.fdiv(a, b, flags=_FLAGS), mask=False)
# ordered comparisons: false for what is not a number
_define(operator.lt, lambda s, a, b: s.fcmp_ordered("<", a, b), mask=True)
_define(operator.le, lambda s, a, b: s.fcmp_ordered("<=", a, b), mask=True)
_define(operator.gt, lambda s, a, b: s.fcmp_ordered(">", a, b), mask=True)
_define(operator.eq, lambda s, a, b: s.fcmp_ordered("==", a, b), mask=True)


@intrinsic
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """The vector that starts at an index of an array of floats or doubles."""
    if array.dtype not in _OF:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig, args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return _OF[array.dtype](array, types.intp), emit


@intrinsic
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Writes a vector to where an index of an array begins."""
    if array.dtype not in _OF:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig, args)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _OF[array.dtype]), emit


@intrinsic
def gather(typingctx: Any, array: Any, places: Any) -> Any:
    """The vector of elements of an array at places, which are whole numbers."""
    if array.dtype not in _OF:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, args[0]).data
        found = ir.Constant(context.get_value_type(sig.return_type), ir.Undefined)
        for k in range(sig.return_type.count):
            lane = ir.Constant(ir.IntType(32), k)
            place = builder.fptosi(builder.extract_element(args[1], lane), ir.IntType(64))
            one = builder.load(builder.gep(data, [place]))
            found = builder.insert_element(found, one, lane)
        return found

    return _OF[array.dtype](array, places), emit


@intrinsic
def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Asks for the place of an array that will be written to soon."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(array)(context, builder, args[0]).data
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        how = [ir.Constant(number, k) for k in (1, 3, 1)]  # to be written, soon, data
        builder.call(call, [builder.bitcast(builder.gep(data, [args[1]]), pointer), *how])
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


def _pointer(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    array = sig.args[0]
    data = cgutils.create_struct_proxy(array)(context, builder, args[0]).data
    vector = context.get_value_type(_OF[array.dtype])
    return builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())


def _spreading(vector: Lanes) -> Any:
    @intrinsic
    def spread(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _spread(builder, args[0], vector.count)

        return vector(vector.dtype), emit

    return spread


float8, double4 = _spreading(F8), _spreading(D4)
"""A vector of equal numbers."""


@intrinsic
def select(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """Elements of ``yes`` where the mask is set, of ``no`` elsewhere."""
    vector = yes if isinstance(yes, Lanes) else no

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        spread = [
            x if isinstance(t, Lanes) else _spread(builder, x, vector.count)
            for x, t in zip(args[1:], sig.args[1:], strict=True)
        ]
        return builder.select(args[0], *spread)

    given = (t if isinstance(t, Lanes) else vector.dtype for t in (yes, no))
    return vector(mask, *given), emit


def _one_argument(name: str) -> Any:
    """A function of LLVM on vectors."""

    @intrinsic
    def apply(typingctx: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            vector = args[0].type
            suffix = f"v{vector.count}f{value.dtype.bitwidth}"
            kind = ir.FunctionType(vector, [vector])
            full = f"llvm.{name}.{suffix}"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)

        return value(value), emit

    return apply


root, magnitude, nearest, whole, exponential, logarithm = (
    _one_argument(name) for name in ("sqrt", "fabs", "rint", "floor", "exp", "log")
)
"""Square roots, absolute values, nearest and next lower whole numbers; the last two element by
element."""


@intrinsic
def both(typingctx: Any, first: Any, second: Any) -> Any:
    """Where two masks are set."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.and_(*args)

    return first(first, second), emit


@intrinsic
def either(typingctx: Any, first: Any, second: Any) -> Any:
    """Where one of two masks is set."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.or_(*args)

    return first(first, second), emit


@intrinsic
def without(typingctx: Any, first: Any, second: Any) -> Any:
    """Where the first mask is set and the second is not."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.and_(args[0], builder.not_(args[1]))

    return first(first, second), emit


@intrinsic
def some(typingctx: Any, mask: Any) -> Any:
    """Whether a mask is set anywhere."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = builder.bitcast(args[0], ir.IntType(mask.count))
        return builder.icmp_unsigned("!=", number, ir.Constant(number.type, 0))

    return types.boolean(mask), emit
