"""Eight numbers as one value of a numba function: loops over d in vector code.

LLVM's own vectoriser keeps four sums at a time, and spends much on adding them up and on the
numbers that are left over. Here a loop goes through memory by eights, and what is left over is one
masked step.

    for d in range(0, D - 7, WIDTH):
        x = load(w, d, WIDTH, "parameters")
        ...
    if D % WIDTH:
        x = load(w, D - D % WIDTH, D % WIDTH, "parameters")
        ...

Flows are computed in float64 whatever the tensors hold; ``load`` and ``store`` convert.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

__all__ = [
    "WIDTH",
    "load",
    "multiply_add",
    "spread",
    "store",
    "store_around",
    "times",
    "total",
    "zeros",
]

WIDTH = 8


class _Vector(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"vector of {WIDTH} float64")


_VALUES = ir.VectorType(ir.DoubleType(), WIDTH)
_vector = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind) -> None:
        super().__init__(manager, kind, _VALUES)


# Memory that a kernel promises not to overlap: parameters, their gradients, a point, its gradient.
# Without the promise what was loaded has to be loaded again after each store.
_PLACES = ("parameters", "w_bar", "u_bar", "z", "z_bar")


def _promise(module, instruction, place):
    domain = module.add_metadata(["flowvae"])
    here, *others = (
        module.add_metadata([f"flowvae {name}", domain])
        for name in sorted(_PLACES, key=place.__ne__)
    )
    instruction.set_metadata("alias.scope", module.add_metadata([here]))
    instruction.set_metadata("noalias", module.add_metadata(others))


def _spread(builder, value, width):
    """All of a vector the same."""
    number = ir.IntType(32)
    vector = ir.VectorType(value.type, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, number(0))
    where = ir.Constant(ir.VectorType(number, width), [0] * width)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), where)


def _first(builder, n):
    """A mask of the first n numbers; where n is known to be WIDTH it costs nothing."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), WIDTH), list(range(WIDTH)))
    return builder.icmp_signed("<", numbers, _spread(builder, n, WIDTH))


def _place(context, builder, pointer, i, dtype):
    """Where the numbers from the i-th on are, as numbers of ``dtype``."""
    kind = ir.VectorType(context.get_value_type(dtype), WIDTH)
    return builder.bitcast(builder.gep(pointer, [i]), kind.as_pointer()), kind


def _call(builder, name, result, *arguments):
    """Call an intrinsic function of LLVM, whose name llvmlite cannot derive from vectors."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _named(name, kind):
    return f"llvm.{name}.v{WIDTH}f{32 if kind.element == ir.FloatType() else 64}"


@intrinsic
def load(context, pointer, i, n, place):
    """The n ≤ WIDTH numbers from ``pointer[i]`` on, then zeros; ``place`` is one of ``_PLACES``."""
    if not isinstance(place, types.StringLiteral):
        return None  # numba asks again with the literal

    def build(context, builder, signature, arguments):
        at, kind = _place(context, builder, arguments[0], arguments[1], pointer.dtype)
        align = ir.IntType(32)(pointer.dtype.bitwidth // 8)
        rest = ir.Constant(kind, [0.0] * WIDTH)
        mask = _first(builder, arguments[2])
        values = _call(builder, _named("masked.load", kind) + ".p0", kind, at, align, mask, rest)
        _promise(builder.module, values, place.literal_value)
        return values if kind == _VALUES else builder.fpext(values, _VALUES)

    return _vector(pointer, i, types.int64, place), build


@intrinsic
def store(context, pointer, i, n, value, place):
    """Write the first n ≤ WIDTH numbers from ``pointer[i]`` on."""
    if not isinstance(place, types.StringLiteral):
        return None

    def build(context, builder, signature, arguments):
        at, kind = _place(context, builder, arguments[0], arguments[1], pointer.dtype)
        align = ir.IntType(32)(pointer.dtype.bitwidth // 8)
        values = arguments[3]
        values = values if kind == _VALUES else builder.fptrunc(values, kind)
        mask = _first(builder, arguments[2])
        name = _named("masked.store", kind) + ".p0"
        done = _call(builder, name, ir.VoidType(), values, at, align, mask)
        _promise(builder.module, done, place.literal_value)
        return context.get_dummy_value()

    return types.void(pointer, i, types.int64, _vector, place), build


@intrinsic
def store_around(context, pointer, i, value, place):
    """As ``store`` of a whole vector, past the cache: memory written as a whole is not read first.

    The address is a multiple of the vector's size.
    """
    if not isinstance(place, types.StringLiteral):
        return None

    def build(context, builder, signature, arguments):
        at, kind = _place(context, builder, arguments[0], arguments[1], pointer.dtype)
        values = arguments[2]
        values = values if kind == _VALUES else builder.fptrunc(values, kind)
        done = builder.store(values, at, align=WIDTH * pointer.dtype.bitwidth // 8)
        done.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        _promise(builder.module, done, place.literal_value)
        return context.get_dummy_value()

    return types.void(pointer, i, _vector, place), build


@intrinsic
def spread(context, x):
    """All numbers the same."""

    def build(context, builder, signature, arguments):
        return _spread(builder, arguments[0], WIDTH)

    return _vector(x), build


@intrinsic
def zeros(context):
    def build(context, builder, signature, arguments):
        return ir.Constant(_VALUES, [0.0] * WIDTH)

    return _vector(), build


@intrinsic
def times(context, x, y):
    """x y."""

    def build(context, builder, signature, arguments):
        return builder.fmul(*arguments)

    return _vector(_vector, _vector), build


@intrinsic
def multiply_add(context, x, y, z):
    """x y + z, rounded once where the processor can."""

    def build(context, builder, signature, arguments):
        return _call(builder, _named("fmuladd", _VALUES), _VALUES, *arguments)

    return _vector(_vector, _vector, _vector), build


@intrinsic
def total(context, x):
    """The sum of the numbers: halves are added until one is left."""

    def build(context, builder, signature, arguments):
        values, number = arguments[0], ir.IntType(32)
        width = WIDTH
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(number, width), list(range(start, start + width)))
                for start in (0, width)
            )
            nothing = ir.Constant(values.type, ir.Undefined)
            values = builder.fadd(
                builder.shuffle_vector(values, nothing, low),
                builder.shuffle_vector(values, nothing, high),
            )
        return builder.extract_element(values, number(0))

    return types.float64(_vector), build
