"""The pointer table of a phase: where each tensor lies, checked anew before each launch.

Rows are parameters, columns are what the phase reads and writes for each of them. A row keeps its
number for the life of the table: one that drops out (no gradient, empty) only loses its chunks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .looking import describe, library
from .tensors import (
    Refused,
    dlpack_code,
    examine,
    examine_parameter,
    is_plain,
    local,
    overlapping,
    real,
)

Column = Sequence[Tensor | None]

# The verdicts of table.c that are answers; the others between them are questions to Python.
KERNEL, ABSENT, EMPTY, BLOCKED = 0, 1, 2, 13
WORDS = {KERNEL: "kernel", ABSENT: "absent", EMPTY: "empty", BLOCKED: "eager"}


class Table:
    """Addresses, sizes and chunks of the tensors of one dtype signature on one device.

    It keeps every tensor of its columns alive; those of `fresh` columns until `release`.
    """

    def __init__(
        self,
        columns: Sequence[Column | None],
        dtypes: Sequence[torch.dtype],
        *,
        device: torch.device | str = "cpu",
        parameter: int = 0,
        fresh: Collection[int] = (1,),
        written: Collection[int] | None = None,
        loose: Collection[int] = (),
        names: Sequence[str] | None = None,
        cell_offset: Sequence[int] | None = None,
    ) -> None:
        self.parameters = _parameters(columns[parameter], names)
        self.rows, self.columns, self.parameter = len(self.parameters), len(columns), parameter
        self.names = list(names or (f"parameter {row}" for row in range(self.rows)))
        self.dtypes, self.device = list(dtypes), torch.empty(0, device=device).device
        self.fresh, self.loose = sorted(fresh), frozenset(loose)
        self.written = set(range(self.columns)) - set(fresh) if written is None else set(written)
        # A copy of what the kernel writes would be lost.
        self._copies = set(self.fresh) - self.written
        self.copied: set[int] = set()
        self._scratch: dict[tuple[int, int], Tensor] = {}
        self._numbers: dict[tuple[int, ...], ctypes.Array[ctypes.c_int32]] = {}
        self._wrapped = not all(_direct(tensor) for tensor in self.parameters)
        self._given = [c for c in range(self.columns) if columns[c] is not None]
        # rows whose state has not begun: they are absent, whatever they are given
        fixed = (x for c, x in enumerate(columns) if x is not None and c not in self.fresh)
        self._gone = {row for x in fixed for row, tensor in enumerate(x) if tensor is None}
        self._lists = [self._list(c, column) for c, column in enumerate(columns)]
        sizes = [tensor.numel() for tensor in self._lists[parameter] if tensor is not None]
        offsets = list(accumulate(sizes, initial=0))[:-1] if cell_offset is None else cell_offset
        self.cell_offset = torch.tensor(offsets, dtype=torch.int64, device="cpu")
        self._allocate()
        self._fill_all()
        self._cut()

    @classmethod
    def build(cls, columns: Sequence[Column | None], dtypes: Sequence[torch.dtype], **options):
        """The table of `columns`, each with a dtype; a column that comes later is None."""
        return cls(columns, dtypes, **options)

    def refresh(self, fresh: Mapping[int, Column] | None = None) -> None:
        """Take the gradients from the parameters, or from `fresh`, and check them again."""
        source = None
        if fresh is None and len(self.fresh) == 1:
            if self._wrapped or self._gone:
                fresh = {self.fresh[0]: [tensor.grad for tensor in self.parameters]}
            else:
                source, fresh = self.parameters, {self.fresh[0]: [None] * self.rows}
        elif fresh is None:
            raise ValueError(f"gradients for the columns {self.fresh} have to be given")
        if self._wrapped:
            self._lists[self.parameter] = self._list(self.parameter, self.parameters)
        for column, tensors in fresh.items():
            if len(tensors) != self.rows:
                raise ValueError(f"column {column} has {len(tensors)} tensors, not {self.rows}")
            self._lists[column] = self._list(column, tensors)
        self._given = sorted({*self._given, *fresh})
        alone = not fresh and self._gone  # nothing fresh says which rows are absent
        which = [c for c in self._given if c != self.parameter] if alone else list(fresh)
        changed, moved = self._fill(which, source)
        if moved:
            self._fill_all()
        if changed or moved:
            self._cut()

    def release(self) -> None:
        """Let go of the gradients: a table that held them would double their memory."""
        for column in self.fresh:
            self._lists[column] = [None] * self.rows
        self._given = [column for column in self._given if column not in self.fresh]

    def column(self, column: int) -> list[Tensor | None]:
        """The tensors behind the addresses of a column."""
        return self._lists[column]

    @property
    def ready(self) -> bool:
        """Whether every column has tensors behind its addresses."""
        return len(self._given) == self.columns

    @property
    def verdicts(self) -> list[str]:
        """`kernel`, `copy`, `eager`, `absent` or `empty` for each row."""
        found = [WORDS[verdict] for verdict in self._verdict]
        for row in self.copied:
            found[row] = "copy"
        return found

    @property
    def whole(self) -> bool:
        """Whether the kernel takes every row."""
        return not any(bytes(self._verdict))

    @property
    def eager(self) -> list[int]:
        """The rows that need torch operations instead of the kernel."""
        return self._having(BLOCKED)

    @property
    def absent(self) -> list[int]:
        """The rows that have no gradient this time."""
        return self._having(ABSENT)

    def _having(self, wanted: int) -> list[int]:
        if not bytes(self._verdict).count(wanted):  # it is no other byte of a verdict
            return []
        return [row for row, verdict in enumerate(self._verdict) if verdict == wanted]

    def _list(self, column: int, tensors: Column | None) -> list[Tensor | None]:
        """The tensors that hold the data themselves."""
        if tensors is None:
            return [None] * self.rows
        found = list(tensors)
        for row in self._gone if column in self.fresh else ():
            found[row] = None
        for row, tensor in enumerate(found if self._wrapped else ()):
            if tensor is not None and not _direct(tensor):
                try:
                    held = local(tensor, self.parameters[row])
                    if held.is_conj() and column not in self._copies:
                        raise Refused("is a conjugate view: what is written to it would be lost")
                    found[row] = real(held)
                except Refused as why:
                    raise self._error(column, row, why) from None
        return found

    def _error(self, column: int, row: int, why: Exception) -> ValueError:
        kinds = {self.parameter: ""} | {fresh: "the gradient of " for fresh in self.fresh}
        return ValueError(f"{kinds.get(column, f'column {column} of ')}{self.names[row]} {why}")

    def _allocate(self) -> None:
        """Memory that keeps its place; in torch tensors what is copied to a device as a whole."""
        self.addr = torch.zeros(self.columns, self.rows, dtype=torch.int64, device="cpu")
        self.numel = torch.zeros(self.rows, dtype=torch.int64, device="cpu")
        self.chunk_row = self.chunk_start = torch.zeros(0, dtype=torch.int64, device="cpu")
        self.chunks = self.cuts = 0
        # The same memory for Python: an element of a tensor costs microseconds.
        self._addr = (ctypes.c_int64 * (self.columns * self.rows)).from_address(
            self.addr.data_ptr()
        )
        self._numel = (ctypes.c_int64 * self.rows).from_address(self.numel.data_ptr())
        self._layout = (ctypes.c_uint64 * self.rows)()
        self._verdict = (ctypes.c_int32 * self.rows)(*[-1] * self.rows)
        self._blocked = (ctypes.c_uint8 * self.rows)()
        loose = [column in self.loose for column in range(self.columns)]
        self._loose = (ctypes.c_uint8 * self.columns)(*loose)
        self._dtype = (ctypes.c_int32 * self.columns)(*map(dlpack_code, self.dtypes))
        self.plain: list[type] = []
        self._struct = describe(self)

    def _fill_all(self) -> None:
        """Check every column: at the start, and when a parameter lies elsewhere."""
        for row in range(self.rows):
            self._blocked[row] = 0
        # Fixed columns on their own: a row without a gradient may have one at the next step.
        self._fill([column for column in self._given if column not in self.fresh], None)
        if late := [column for column in self._given if column in self.fresh]:
            self._fill(late, None)
        starts, numel = self.addr[self._given], self.numel
        sizes = torch.stack([self._bytes(column, numel) for column in self._given])
        written = torch.tensor([c in self.written for c in self._given], device="cpu")
        shared = overlapping(
            starts.flatten(), sizes.flatten(), written.repeat_interleave(self.rows)
        )
        for row in shared.view(-1, self.rows).any(0).nonzero().flatten().tolist():
            self._block(row)

    def _bytes(self, column: int, numel: Tensor) -> Tensor:
        """What the tensors of a column take; loose ones have sizes of their own."""
        if column in self.loose:
            numel = torch.tensor([0 if x is None else x.numel() for x in self._lists[column]])
        return numel * self.dtypes[column].itemsize

    def _block(self, row: int) -> None:
        self._blocked[row] = 1
        if self._verdict[row] == KERNEL:
            self._verdict[row] = BLOCKED

    def _fill(self, which: list[int], source: list[Tensor] | None) -> tuple[bool, bool]:
        """Addresses and verdicts of the columns `which`; whether rows changed, parameters moved."""
        if self._struct is None:
            if source is not None:
                self._lists[which[0]] = self._list(which[0], [p.grad for p in source])
            before = self._layouts()
            self.copied.clear()
            for row in range(self.rows):
                self._verdict[row] = self._look(row, which)
            return True, before != self._layouts()
        if (numbers := self._numbers.get(key := tuple(which))) is None:
            numbers = self._numbers[key] = (ctypes.c_int32 * len(which))(*which)
        place = ctypes.addressof(numbers)
        library().optc_fill(ctypes.addressof(self._struct), self._lists, place, len(which), source)
        doubtful = []
        if self._struct.trouble:
            doubtful = [r for r, verdict in enumerate(self._verdict) if verdict not in WORDS]
        changed = bool(self._struct.changed or self.copied)
        self.copied.clear()
        for row in doubtful:
            self._verdict[row] = self._look(row, which)
        return changed or bool(doubtful), bool(self._struct.moved)

    def _look(self, row: int, which: Sequence[int]) -> int:
        """The same checks in Python, with the reasons in words."""
        own = self._lists[self.parameter][row]
        tensors = {c: t for c in which if (t := self._lists[c][row]) is not None}
        if own is None or len(tensors) < len(which):
            return ABSENT
        column = last = self.parameter
        try:
            verdict = examine_parameter(own, self.dtypes[column], self.device)
            self._numel[row] = own.numel()
            self._addr[column * self.rows + row] = own.data_ptr()
            if self._struct is None:
                self._layout[row] = hash((own.shape, own.stride())) % 2**64
            if own.numel() == 0:
                return EMPTY
            for column, tensor in tensors.items():
                if column != self.parameter and verdict == "kernel":
                    verdict, last = self._place(row, column, tensor, own), column
        except Refused as why:
            raise self._error(column, row, why) from None
        if verdict == "kernel" and not self._distinct(row, tensors, own):
            verdict, last = "eager", self.parameter
        if verdict == "eager" and last not in self.fresh:
            self._blocked[row] = 1
        return BLOCKED if self._blocked[row] or verdict == "eager" else KERNEL

    def _place(self, row: int, column: int, tensor: Tensor, own: Tensor) -> str:
        """Put one address into the table, that of a copy where the gradient lies otherwise."""
        loose = column in self.loose
        verdict = examine(tensor, own, self.dtypes[column], self.device, loose=loose)
        if verdict == "copy" and column in self._copies:
            tensor = self._copy(row, column, tensor, own)
            verdict = "kernel"
        self._addr[column * self.rows + row] = tensor.data_ptr()
        return "kernel" if verdict == "kernel" else "eager"

    def _distinct(self, row: int, tensors: Mapping[int, Tensor], own: Tensor) -> bool:
        """Whether no two columns name one address, after gradients that did were copied."""
        for column in self._copies & {*tensors}:
            if self._places(row).count(self._addr[column * self.rows + row]) > 1:
                copy = self._copy(row, column, tensors[column], own)
                self._addr[column * self.rows + row] = copy.data_ptr()
        places = self._places(row)
        return len(set(places)) == len(places)

    def _places(self, row: int) -> list[int]:
        places = [self._addr[column * self.rows + row] for column in self._given]
        return [place for place in places if place]

    def _layouts(self) -> list[int]:
        """Where the parameters are, and how their elements lie."""
        first = self.parameter * self.rows
        return [*self._addr[first : first + self.rows], *self._layout]

    def _copy(self, row: int, column: int, tensor: Tensor, own: Tensor) -> Tensor:
        """A scratch tensor in the layout of the parameter; copying resolves the sign."""
        like = torch.empty(tensor.shape, device="meta") if column in self.loose else own
        scratch = self._scratch.get((column, row))
        if scratch is None or scratch.shape != like.shape or scratch.stride() != like.stride():
            scratch = torch.empty_strided(
                like.shape, like.stride(), dtype=self.dtypes[column], device=self.device
            )
            self._scratch[column, row] = scratch
        self.copied.add(row)
        return scratch.copy_(tensor.detach())

    def _cut(self) -> None:
        """Cut the kept rows into chunks; who keeps a copy of them sees by `cuts` that it is old."""
        self.cuts += 1
        numel, verdict = self.numel.data_ptr(), self._verdict
        count = library().optc_chunks(numel, verdict, self.rows, None, None)
        if count > len(self.chunk_row):
            self.chunk_row = torch.zeros(count, dtype=torch.int64, device="cpu")
            self.chunk_start = torch.zeros(count, dtype=torch.int64, device="cpu")
        places = self.chunk_row.data_ptr(), self.chunk_start.data_ptr()
        self.chunks = library().optc_chunks(numel, verdict, self.rows, *places)


def _parameters(column: Column | None, names: Sequence[str] | None) -> list[Tensor]:
    """The parameters, each of them once."""
    found: dict[int, int] = {}
    for row, tensor in enumerate(column or ()):
        name = names[row] if names else f"parameter {row}"
        if tensor is None:
            raise ValueError(f"{name} is None")
        first = found.setdefault(id(tensor), row)
        if first != row:
            other = names[first] if names else f"parameter {first}"
            raise ValueError(f"{name} is the same tensor as {other}: list it once")
    return [tensor for tensor in column or () if tensor is not None]


def _direct(tensor: Tensor) -> bool:
    return is_plain(type(tensor)) and not tensor.is_complex()
