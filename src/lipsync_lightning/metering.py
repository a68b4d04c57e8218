"""Counting what PyTorch computes, by seeing every operation that passes."""

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_VIEWS = {  # operations that move nothing
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "detach", "alias", "unsqueeze"),
    *("squeeze", "as_strided", "split", "unbind", "chunk", "split_with_sizes", "_reshape_alias", "lift_fresh"),
}
_READ_ON_HOST = ("_local_scalar_dense", "is_nonzero")


class CountingOperations(TorchDispatchMode):
    """Adds up in `flops`, by PyTorch's formulas, the multiplications and additions of what is computed inside.

    PyTorch's own FlopCounterMode decomposes some operations, such as the gradient of SiLU, and so changes their last
    bits: a resumed run, which counts anew, would not end like one that was never stopped. This changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __enter__(self) -> Self:
        # Or what is to be compiled would be passed over, here and ever after.
        self.uncompiled = torch.compiler.set_stance("force_eager")
        self.uncompiled.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.uncompiled.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(getattr(func, "_overloadpacket", func))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Meter(CountingOperations):
    """Counts what passes: operations, bytes alive and their peak, bytes moved, kernels, values the host waits for.

    What the host asks of a value that fake tensors do not have is answered with 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # bytes by storage
        self.live = self.peak = self.moved = self.kernels = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        if name in _READ_ON_HOST:
            self.waits += 1
            return 1
        out = super().__torch_dispatch__(func, types, args, kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made and name not in _VIEWS:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.kernels += 1
            self.moved += sum(each.numel() * each.element_size() for each in (*read, *made))
            if not name.endswith("_"):  # like views, these return what was there before
                for tensor in made:
                    self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        self.alive[key] = storage.nbytes()
        self.live += self.alive[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self.alive.pop(key, 0)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Autocast to bf16 as CUDA does it: norms in float32, attention by flash or memory-efficient kernels."""

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (each.bfloat16() for each in (query, key, value))
        ops: Any = torch.ops.aten
        if query.shape[-1] <= 256 and query.dtype != torch.float32:
            return ops._scaled_dot_product_flash_attention(query, key, value)[0]
        learns = query.requires_grad or key.requires_grad
        return ops._scaled_dot_product_efficient_attention(query, key, value, None, learns)[0]

    def in_float32(norm: Any) -> Any:
        return lambda input, *rest, **more: norm(
            input.float() if torch.is_autocast_enabled("cpu") else input, *rest, **more
        )

    plain_checkpoint = partial(checkpoint.checkpoint, preserve_rng_state=False)
    with ExitStack() as stack:
        stack.enter_context(patch.object(functional, "scaled_dot_product_attention", attention))
        for name in ("group_norm", "layer_norm"):
            stack.enter_context(patch.object(functional, name, in_float32(getattr(functional, name))))
        for module in [each for name, each in list(sys.modules.items()) if name.startswith(("lipsync_", "diffusers."))]:
            if vars(module).get("checkpoint") is checkpoint.checkpoint:
                stack.enter_context(patch.object(module, "checkpoint", plain_checkpoint))
        stack.enter_context(patch.object(checkpoint, "checkpoint", plain_checkpoint))
        yield
