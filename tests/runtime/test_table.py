"""Every tensor whose memory is not what it seems is copied, left to torch, or refused by name."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import Parameter

from optc.runtime import looking, native
from optc.runtime.table import Table
from optc.runtime.tensors import local, overlapping

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
F32 = torch.float32


@pytest.fixture(params=["c", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of checking: a torch without the exchange capsule takes the slow one."""
    if request.param == "python":
        monkeypatch.setattr(looking, "exchange", lambda: None)
    return request.param


def one(parameter: Tensor, gradient: Tensor | None, **options) -> Table:
    """A table of one parameter, its gradient and one state, after a refresh."""
    state = torch.zeros_like(parameter)
    made = Table([[parameter], None, [state]], [F32] * 3, names=["w"], **options)
    made.refresh({1: [gradient]})
    return made


def read(made: Table, column: int, row: int = 0) -> list[float]:
    """The floats behind an address, in the order of memory."""
    address, n = int(made.addr[column, row]), int(made.numel[row])
    return list((ctypes.c_float * n).from_address(address))


def test_addresses_sizes_and_chunks():
    parameters = [torch.randn(3), torch.randn(16384), torch.randn(20000)]
    gradients = [torch.randn_like(p) for p in parameters]
    made = Table([parameters, gradients], [F32] * 2)
    expected = [[t.data_ptr() for t in column] for column in (parameters, gradients)]
    assert made.addr.tolist() == expected
    assert made.numel.tolist() == [3, 16384, 20000]
    assert made.chunk_row[: made.chunks].tolist() == [0, 1, 2, 2]
    assert made.chunk_start[: made.chunks].tolist() == [0, 0, 0, 16384]
    assert made.cell_offset.tolist() == [0, 3, 16387]


def test_absent_gradients_drop_rows_and_come_back():
    parameters = [Parameter(torch.randn(4)) for _ in range(3)]
    states = [torch.zeros(4) for _ in range(3)]
    parameters[0].grad = torch.ones(4)
    made = Table([parameters, [p.grad for p in parameters], states], [F32] * 3)
    assert made.verdicts == ["kernel", "absent", "absent"]
    parameters[0].grad, parameters[2].grad = None, torch.ones(4)
    made.refresh()
    assert made.verdicts == ["absent", "absent", "kernel"]
    assert made.chunk_row[: made.chunks].tolist() == [2]
    assert made.addr[:, 2].tolist() == [
        t.data_ptr() for t in (parameters[2], parameters[2].grad, states[2])
    ]


def test_gradients_that_move_are_read_anew():
    p = Parameter(torch.randn(8))
    made = Table([[p], None], [F32] * 2)
    for _ in range(3):
        p.grad = torch.randn(8)
        made.refresh()
        assert read(made, 1) == p.grad.tolist()


def test_release_lets_gradients_go():
    p = Parameter(torch.randn(8))
    p.grad = torch.randn(8)
    made = Table([[p], None], [F32] * 2)
    made.refresh()
    gradient = weakref.ref(p.grad)
    p.grad = None
    gc.collect()
    assert gradient() is not None and made.ready
    made.release()
    gc.collect()
    assert gradient() is None and not made.ready


def test_states_live_as_long_as_the_table():
    state = torch.zeros(4)
    alive = weakref.ref(state)
    made = Table([[torch.zeros(4)], None, [state]], [F32] * 3)
    del state
    gc.collect()
    assert alive() is not None and made.rows == 1


@pytest.fixture
def mesh() -> Iterator[dist.DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_dtensors_are_unwrapped(mesh: dist.DeviceMesh):
    inner, gradient = torch.randn(4, 4), torch.randn(4, 4)
    p = Parameter(DTensor.from_local(inner, mesh, [Shard(0)]))
    p.grad = DTensor.from_local(gradient, mesh, [Shard(0)])
    state = torch.zeros_like(p)
    made = Table([[p], None, [state.detach()]], [F32] * 3)
    made.refresh()
    expected = [local(p).data_ptr(), local(p.grad).data_ptr(), local(state).data_ptr()]
    assert made.verdicts == ["kernel"] and made.addr[:, 0].tolist() == expected


def test_partial_and_differently_placed_gradients_are_refused(mesh: dist.DeviceMesh):
    p = Parameter(DTensor.from_local(torch.randn(4, 4), mesh, [Shard(0)]))
    made = Table([[p], None], [F32] * 2, names=["w"])
    with pytest.raises(ValueError, match="gradient of w is a DTensor with a Partial"):
        made.refresh({1: [DTensor.from_local(torch.randn(4, 4), mesh, [Partial()])]})
    with pytest.raises(ValueError, match="gradient of w is placed as"):
        made.refresh({1: [DTensor.from_local(torch.randn(4, 4), mesh, [Replicate()])]})


def test_a_fake_tensor_is_refused():
    with FakeTensorMode():
        fake = torch.zeros(4)
    with pytest.raises(ValueError, match="gradient of w is a FakeTensor"):
        one(torch.zeros(4), fake)


def test_a_wrapper_is_refused():
    class Wrapper(Tensor):
        @staticmethod
        def __new__(cls, inner):
            return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            raise NotImplementedError

    with pytest.raises(ValueError, match="w is a Wrapper, whose memory"):
        Table([[Wrapper(torch.zeros(3))]], [F32], fresh=(), names=["w"])


def test_a_plain_subclass_is_a_tensor():
    class Named(Parameter):
        pass

    assert one(Named(torch.zeros(3)), torch.zeros(3)).verdicts == ["kernel"]


def test_a_freed_storage_is_refused():
    gradient = torch.randn(8)
    gradient.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="gradient of w has no memory"):
        one(torch.zeros(8), gradient)
    p = torch.zeros(8)
    p.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="w has no memory"):
        Table([[p]], [F32], fresh=(), names=["w"])


