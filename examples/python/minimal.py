"""A random layer applied to 8 tokens, on the first usable device."""

import dsv4mx
import ml_dtypes
import numpy as np

hidden, intermediate, experts, top_k, tokens = 256, 128, 8, 2, 8
rng = np.random.default_rng(0)

context = dsv4mx.Context()
sizes = {"hidden": hidden, "intermediate": intermediate, "experts": experts, "top_k": top_k}
layer = dsv4mx.Layer(context, **sizes, clamp_limit=10.0, w13_order="gate_up")
weights = dsv4mx.Weights(layer)
weights.set("w13_weight", rng.integers(0, 256, (experts, 2 * intermediate, hidden // 2), np.uint8))
weights.set("w13_weight_scale", np.full((experts, 2 * intermediate, hidden // 32), 120, np.uint8))  # 2^(120 - 127)
weights.set("w2_weight", rng.integers(0, 256, (experts, hidden, intermediate // 2), np.uint8))
weights.set("w2_weight_scale", np.full((experts, hidden, intermediate // 32), 120, np.uint8))
weights.prepare()

x = context.array(rng.standard_normal((tokens, hidden)).astype(ml_dtypes.bfloat16))
topk_ids = context.array(np.array([rng.permutation(experts)[:top_k] for _ in range(tokens)], np.int32))
topk_weights = context.array(np.full((tokens, top_k), 0.5, np.float32))
y = layer.apply(weights, x, topk_ids, topk_weights).numpy()
print(f"{layer.info.backend}: {tokens} tokens, y[0, :4] = {y[0, :4]}")
