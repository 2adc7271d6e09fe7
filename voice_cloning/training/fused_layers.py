"""The layers of a training step as two hand-written blocks, with their gradients: attention, and FFN.

They compute what the plain layers with PEFT's LoRA compute, with less memory and fewer kernels. The plain layers are
the reference (tests/voice_cloning/training/test_fused_layers.py). The N positions are in routed order (text first, then
audio; see ``packing.py``); attention needs sample order. ``[x]`` marks what is kept for the backward pass::

    attention:  [x] --norm--> n --W_qkv + LoRA--> q k v --to sample order--rotate--> [q k v] --attend--> [a]
                 |                                                                                        |
                 +------------------------------------- + <-----W_o + LoRA-----to routed order------------+
                                                        |
    FFN:               text rows, audio rows:          [x] --norm--> n --W_gate_up + LoRA--> [g u] --silu(g) u--> [h]
                                                        |                                                          |
                                                        + <------------------------W_down + LoRA-------------------+

Of the norms only the scale of each row is kept. The levels of recompute (``RECOMPUTE_LEVELS``) keep less:

    none    what the drawing marks
    ffn     not [g u] and [h], which one product gives again
    layer   the input of the layer, which gives everything again

Matrices that read the same input lie in one storage, so that they are one product. The parameters of the model are
views into it. The gradients of the LoRA factors are added to ``.grad`` by the products that compute them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from boson_multimodal.device_memory import keep_freed_memory, release_cached_memory
from boson_multimodal.model.higgs_audio import attention
from boson_multimodal.model.higgs_audio.cpu_attention import attend_on_cpu
from boson_multimodal.model.higgs_audio.modeling_higgs_audio import (
    HiggsAudioDualFFNDecoderLayer,
    HiggsAudioModel,
    Routing,
)
from boson_multimodal.model.higgs_audio.rms_norm import FrozenRMSNorm
from boson_multimodal.model.higgs_audio.transfer import to_device
from voice_cloning.training.adapted_matrix import AdaptedMatrix, NormedRows


def install_fused_layers(model: PeftModel, recompute: str) -> str | None:
    """Let a model with a LoRA adapter compute its training loss with fused layers.

    Args:
        model: the frozen base with one adapter, on its device, in its final type.
        recompute: one of ``RECOMPUTE_LEVELS``.

    Returns:
        None, or the reason why the model keeps its plain layers.
    """
    base = model.get_base_model()
    reason = _reason_for_plain_layers(base)
    if reason is None:
        base.label_layers = FusedLayers(base, recompute)
        release_cached_memory(base.device)  # what the matrices took before they were joined
        if base.device.type == "cpu":
            keep_freed_memory()
    return reason


def _reason_for_plain_layers(base: HiggsAudioModel) -> str | None:
    text = base.config.text_config
    if text.attention_bias or text.mlp_bias:
        return "its layers have biases"
    if text.hidden_act != "silu":
        return f"its FFNs use {text.hidden_act}"
    if not all(isinstance(layer, HiggsAudioDualFFNDecoderLayer) for layer in base.layers):
        return "not every layer has an FFN for audio"
    for name, module in base.layers.named_modules():
        if isinstance(module, BaseTunerLayer) and (reason := _reason_of_adapter(name, module)):
            return reason
    for name, parameter in base.layers.named_parameters():
        if parameter.requires_grad != ("lora_" in name):
            return f"{name} is {'trained' if parameter.requires_grad else 'not trained'}"
    return None


def _reason_of_adapter(name: str, module: BaseTunerLayer) -> str | None:
    """Return why the fused layers cannot take the adapter of one module. What they do not know, they must not skip."""
    form = f"the form of the adapter of {name}"
    adapters = module.active_adapters
    if not isinstance(module, LoraLayer) or len(adapters) != 1 or adapters[0] not in module.lora_A or module.merged:
        return form
    (adapter,) = adapters
    if module.use_dora.get(adapter):
        return "DoRA"
    if not isinstance(module.lora_dropout[adapter], nn.Identity):
        return "dropout"
    return form if module.lora_bias.get(adapter) or adapter in module.lora_variant else None


# -- attention -------------------------------------------------------------------------------------------------------


def rotate(x_NHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor, sign: int) -> Tensor:
    """Rotate each head, a vector of two halves, by the angles of its position.

    Args:
        sign: 1, or -1 for the gradient, which is the rotation by the opposite angles.
    """
    half = x_NHd.shape[-1] // 2
    sin = sin_Nd[:, None, :half]
    y = x_NHd * cos_Nd[:, None]
    y[..., :half].addcmul_(x_NHd[..., half:], sin, value=-sign)
    y[..., half:].addcmul_(x_NHd[..., :half], sin, value=sign)
    return y


class AttentionBlock:
    """Attention of a layer, with its norms and the residual."""

    def __init__(self, layer: HiggsAudioDualFFNDecoderLayer) -> None:
        plain = layer.self_attn
        self.head_dim = plain.head_dim
        self.qkv = AdaptedMatrix([plain.q_proj, plain.k_proj, plain.v_proj])
        self.out = AdaptedMatrix([plain.o_proj])
        self.norms = FrozenRMSNorm(layer.input_layernorm), FrozenRMSNorm(layer.audio_input_layernorm)
        self.rotated_columns = plain.q_proj.out_features + plain.k_proj.out_features
        self.query_heads = plain.q_proj.out_features // plain.head_dim

    def __call__(self, x: Tensor, trained: Tensor | None, routing: Routing, rows_R: Tensor | None) -> Tensor:
        """Return (N, D), or (R, D) for the given rows only.

        Args:
            x: (N, D) in routed order.
            trained: any trained parameter. Without it, autograd would not call the backward of the first layer.
            rows_R: the wanted rows; None for all.
        """
        query, key, value, x = QueryKeyValue.apply(x, trained, self, routing)
        if x.device.type == "cpu" and x.dtype == torch.float32:
            attended = attend_on_cpu(query, key, value, routing.every.lengths)
        else:
            attended = attention.attend(query, key, value, routing.every)
        return AttentionOutput.apply(attended.flatten(-2), x, self.out, routing, rows_R)


class QueryKeyValue(Function):
    """Norm, one product for queries, keys and values, and rotation. x goes through, so that its gradients meet here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, trained: Tensor | None, block: AttentionBlock, routing: Routing) -> Any:
        """(N, D) routed -> (N, heads, d) of queries, keys and values in sample order, the first two rotated; and x."""
        pairs = [norm.forward(part) for norm, part in zip(block.norms, split(x, routing.num_text), strict=True)]
        qkv, xa = block.qkv.forward(torch.cat([n for n, _ in pairs]))
        order, every = routing.sample_from_routed, routing.every
        query_key = qkv[:, : block.rotated_columns].index_select(0, order).unflatten(-1, (-1, block.head_dim))
        value = qkv[:, block.rotated_columns :].index_select(0, order).unflatten(-1, (-1, block.head_dim))
        ctx.save_for_backward(x, xa, *(scale for _, scale in pairs))
        ctx.block, ctx.routing = block, routing
        query_key = rotate(query_key, every.cos_Nd, every.sin_Nd, 1)
        return query_key[:, : block.query_heads], query_key[:, block.query_heads :], value, x

    @staticmethod
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor, d_value: Tensor, d_residual: Tensor) -> Any:
        x, xa, *scales = ctx.saved_tensors
        block, routing = ctx.block, ctx.routing
        cos, sin, order = routing.every.cos_Nd, routing.every.sin_Nd, routing.routed_from_sample
        rotated = rotate(d_query, cos, sin, -1), rotate(d_key, cos, sin, -1)
        dys = [dy.flatten(-2).index_select(0, order) for dy in (*rotated, d_value)]
        dxa = block.qkv.backward_b(dys, xa)
        rows = slice(0, routing.num_text), slice(routing.num_text, len(x))
        parts = [NormedRows(r, norm, x[r], scale) for r, norm, scale in zip(rows, block.norms, scales, strict=True)]
        block.qkv.backward_a_of_normed(dxa, parts)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        dn = block.qkv.backward_input(dys, dxa)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for part in parts:
            torch.add(part.norm.backward(dn[part.rows], part.x, part.scale), d_residual[part.rows], out=dx[part.rows])
        return dx, None, None, None


