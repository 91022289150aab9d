"""Steps over rows of float32 in vectors of eight cells, for kernels of networks.

Each step is written twice: in NumPy, which runs under ``NUMBA_DISABLE_JIT=1``, and as vector instructions,
which compiled kernels run instead. LLVM adapts these to the processor: two halves where a vector has four
lanes, fused multiply-add where there is one. Rows are contiguous along the last axis; `cells` is a multiple
of `LANES`, and every row has room for `cells` values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
_FLOAT, _INT = ir.FloatType(), ir.IntType(64)
_VECTOR, _BITS = ir.VectorType(_FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)

_FARTHEST = 87.0
"""Largest argument of exp whose result is a float32 of full precision."""

_EXPONENTIAL = (1.0, -1.0, 0.49999991059, -0.16666419804, 0.04166822508, -0.00837481581, 0.00138368458)
"""exp(-x) for |x| < log(2) / 2 as a polynomial, with a relative error of 1e-7 in float32: fitted by least
squares, weighted so that the largest relative error is smallest."""

_LOGARITHM = (
    3.3333331174e-1, -2.4999993993e-1, 2.0000714765e-1, -1.6668057665e-1, 1.4249322787e-1,
    -1.2420140846e-1, 1.1676998740e-1, -1.1514610310e-1, 7.0376836292e-2,
)  # fmt: skip
"""log(1 + x) = x - x^2 / 2 + x^3 times this polynomial, for 1 + x from sqrt(1/2) to sqrt(2) (Cephes'
`logf`)."""

_HALVES = (0.693359375, -2.12194440e-4)
"""log(2) as the sum of two numbers, of which the first has few digits (Cody & Waite 1980)."""

_SMALLEST = float(np.finfo(np.float32).tiny)


class Rows:
    """Addresses, in generated code, of the rows of an array whose last axis is contiguous."""

    def __init__(self, builder: Any, data: Any, strides: Sequence[Any], shape: Sequence[Any]) -> None:
        self._builder, self._data = builder, data
        self.strides, self.shape = strides, shape

    def at(self, *index: Any) -> Any:
        """The address of a row, as an integer."""
        address = self._data
        for number, stride in zip(index, self.strides, strict=False):
            address = self._builder.add(address, self._builder.mul(number, stride))
        return address


class Code:
    """Generates LLVM code with vectors of `LANES` floats."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def number(self, value: int) -> Any:
        return ir.Constant(_INT, value)

    def numbers(self, value: float) -> Any:
        return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)

    def load(self, address: Any, further: int = 0) -> Any:
        pointer = self._pointer(address, 4 * further, _VECTOR)
        return self.builder.load(pointer, align=4)

    def store(self, vector: Any, address: Any, further: int = 0) -> None:
        self.builder.store(vector, self._pointer(address, 4 * further, _VECTOR), align=4)

    def spread(self, address: Any, further: int = 0) -> Any:
        """A vector with one value in every lane."""
        value = self.builder.load(self._pointer(address, 4 * further, _FLOAT), align=4)
        single = self.builder.insert_element(
            ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0)
        )
        lanes = ir.Constant(_BITS, [0] * LANES)
        return self.builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), lanes)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), (a, b, c))

    def logistic(self, x: Any) -> Any:
        """1 / (1 + exp(-x)); NaN stays NaN."""
        b = self.builder
        for relation, bound in ((">", self.numbers(_FARTHEST)), ("<", self.numbers(-_FARTHEST))):
            x = b.select(b.fcmp_ordered(relation, x, bound), bound, x)
        # A number added to 1.5 2^23 is rounded to an integer, which stands in the last bits of the sum.
        whole = self.numbers(1.5 * 2**23)
        shifted = self.multiply_add(x, self.numbers(-1 / np.log(2)), whole)
        twos = b.fsub(shifted, whole)
        rest = self.multiply_add(twos, self.numbers(np.log(2)), x)
        value = self.numbers(_EXPONENTIAL[-1])
        for coefficient in reversed(_EXPONENTIAL[:-1]):
            value = self.multiply_add(value, rest, self.numbers(coefficient))
        exponent = b.shl(b.bitcast(shifted, _BITS), ir.Constant(_BITS, [23] * LANES))
        power = b.bitcast(b.add(b.bitcast(value, _BITS), exponent), _VECTOR)
        return b.fdiv(self.numbers(1), b.fadd(self.numbers(1), power))

    def logarithm(self, x: Any) -> Any:
        """log(x) of positive normal numbers, unfused, with the same bits on every processor."""
        b, integer = self.builder, ir.IntType(32)
        least = self.numbers(_SMALLEST)
        bits = b.bitcast(b.select(b.fcmp_ordered("<", x, least), least, x), _BITS)
        root = int(np.float32(np.sqrt(0.5)).view(np.int32))
        places = ir.Constant(_BITS, [ir.Constant(integer, 23)] * LANES)
        twos = b.ashr(b.sub(bits, ir.Constant(_BITS, [ir.Constant(integer, root)] * LANES)), places)
        x = b.fsub(b.bitcast(b.sub(bits, b.shl(twos, places)), _VECTOR), self.numbers(1))
        value = self.numbers(_LOGARITHM[-1])
        for coefficient in reversed(_LOGARITHM[:-1]):
            value = b.fadd(b.fmul(value, x), self.numbers(coefficient))
        square, exponent = b.fmul(x, x), b.sitofp(twos, _VECTOR)
        value = b.fadd(b.fmul(b.fmul(value, x), square), b.fmul(exponent, self.numbers(_HALVES[1])))
        value = b.fadd(x, b.fsub(value, b.fmul(self.numbers(0.5), square)))
        return b.fadd(value, b.fmul(exponent, self.numbers(_HALVES[0])))

    def shifted(self, place: Any, following: Any) -> list[Any]:
        """The vector in a place and those one and two cells later; `following` then takes the place."""
        here = self.builder.load(place)
        self.builder.store(following, place)
        lanes = [ir.Constant(_BITS, list(range(i, i + LANES))) for i in range(3)]
        return [here, *(self.builder.shuffle_vector(here, following, some) for some in lanes[1:])]

    @contextmanager
    def each(self, count: Any, step: int = 1) -> Iterator[Any]:
        """Count up to `count` in steps."""
        with cgutils.for_range_slice(self.builder, self.number(0), count, self.number(step), _INT) as (
            index,
            _,
        ):
            yield index

    def bytes(self, address: Any, cells: Any) -> Any:
        """The address `cells` cells after an address."""
        return self.builder.add(address, self.builder.mul(cells, self.number(4)))

    def copy(self, address: Any, into: Any, cells: Any) -> None:
        """Copy cells one by one."""
        with self.each(cells) as cell:
            value = self.builder.load(self._pointer(self.bytes(address, cell), 0, _FLOAT), align=4)
            self.builder.store(value, self._pointer(self.bytes(into, cell), 0, _FLOAT), align=4)

    def _pointer(self, address: Any, offset: int, kind: Any) -> Any:
        if offset:
            address = self.builder.add(address, self.number(offset))
        return self.builder.inttoptr(address, kind.as_pointer())