def test_function_transforms_are_refused():
    made = Table([[torch.zeros(4)], None], [F32] * 2)

    def step(gradient: Tensor) -> Tensor:
        made.refresh({1: [gradient]})
        return gradient

    with pytest.raises(ValueError, match="function transform"):
        torch.func.vmap(step)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="function transform"):
        torch.func.grad(lambda g: step(g).sum())(torch.zeros(4))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (torch.zeros(4, device="meta"), "is on meta"),
        (torch.zeros(4).to_sparse(), "is sparse"),
        (torch.zeros(5), r"has shape \[5\], its parameter \[4\]"),
    ],
)
def test_what_no_kernel_and_no_copy_can_read_is_refused(gradient: Tensor, message: str):
    with pytest.raises(ValueError, match=f"gradient of w {message}"):
        one(torch.zeros(4), gradient)


def test_another_dtype_is_copied_where_nothing_is_lost():
    made = one(torch.zeros(4), torch.full((4,), 1.5, dtype=torch.bfloat16))
    assert made.verdicts == ["copy"] and read(made, 1) == [1.5] * 4
    made = one(torch.zeros(4), torch.zeros(4, dtype=torch.float64))
    assert made.verdicts == ["eager"]
    made.refresh({1: [torch.zeros(4)]})
    assert made.verdicts == ["kernel"]


def test_the_signature_is_read_from_the_tensors():
    """`grad_dtype` lets a gradient differ from its parameter."""
    made = Table([[torch.zeros(4)], [torch.zeros(4).half()]], [F32, torch.float16])
    assert made.verdicts == ["kernel"]
    assert Table([[torch.zeros(4)]], [torch.float64], fresh=()).verdicts == ["eager"]


def test_complex_parameters_are_pairs():
    p = torch.zeros(3, dtype=torch.complex64)
    gradient = torch.tensor([1 + 2j, 3 - 4j, 5j]).conj()
    made = Table([[p], None], [F32] * 2)
    made.refresh({1: [gradient]})
    assert read(made, 1) == [1, -2, 3, 4, 0, -5]


def test_a_conjugate_parameter_is_refused():
    p = torch.zeros(3, dtype=torch.complex64).conj()
    with pytest.raises(ValueError, match="w is a conjugate view"):
        Table([[p], None], [F32] * 2, names=["w"])


@pytest.mark.parametrize(
    "gradient",
    [torch.arange(24.0).view(6, 4).t(), torch.tensor(2.0).expand(4, 6), torch.randn(8, 6)[::2]],
    ids=["transposed", "expanded", "strided"],
)
def test_a_gradient_in_another_layout_is_copied(gradient: Tensor):
    made = one(torch.zeros(4, 6), gradient)
    assert made.verdicts == ["copy"]
    assert read(made, 1) == gradient.flatten().tolist()


def test_what_is_written_is_never_a_copy():
    made = Table([[torch.zeros(4, 6)], None], [F32] * 2, written=(0, 1))
    made.refresh({1: [torch.zeros(6, 4).t()]})
    assert made.verdicts == ["eager"]
    made.refresh({1: [torch.zeros(4, 6)]})
    assert made.verdicts == ["kernel"] and made.eager == made.absent == []


def test_a_copy_lies_as_the_parameter_does():
    gradient = torch.arange(24.0).view(4, 6)
    made = one(torch.zeros(6, 4).t(), gradient)
    assert made.verdicts == ["copy"]
    assert read(made, 1) == gradient.t().flatten().tolist()
    made.refresh({1: [torch.zeros(6, 4).t()]})
    assert made.verdicts == ["kernel"]


def test_the_negative_bit_is_resolved():
    gradient = torch.arange(4.0)
    assert read(one(torch.zeros(4), torch._neg_view(gradient)), 1) == (-gradient).tolist()


def test_autograd_leaves_the_negative_bit_in_a_gradient():
    p = Parameter(torch.zeros(()))
    (torch.complex(torch.ones(()), p).conj() * (1 + 2j)).imag.backward()
    assert p.grad is not None and p.grad.is_neg()
    assert read(one(p, p.grad), 1) == [-1]


