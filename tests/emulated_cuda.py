"""A CUDA device for machines without one: tensors that say `cuda:0`, are computed on the CPU, and refuse what CUDA refuses.

    with emulated_cuda():
        model.to("cuda")(images)  # RuntimeError: Expected all tensors to be on the same device

Refused are operators on tensors of both devices (but for the tensors on the CPU that PyTorch takes: numbers without
dimensions, indices), CPU generators on CUDA tensors, `.numpy()` without `.cpu()`, operators without a deterministic kernel
while `torch.use_deterministic_algorithms` is on (the list is that function's documentation), and products of integers, which
have no CUDA kernel. Numbers are those of the CPU, so that an emulated run ends with the bits of one on the CPU, but where
PyTorch itself takes another way on CUDA: in attention, and in interpolation while determinism is on.

To PyTorch's C++ the tensors are on the device `lazy`, the only one besides the CPU and meta that autograd knows in a CPU
build and nobody here uses.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

AS_TENSOR = torch.as_tensor
CUDA, CPU, STAND_IN = torch.device("cuda:0"), torch.device("cpu"), torch.device("lazy:0")


class CudaTensor(Tensor):
    """A tensor on the emulated device; `inner` holds its values, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "CudaTensor":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=STAND_IN,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        return self.inner.numpy(force=True)

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"cuda:0 {self.inner!r}"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else repr(self), spec)


def _whenever(*args: Any, **kwargs: Any) -> bool:
    return True


def _with(value: Any, position: int, name: str) -> Callable[..., bool]:
    return lambda *args, **kwargs: (args[position] if len(args) > position else kwargs.get(name)) == value


def _along_a_dimension(*args: Any, **kwargs: Any) -> bool:
    return len(args) > 1 or "dim" in kwargs


def _adds_floats(x: Tensor, dim: int, *, dtype: torch.dtype | None = None, **out: Tensor) -> bool:
    kind = dtype or x.dtype
    return kind.is_floating_point or kind.is_complex


