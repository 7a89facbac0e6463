"""How kernels read records: a field by its name is one load, at a place that is known when the kernel is compiled."""

from __future__ import annotations

from typing import Any, get_type_hints

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model

from fastmlp.kernels.jit import I64, inline
from fastmlp.kernels.records import ARRAY_OFFSET, ArrayObject, Layer, Part, SampleAddresses, State


class Record(types.Type):  # type: ignore[misc]
    """The Numba type of a record's address."""

    def __init__(self, kind: type) -> None:
        hints = get_type_hints(kind)
        self.fields = {name: types.float64 if hint is float else types.int64 for name, hint in hints.items()}
        super().__init__(f"record {kind.__name__}")


@register_model(Record)
class RecordModel(models.PrimitiveModel):  # type: ignore[misc]
    """A record is held as its address."""

    def __init__(self, manager: Any, kind: Record) -> None:
        super().__init__(manager, kind, I64)


@infer_getattr
class RecordFields(AttributeTemplate):  # type: ignore[misc]
    """Tells Numba the types of the fields."""

    key = Record

    def generic_resolve(self, record: Record, name: str) -> Any:
        """Give the type of a field."""
        return record.fields.get(name)


@lower_getattr_generic(Record)
def load_field(context: Any, builder: ir.IRBuilder, record: Record, address: Any, name: str) -> Any:
    """Load a field. None changes while a kernel that reads it runs, so LLVM may load it once."""
    kind = context.get_value_type(record.fields[name])
    field = builder.add(address, I64(8 * list(record.fields).index(name)))
    value = builder.load(builder.inttoptr(field, kind.as_pointer()), typ=kind)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


def reader(kind: type, offset: int = 0) -> Any:
    """Make the intrinsic that reads a record of one kind, so many bytes after an address."""
    record = Record(kind)

    @intrinsic
    def record_at(typing: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            return builder.add(arguments[0], I64(offset))

        return record(types.int64), codegen

    return record_at


layer_at, part_at, state_at, samples_at = reader(Layer), reader(Part), reader(State), reader(SampleAddresses)
array_at = reader(ArrayObject, ARRAY_OFFSET)


@inline
def is_sparse(net):
    """Whether the samples of a call are sparse."""
    return net.entry_bounds != 0


@inline
def owns_parts(net, threads):
    """Whether each thread has parts of the inputs, and what belongs to them, to itself; else it has a share of rows.

    One thread always has, with dense samples.
    """
    return net.n_parts % threads == 0 and not is_sparse(net)


@inline
def has_one_output(layer):
    """Whether a layer, not the first, has a single output.

    Its products are then made along the inputs, with the one row of Wᵀ: a tile would compute a whole vector of columns.
    """
    return layer.n_out == 1 and layer.transposed > 0