class AttentionOutput(Function):
    """The output product, added to the residual."""

    @staticmethod
    def forward(
        ctx: Any,
        attended: Tensor,
        x: Tensor,
        matrix: AdaptedMatrix,
        routing: Routing,
        rows_R: Tensor | None,
    ) -> Tensor:
        """(N, heads * d) in sample order, (N, D) routed -> (N, D) routed, or (R, D)."""
        order = routing.routed_from_sample
        if rows_R is not None:
            order, x = order.index_select(0, rows_R), x.index_select(0, rows_R)
        out, xa = matrix.forward_plus(attended.index_select(0, order), x)
        ctx.save_for_backward(attended, xa, order, rows_R)
        ctx.matrix, ctx.routing = matrix, routing
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        attended, xa, order, rows_R = ctx.saved_tensors
        matrix, source, d_out = ctx.matrix, attended, dy
        if rows_R is None:  # everything in sample order
            d_out, xa = (t.index_select(0, ctx.routing.sample_from_routed) for t in (dy, xa))
        else:
            source = attended.index_select(0, order)
        dxa = matrix.backward_b([d_out], xa)
        matrix.backward_a(dxa, source)
        d_attended, d_residual = matrix.backward_input([d_out], dxa), dy
        if rows_R is not None:
            d_attended = torch.zeros_like(attended).index_copy_(0, order, d_attended)
            d_residual = dy.new_zeros(len(attended), dy.shape[1]).index_copy_(0, rows_R, dy)
        return d_attended, d_residual, None, None, None