@pytest.mark.parametrize(
    "parameter",
    [
        torch.zeros(6, 4).t(),
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(3, 1, 4).transpose(0, 2),
        torch.zeros(()),
        torch.zeros(9)[1:8],
    ],
    ids=["transposed", "channels last", "one wide", "0-d", "odd offset"],
)
def test_dense_memory_goes_through_the_kernel(parameter: Tensor):
    made = one(parameter, torch.zeros_like(parameter))
    assert made.verdicts == ["kernel"] and int(made.addr[0, 0]) == parameter.data_ptr()


def test_empty_tensors_have_no_chunk():
    made = one(torch.zeros(0, 3), torch.zeros(0, 3))
    assert made.verdicts == ["empty"] and made.chunks == 0


def test_a_parameter_with_holes_is_left_to_torch():
    made = one(torch.zeros(8)[::2], torch.zeros(4))
    assert made.verdicts == ["eager"] and made.eager == [0] and made.chunks == 0


def test_an_expanded_parameter_is_refused():
    with pytest.raises(ValueError, match="w is expanded"):
        one(torch.zeros(1).expand(4), torch.zeros(4))


def test_the_same_parameter_twice_is_refused():
    p = Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match="b is the same tensor as a"):
        Table([[p, p], None], [F32] * 2, names=["a", "b"])


@pytest.mark.parametrize("second", [slice(0, 8), slice(4, 12)], ids=["shared", "overlapping"])
def test_parameters_over_one_memory_are_left_to_torch(second: slice):
    base = torch.zeros(12)
    parameters = [Parameter(base[0:8]), torch.zeros(3), Parameter(base[second])]
    made = Table([parameters, None], [F32] * 2)
    made.refresh({1: [torch.zeros_like(p) for p in parameters]})
    assert made.verdicts == ["eager", "kernel", "eager"]


def test_tensors_that_are_only_read_may_overlap():
    shared = torch.ones(4)
    made = Table([[torch.zeros(4), torch.zeros(4)], [shared, shared]], [F32] * 2)
    assert made.verdicts == ["kernel", "kernel"]


def test_a_gradient_that_is_the_parameter_is_copied():
    p = torch.arange(4.0)
    made = one(p, p)
    assert made.verdicts == ["copy"] and read(made, 1) == [0, 1, 2, 3]
    assert int(made.addr[1, 0]) != p.data_ptr()


def test_swapped_data_is_followed():
    p, other = Parameter(torch.zeros(4)), Parameter(torch.zeros(4))
    made = Table([[p, other], None], [F32] * 2)
    p.data = torch.ones(4)
    made.refresh({1: [torch.zeros(4), torch.zeros(4)]})
    assert read(made, 0) == [1.0] * 4
    p.data = other.data
    made.refresh({1: [torch.zeros(4), torch.zeros(4)]})
    assert made.verdicts == ["eager", "eager"]


def test_data_turned_in_place_no_longer_fits_its_state():
    p = Parameter(torch.zeros(4, 4))
    made = Table([[p], None, [torch.zeros(4, 4)]], [F32] * 3)
    p.data = p.data.t()
    made.refresh({1: [torch.zeros(4, 4).t()]})
    assert made.verdicts == ["eager"]


def test_a_state_in_another_layout_is_left_to_torch():
    made = Table([[torch.zeros(4, 6)], None, [torch.zeros(6, 4).t()]], [F32] * 3)
    made.refresh({1: [torch.zeros(4, 6)]})
    assert made.verdicts == ["eager"]


def test_a_loose_column_has_its_own_shape():
    made = Table([[torch.zeros(4, 6)], [torch.zeros(6)]], [F32] * 2, fresh=(), loose=(1,))
    assert made.verdicts == ["kernel"]


def test_a_state_can_be_given_again():
    state = torch.ones(4)
    made = Table([[torch.zeros(4)], None, [torch.zeros(4)]], [F32] * 3)
    made.refresh({1: [torch.zeros(4)], 2: [state]})
    assert int(made.addr[2, 0]) == state.data_ptr()


def test_the_default_device_does_not_matter():
    p, gradient = torch.zeros(4), torch.ones(4)
    with torch.device("meta"):
        made = Table([[p], None], [F32] * 2)
        made.refresh({1: [gradient]})
    assert read(made, 1) == [1.0] * 4


def test_columns_have_one_tensor_for_each_row():
    made = Table([[torch.zeros(4)], None], [F32] * 2)
    with pytest.raises(ValueError, match="column 1 has 2 tensors, not 1"):
        made.refresh({1: [None, None]})


def test_overlapping_intervals():
    start, size = torch.tensor([100, 0, 104, 200]), torch.tensor([8, 8, 4, 8])
    everything = torch.ones(4, dtype=torch.bool)
    assert overlapping(start, size, everything).tolist() == [True, False, True, False]
    assert not overlapping(start, size, ~everything).any()