def _has_weights(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> bool:
    return weights is not None


# What has no deterministic kernel on CUDA, and with which arguments: "the following operations will throw a RuntimeError" in
# help(torch.use_deterministic_algorithms).
NOT_DETERMINISTIC: dict[str, Callable[..., bool]] = {
    **dict.fromkeys(
        (
            "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
            "adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward", "fractional_max_pool2d_backward",
            "fractional_max_pool3d_backward", "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward",
            "upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward",
            "_upsample_bicubic2d_aa_backward", "upsample_trilinear3d_backward", "reflection_pad1d_backward",
            "reflection_pad2d_backward", "reflection_pad3d_backward", "nll_loss2d_forward", "nll_loss2d_backward",
            "_ctc_loss_backward", "put", "put_", "histc", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
        ),
        _whenever,
    ),
    "median": _along_a_dimension,
    "nanmedian": _along_a_dimension,
    "bincount": _has_weights,
    "cumsum": _adds_floats,
    "cumsum_": _adds_floats,
    "scatter_reduce": _with("prod", 4, "reduce"),
    "scatter_reduce_": _with("prod", 4, "reduce"),
    "_embedding_bag_dense_backward": _with(2, 7, "mode"),  # the maximum
}  # fmt: skip

FLOATS_ONLY = {"mm", "bmm", "addmm", "addmv", "baddbmm", "mv", "dot", "convolution", "_convolution"}
COPIES = {"_to_copy", "copy_", "copy"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
CHOOSING = {"masked_fill", "masked_fill_", "index_fill", "index_fill_"}  # the second tensor says which values
NUMBERS = {"fill", "fill_"} | INDEXING | CHOOSING  # these take a number of the CPU, as pointwise operators do
NO_NUMBERS = {"clamp", "clamp_", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_"}  # though pointwise


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator, on the CPU: refused where CUDA refuses it, and its outputs on the device where CUDA leaves them."""
    tensors = [value for value in _leaves((*args, *kwargs.values())) if isinstance(value, Tensor)]
    given = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
    device = kwargs.get("device")
    emulated = device.type in ("cuda", "lazy") if device is not None else bool(given)
    if not given and not emulated:
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    if given and name not in COPIES:
        _refuse_two_devices(func, name, args, tensors)
        _refuse_missing_kernels(name, tensors[0], args, kwargs)
    if emulated:
        _refuse_generators(args, kwargs)
    inner = {key: _map(_to_cpu, value) for key, value in kwargs.items()}
    if emulated and device is not None:
        inner["device"] = CPU
    result = func(*(_map(_to_cpu, value) for value in args), **inner)
    if name == "copy_":  # in place on the first tensor's device, whichever that is
        return args[0]
    if not emulated:
        return result
    same = {id(tensor.inner): tensor for tensor in given}
    return _map(lambda value: _to_cuda(value, same), result)


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every leaf of nested lists and tuples."""
    if isinstance(value, list):
        return [_map(function, part) for part in value]
    return tuple(_map(function, part) for part in value) if isinstance(value, tuple) else function(value)


def _to_cpu(value: Any) -> Any:
    return value.inner if isinstance(value, CudaTensor) else value


def _to_cuda(value: Any, same: dict[int, CudaTensor]) -> Any:
    """The CUDA tensor of a result; what was changed in place stays the tensor that it is."""
    if not isinstance(value, Tensor):
        return value
    if (changed := same.get(id(value))) is None:
        return CudaTensor(value)
    if changed.shape != value.shape or changed.stride() != value.stride():
        changed.data = CudaTensor(value)
    return changed


def _refuse_two_devices(func: Any, name: str, args: tuple[Any, ...], tensors: list[Tensor]) -> None:
    """Besides CUDA tensors: indices of a CUDA tensor, and numbers without dimensions in pointwise operators."""
    if name in INDEXING and not isinstance(args[0], CudaTensor):
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    indices = {id(index) for index in args[1]} if name in INDEXING else set()
    numbers = name in NUMBERS or (torch.Tag.pointwise in func.tags and name not in NO_NUMBERS)
    for place, tensor in enumerate(tensors):
        if isinstance(tensor, CudaTensor) or id(tensor) in indices:
            continue
        written = place == 0 and func._schema.is_mutable
        chooses = place == 1 and name in CHOOSING
        if not (numbers and tensor.dim() == 0 and not written and not chooses):
            found = ", ".join(f"{t.device} {list(t.shape)}" for t in tensors)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                f"{tensor.device}! (when checking the arguments of {name}: {found})"
            )


def _refuse_missing_kernels(name: str, first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name in FLOATS_ONLY and not (first.is_floating_point() or first.is_complex()):
        raise RuntimeError(f'"{name}_cuda" not implemented for {first.dtype}')
    applies = NOT_DETERMINISTIC.get(name)
    if applies and applies(*args, **kwargs) and torch.get_deterministic_debug_mode() == 2:
        raise RuntimeError(f"{name} does not have a deterministic implementation on CUDA")


def _refuse_generators(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Generator) and value.device.type == "cpu":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


@dataclass
class Device:
    """What the emulated device did: how many operators it computed, and by which it drew random numbers."""

    operators: int = 0
    draws: set[str] = field(default_factory=set)


class _Operators(TorchDispatchMode):
    """Sees the operators that get no CUDA tensor, too: factories, and copies to the device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.seen = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = call(func, args, kwargs or {})
        if any(isinstance(value, CudaTensor) for value in _leaves([result])):
            self.seen.operators += 1
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.seen.draws.add(func.overloadpacket.__name__)
        return result


# ---- what a program calls


def _stand_in(value: Any) -> Any:
    is_cuda = value.type == "cuda" if isinstance(value, torch.device) else value in ("cuda", "cuda:0")
    return STAND_IN if is_cuda else value


def _moved(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Tensor.to, for which `cuda` is the device that C++ knows."""

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        place = (str, torch.device)
        args = tuple(_stand_in(value) if isinstance(value, place) else value for value in args)
        kwargs = {key: _stand_in(value) if isinstance(value, place) else value for key, value in kwargs.items()}
        return original(self, *args, **kwargs)

    return to


def _constant(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor and its kin: made on the CPU, then moved. A list of CUDA numbers gives a tensor on the CPU."""

    def tensor(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if device is None and isinstance(args[0], CudaTensor):
            device = CUDA
        if original is AS_TENSOR and isinstance(args[0], CudaTensor):
            return args[0].to(device, kwargs.get("dtype") or args[0].dtype)
        values = [_map(_to_cpu, value) for value in args]
        if device is not None and torch.device(device).type == "cuda":
            return original(*values, **kwargs).to(device)
        return original(*values, device=device, **kwargs)

    return tensor


def _pinned(tensor: Tensor) -> Tensor:
    if isinstance(tensor, CudaTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor


@contextmanager
def emulated_cuda() -> Iterator[Device]:
    """A machine with one GPU, for this thread; gives what the GPU is seen to do."""
    machine = {
        "is_available": lambda: True, "is_initialized": lambda: True, "_lazy_init": lambda: None,
        "device_count": lambda: 1, "current_device": lambda: 0, "get_device_name": lambda device=None: "emulated",
        "get_device_capability": lambda device=None: (9, 0), "synchronize": lambda device=None: None,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),  # `Device.draws` says what is drawn
        "set_rng_state": lambda state, device=None: None,
    }  # fmt: skip
    methods = {
        "to": _moved(Tensor.to), "cuda": lambda self, device=None: self.to(CUDA), "pin_memory": _pinned,
        "new_tensor": _constant(Tensor.new_tensor),
    }  # fmt: skip
    constants = {"tensor": _constant(torch.tensor), "as_tensor": _constant(torch.as_tensor)}
    with ExitStack() as stack:
        for module, names in ((torch.cuda, machine), (Tensor, methods), (torch, constants)):
            stack.enter_context(mock.patch.multiple(module, **names))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # no thread of a device that is not there
        stack.enter_context(_Operators(device := Device()))
        yield device