# -- FFN -------------------------------------------------------------------------------------------------------------


class FeedForward:
    """One FFN with its norm: of the text rows, or of the audio rows."""

    def __init__(self, norm: nn.Module, ffn: nn.Module) -> None:
        self.norm = FrozenRMSNorm(norm)
        self.gate_up = AdaptedMatrix([ffn.gate_proj, ffn.up_proj])
        self.down = AdaptedMatrix([ffn.down_proj])

    def forward(self, x: Tensor, out: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Write x plus its FFN into ``out``, (N, D). Return [g u] and h, and what else is kept."""
        normed, scale = self.norm.forward(x)
        gate_up, xa = self.gate_up.forward(normed)
        gate, up = gate_up.chunk(2, dim=-1)
        swiglu = F.silu(gate).mul_(up)
        _, ha = self.down.forward_plus(swiglu, x, out)
        return [gate_up, swiglu], [scale, xa, ha]

    def backward(self, x: Tensor, kept: Sequence[Tensor | None], dy: Tensor, dx: Tensor | None) -> None:
        """Write the gradient of x into ``dx``, if it is wanted. What was not kept is computed again."""
        gate_up, swiglu, scale, xa, ha = kept
        if gate_up is None:
            gate_up, _ = self.gate_up.forward(self.norm.forward(x)[0], xa)
        gate, up = gate_up.chunk(2, dim=-1)
        dha = self.down.backward_b([dy], ha)
        dh = self.down.backward_input([dy], dha)
        swish = F.silu(gate)
        self.down.backward_a(dha, swish * up if swiglu is None else swiglu)
        d_gate = torch.ops.aten.silu_backward(dh * up, gate)
        d_up = dh.mul_(swish)
        del swish
        dxa = self.gate_up.backward_b([d_gate, d_up], xa)
        self.gate_up.backward_a_of_normed(dxa, [NormedRows(slice(None), self.norm, x, scale)])
        if dx is not None:
            dn = self.gate_up.backward_input([d_gate, d_up], dxa)
            torch.add(self.norm.backward(dn, x, scale), dy, out=dx)


class FeedForwardBlock(Function):
    """The FFN of the text rows and that of the audio rows, each added to the residual."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ffns: Sequence[FeedForward], num_text: int, recompute: bool) -> Tensor:
        """(N, D) -> (N, D)."""
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        kept = []
        for ffn, part, part_out in zip(ffns, split(x, num_text), split(out, num_text), strict=True):
            wide, small = ffn.forward(part, part_out)
            kept += [*([None, None] if recompute else wide), *small]
        ctx.save_for_backward(x, *kept)
        ctx.ffns, ctx.num_text = ffns, num_text
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, *kept = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device) if ctx.needs_input_grad[0] else None
        slices = slice(0, ctx.num_text), slice(ctx.num_text, len(x))
        for number, (ffn, rows) in enumerate(zip(ctx.ffns, slices, strict=True)):
            ffn.backward(x[rows], kept[5 * number : 5 * number + 5], dy[rows], None if dx is None else dx[rows])
        return dx, None, None, None


