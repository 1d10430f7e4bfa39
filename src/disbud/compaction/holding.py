"""What is not followed stays whole: the units a function reads, the parameters it uses, and the reason in words."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from disbud.compaction.watching import Watch
from disbud.graph.flow.mixing import bound
from disbud.isolation import leaves

_SIZES = (
    "size dim ndimension numel nelement stride element_size shape ndim itemsize nbytes __len__ storage_offset "
    "data_ptr"
)
_KINDS = (
    "dtype device layout names type get_device is_floating_point is_complex is_contiguous is_inference is_signed "
    "is_cuda is_cpu is_meta is_mkldnn is_mps is_xla is_leaf is_sparse is_quantized is_nested _is_view requires_grad "
    "__hash__ is_grad_enabled _set_grad_enabled is_autocast_enabled"
)
_QUERIES = frozenset(f"{_SIZES} {_KINDS}".split())
_ATTENTION = "goes through attention, which is left whole"
_WHY = {
    "layer_norm": "goes through LayerNorm, whose statistics mix it with others",
    "group_norm": "goes through GroupNorm, whose statistics mix it with others",
    "rms_norm": "goes through RMSNorm, whose statistics mix it with others",
    "multi_head_attention_forward": _ATTENTION,
    "scaled_dot_product_attention": _ATTENTION,
    "softmax": "goes through a softmax, which mixes it with others",
}


def hold_all(
    watch: Watch, func: Callable[..., object], output: object, *args: object, **kwargs: object
) -> None:
    """All units read stay, and all that is made of them; asking for a size reads nothing."""
    name = name_of(func)
    made = [leaf for leaf in leaves(output) if isinstance(leaf, Tensor)]
    if not made and name in _QUERIES:
        return
    watch.hold((args, kwargs), _WHY.get(name, f"goes through {name}, which may mix it with others"))
    watch.put(made, None)
    if func is functional.multi_head_attention_forward:
        _count_attention(watch, *args, **kwargs)


def name_of(func: Callable[..., object]) -> str:
    """What a function, or the property that it reads, is called."""
    name: str = getattr(func, "__name__", str(func))
    return getattr(getattr(func, "__self__", None), "__name__", name) if name == "__get__" else name


def _count_attention(watch: Watch, *args: object, **kwargs: object) -> None:
    """Note what the projections of attention cost, which torch runs inside."""
    given = bound(*args, **kwargs)
    embed, stacked = given["embed_dim_to_check"], given["in_proj_weight"]
    for part in ("query", "key", "value"):
        weight = given[f"{part[0]}_proj_weight"]
        watch.count(stacked if weight is None else weight, given[part].numel() * embed)
    out = given["out_proj_weight"]
    watch.count(out, given["query"].numel() // embed * out.numel())
