# SPDX-License-Identifier: Apache-2.0
"""Names of the torch functions that the recorder treats alike; a name that stands nowhere is refused."""

from typing import Final

__all__ = ["ELEMENTWISE", "GIVES_ROWS_TO_USERS", "METADATA", "UNARY"]

# fmt: off
# Reading these says nothing about the gradient, or cuts it.
METADATA: Final = frozenset({
    "shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu", "is_meta", "is_mps", "is_xla", "is_xpu",
    "is_sparse", "is_leaf", "is_nested", "is_quantized", "is_inference", "is_floating_point", "is_complex",
    "is_contiguous", "is_same_size", "requires_grad", "grad", "grad_fn", "names", "size", "dim", "numel",
    "nelement", "stride", "storage_offset", "element_size", "itemsize", "nbytes", "get_device", "type",
    "_version", "untyped_storage", "data_ptr", "__len__", "__repr__", "__hash__", "__format__", "detach", "data",
    "item", "tolist", "numpy",
})
# What these give may have a row per user.
GIVES_ROWS_TO_USERS: Final = frozenset({
    "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile",
})
# A small parameter beside a batch-first tensor or a number.
ELEMENTWISE: Final = frozenset({
    "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "subtract", "mul", "__mul__", "__rmul__",
    "multiply",    "div", "__truediv__", "__rtruediv__", "true_divide", "divide",
})
# A small parameter by itself.
UNARY: Final = frozenset({
    "exp", "log", "sqrt", "square", "abs", "neg", "__neg__", "sigmoid", "tanh", "softplus", "relu", "clamp",
    "clamp_min",
})
# fmt: on
