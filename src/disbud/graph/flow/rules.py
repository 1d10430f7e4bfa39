"""The rule for each torch function, under every name it has; what is not here scales with its signals."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from disbud.graph.flow import arithmetic, mixing
from disbud.graph.flow.arithmetic import Rule, homes, in_place

_BOUNDED = (
    "relu6 hardtanh sigmoid expit tanh gelu silu softplus elu selu celu leaky_relu rrelu prelu hardsigmoid hardswish "
    "mish logsigmoid tanhshrink softsign hardshrink softshrink threshold clamp clip clamp_min clamp_max log_softmax "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout neg negative abs "
    "absolute normalize local_response_norm exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan "
    "arctan sinh cosh asinh acosh atanh erf erfc erfinv sinc sign sgn round floor ceil trunc frac nan_to_num"
)
_RULES: dict[str, Rule] = {
    " ".join(f"{name} {name}_" for name in _BOUNDED.split()): arithmetic.identity,
    "relu relu_": arithmetic.relu,
    "glu": arithmetic.glu,
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell": arithmetic.recurrent,
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": arithmetic.layer,
    "bilinear": arithmetic.bilinear,
    "matmul __matmul__ mm bmm mv dot vdot inner outer ger": arithmetic.product,
    "einsum tensordot kron multi_dot chain_matmul": arithmetic.product,
    "mul multiply __mul__ __rmul__": arithmetic.times,
    "addmm baddbmm addmv": arithmetic.plus_product,
    "div divide true_divide __truediv__ __div__": arithmetic.over,
    "__rtruediv__ __rdiv__": arithmetic.under,
    "pow __pow__ float_power square sqrt rsqrt reciprocal": arithmetic.power,
    "add sub subtract rsub __add__ __radd__ __sub__ __rsub__": arithmetic.plus,
    "cat concat concatenate stack hstack vstack dstack column_stack maximum minimum": arithmetic.merge,
    "where": arithmetic.choose,
    "masked_fill": arithmetic.fill,
    "__setitem__": arithmetic.assign,
    "batch_norm": mixing.batch_norm,
    "instance_norm": mixing.instance_norm,
    "layer_norm rms_norm": mixing.layer_norm,
    "group_norm": mixing.group_norm,
    "softmax": mixing.softmax,
    "scaled_dot_product_attention": mixing.attention,
    "multi_head_attention_forward": mixing.multi_head_attention,
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full new_tensor": (
        arithmetic.blank
    ),
    "expand_as view_as reshape_as": arithmetic.likened,
    "to type type_as float double half bfloat16": arithmetic.cast,
}
_IN_PLACE: dict[str, Callable[..., Tensor]] = {
    "mul_ multiply_ __imul__": arithmetic.times,
    "div_ divide_ true_divide_ __itruediv__ __idiv__": arithmetic.over,
    "add_ sub_ subtract_ __iadd__ __isub__": arithmetic.plus,
    "masked_fill_": arithmetic.fill,
}


def _table() -> dict[object, Rule]:
    rules = _RULES | {names: in_place(rule) for names, rule in _IN_PLACE.items()}
    return {function: rule for names, rule in rules.items() for function in homes(names)}


TABLE = _table()


def linear_rule(function: object) -> Rule:
    """What the function does in the linearised network; one without a rule scales with its signals."""
    return TABLE.get(function, arithmetic.inherit)