def _defined(module: Any, name: str, generate: Callable[..., None], kinds: Sequence[Any]) -> Any:
    """The generated function in an LLVM module: one for all callers, because compiling takes seconds."""
    ndims = [
        kind.ndim if isinstance(kind, types.Array) else -len(getattr(kind, "types", ())) for kind in kinds
    ]
    widths = [1 + 2 * ndim if ndim > 0 else max(1, -ndim) for ndim in ndims]
    kind = ir.FunctionType(ir.VoidType(), [_INT] * sum(widths))
    function = cgutils.get_or_insert_function(module, kind, f"reion_{name}_{'_'.join(map(str, widths))}")
    if function.is_declaration:
        function.linkage = "linkonce_odr"
        function.attributes.add("noinline")
        builder = ir.IRBuilder(function.append_basic_block())
        operands: list[Any] = []
        given = iter(function.args)
        for ndim in ndims:
            if ndim > 0:
                data, *sizes = [next(given) for _ in range(1 + 2 * ndim)]
                operands.append(Rows(builder, data, sizes[:ndim], sizes[ndim:]))
            else:
                operands.append([next(given) for _ in range(-ndim)] if ndim else next(given))
        generate(Code(builder), *operands)
        builder.ret_void()
    return function


def vectorised(generate: Callable[..., None]) -> Callable[[Callable[..., None]], Any]:
    """Replace a NumPy function in compiled kernels by generated code with the same arguments."""

    def decorate(function: Callable[..., None]) -> Any:
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            return function

        def typed(_: Any, *kinds: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
                flat: list[Any] = []
                for kind, value in zip(signature.args, arguments, strict=True):
                    if isinstance(kind, types.Array):
                        array = context.make_array(kind)(context, builder, value)
                        flat.append(builder.ptrtoint(array.data, _INT))
                        flat += cgutils.unpack_tuple(builder, array.strides, kind.ndim)
                        flat += cgutils.unpack_tuple(builder, array.shape, kind.ndim)
                    elif isinstance(kind, types.UniTuple | types.Tuple):
                        flat += cgutils.unpack_tuple(builder, value, len(kind))
                    else:
                        flat.append(value)
                builder.call(_defined(builder.module, function.__name__, generate, signature.args), flat)
                return context.get_dummy_value()

            return types.void(*kinds), code

        names = ["context", *inspect.signature(function).parameters]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        # Numba asks for the names of the arguments.
        typed.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
        typed.__name__ = function.__name__
        typed.__doc__ = function.__doc__
        return intrinsic(typed)

    return decorate


def _activate(code: Code, values: Rows, rows: Any, cells: Any, *, times: bool) -> None:
    with code.each(rows) as row, code.each(cells, LANES) as cell:
        address = code.bytes(values.at(row), cell)
        x = code.load(address)
        y = code.logistic(x)
        code.store(code.builder.fmul(x, y) if times else y, address)


@vectorised(partial(_activate, times=True))
def silu(values: Any, rows: int, cells: int) -> None:
    """Multiply each of the first `rows` rows by its logistic function, in place."""
    values[:rows, :cells] *= _logistic(values[:rows, :cells])


def _silu_and_slope(code: Code, values: Rows, slopes: Rows, rows: Any, cells: Any) -> None:
    b, one = code.builder, code.numbers(1)
    with code.each(rows) as row, code.each(cells, LANES) as cell:
        address = code.bytes(values.at(row), cell)
        x = code.load(address)
        part = code.logistic(x)
        y = b.fmul(x, part)
        code.store(y, address)
        slope = code.multiply_add(y, b.fsub(one, part), part)
        code.store(slope, code.bytes(slopes.at(row), cell))


@vectorised(_silu_and_slope)
def silu_and_slope(values: Any, slopes: Any, rows: int, cells: int) -> None:
    """Multiply each of so many rows by its logistic function, in place; write the derivative to `slopes`."""
    part = _logistic(values[:rows, :cells])
    values[:rows, :cells] *= part
    slopes[:rows, :cells] = part + values[:rows, :cells] * (np.float32(1) - part)


@vectorised(partial(_activate, times=False))
def logistic(values: Any, rows: int, cells: int) -> None:
    """Replace each of the first `rows` rows by its logistic function, 1 / (1 + exp(-x))."""
    values[:rows, :cells] = _logistic(values[:rows, :cells])


def _logistic(values: Any) -> Any:
    far = np.float32(_FARTHEST)
    return np.float32(1) / (np.float32(1) + np.exp(-np.clip(values, -far, far)))


def _logarithm(code: Code, values: Rows) -> None:
    b = code.builder
    (length,) = values.shape
    rest = b.urem(length, code.number(LANES))
    whole = b.sub(length, rest)
    with code.each(whole, LANES) as cell:
        address = code.bytes(values.at(), cell)
        code.store(code.logarithm(code.load(address)), address)
    # The last cells go through a separate vector, because nothing may be written behind them.
    held = b.ptrtoint(cgutils.alloca_once(b, _VECTOR), _INT)
    code.store(code.numbers(1), held)
    end = code.bytes(values.at(), whole)
    code.copy(end, held, rest)
    code.store(code.logarithm(code.load(held)), held)
    code.copy(held, end, rest)


@vectorised(_logarithm)
def logarithm(values: Any) -> None:
    """Replace a line (z,), contiguous and of any length, by its logarithm.

    All numbers must be finite; those below the smallest normal number are replaced by it.
    """
    values[:] = np.log(np.maximum(values, np.float32(_SMALLEST)))


def _copy_rows(code: Code, rows: Rows, out: Rows) -> None:
    count, cells = rows.shape
    whole = code.builder.sub(cells, code.builder.urem(cells, code.number(LANES)))
    with code.each(count) as row:
        begin, into = rows.at(row), out.at(row)
        with code.each(whole, LANES) as cell:
            code.store(code.load(code.bytes(begin, cell)), code.bytes(into, cell))
        rest = code.builder.sub(cells, whole)
        code.copy(code.bytes(begin, whole), code.bytes(into, whole), rest)


@vectorised(_copy_rows)
def copy_rows(rows: Any, out: Any) -> None:
    """Copy rows (row, z) of any length to the beginning of the first rows of `out`."""
    out[: rows.shape[0], : rows.shape[1]] = rows