def split(x: Tensor, num_text: int) -> tuple[Tensor, Tensor]:
    """Return the text rows and the audio rows."""
    return x[:num_text], x[num_text:]


# -- all layers ------------------------------------------------------------------------------------------------------


class FusedLayers:
    """All layers of a model, for the rows that predict a label: ``LabelLayers`` of the model.

    Args:
        base: the model with LoRA layers inside.
        recompute: one of ``RECOMPUTE_LEVELS``.
    """

    def __init__(self, base: HiggsAudioModel, recompute: str) -> None:
        self._plain = base.layers
        self._recompute = recompute
        self._layers = [FusedLayer(layer, recompute) for layer in base.layers]
        self._factors = [f for layer in self._layers for matrix in layer.matrices() for f in matrix.factors]
        self._trained = self._factors[0].a if self._factors else None
        self._adapted = [module for module in base.layers.modules() if isinstance(module, LoraLayer)]
        self._dtype = base.norm.weight.dtype

    def __call__(self, hidden_ND: Tensor, routing: Routing, rows_R: Tensor) -> Tensor:
        """Return (R, D) after the last layer. In the last layer, only these rows go on from the attention."""
        if any(module.disable_adapters or module.merged for module in self._adapted[:1]):
            # The plain layers know both. Copies set to zero would change the gradients of an earlier forward pass.
            for layer in self._plain:
                hidden_ND = layer(hidden_ND, routing)
            return hidden_ND.index_select(0, to_device(rows_R, hidden_ND.device))
        self._copy_factors()
        last = LastRows(to_device(rows_R, hidden_ND.device), int((rows_R < routing.num_text).sum()))
        with torch.autocast(hidden_ND.device.type, enabled=False):
            x = hidden_ND.to(self._dtype)
            for layer in self._layers:
                wanted = last if layer is self._layers[-1] else None
                if self._recompute == "layer" and torch.is_grad_enabled():
                    # Nothing in a layer is random.
                    x = checkpoint(
                        *(layer, x, self._trained, routing, wanted), use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    x = layer(x, self._trained, routing, wanted)
        return x

    @torch.no_grad()
    def _copy_factors(self) -> None:
        """Copy the factors in the type of the computation."""
        if not self._factors:
            return
        copies = [copy for f in self._factors for copy in (f.a_copy, f.b_copy)]
        torch._foreach_copy_(copies, [factor for f in self._factors for factor in (f.a, f.b)])


@dataclass(frozen=True)
class LastRows:
    """The rows that the last layer returns.

    Attributes:
        rows_R: of all rows.
        num_text: how many of them are text rows; they come first.
    """

    rows_R: Tensor
    num_text: int


class FusedLayer:
    """One layer: the two blocks."""

    def __init__(self, layer: HiggsAudioDualFFNDecoderLayer, recompute: str) -> None:
        self._attention = AttentionBlock(layer)
        self._ffns = (
            FeedForward(layer.post_attention_layernorm, layer.mlp),
            FeedForward(layer.audio_post_attention_layernorm, layer.audio_mlp),
        )
        self._recompute_ffn = recompute == "ffn"

    def matrices(self) -> list[AdaptedMatrix]:
        """Return every matrix of the layer."""
        ffns = [matrix for ffn in self._ffns for matrix in (ffn.gate_up, ffn.down)]
        return [self._attention.qkv, self._attention.out, *ffns]

    def __call__(self, x: Tensor, trained: Tensor | None, routing: Routing, last: LastRows | None) -> Tensor:
        """(N, D) -> (N, D), or (R, D) with ``last``."""
        x = self._attention(x, trained, routing, last and last.rows_R)
        num_text = routing.num_text if last is None else last.num_text
        return FeedForwardBlock.apply(x, self._ffns, num_text, self._recompute_ffn)
