"""Computes in float64, with NumPy and SciPy, what the evaluation of a dictionary must find: FVU,
L0, dead latents, representational similarity, latent statistics, decoder spectrum and cosines,
power laws, correlations of metrics, and scaling laws.

    pip install numpy scipy safetensors
    python make_evaluation.py     # writes evaluation.safetensors beside this file
"""

import os

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from scipy.optimize import least_squares
from scipy.spatial.distance import pdist

D, N, K, TOKENS = 12, 96, 6, 300
GRANULARITIES, KS = [8, 24, 96], [3, 5, 6]
MIDDLE = (0.1, 0.7)

Array = npt.NDArray[np.float64]

rng = np.random.default_rng(7)


def float32(values: Array) -> npt.NDArray[np.float32]:
    return values.astype(np.float32)


W_dec = float32(rng.normal(size=(N, D)) * rng.uniform(0.5, 2, size=(N, 1)))
W_dec[5] = 0
W_dec[40] = 2 * W_dec[3]
squares = np.maximum((W_dec**2).sum(1, keepdims=True), 1)
W_enc = float32(0.25 * W_dec / squares + 0.02 * rng.normal(size=(N, D)))
b_enc = float32(0.1 * rng.normal(size=N))
b_enc[[2, 50, 51]] = -100  # never active
b_dec = float32(0.3 * rng.normal(size=D))
directions = rng.normal(size=(30, D))
codes = rng.exponential(size=(TOKENS, 30)) * (rng.uniform(size=(TOKENS, 30)) < 0.15)
x32 = float32(codes @ directions + 3 + 0.05 * rng.normal(size=(TOKENS, D)))
x = x32.astype(np.float64)
W_enc64, W_dec64, b_enc64, b_dec64 = (a.astype(np.float64) for a in (W_enc, W_dec, b_enc, b_dec))


def encode(granularity: int, k: int) -> Array:
    h = np.maximum((x - b_dec64) @ W_enc64[:granularity].T + b_enc64[:granularity], 0)
    z = np.zeros_like(h)
    kept = np.argsort(-h, axis=1, kind="stable")[:, :k]
    np.put_along_axis(z, kept, np.take_along_axis(h, kept, 1), 1)
    return z


def row(granularity: int, k: int) -> list[float]:
    z = encode(granularity, k)
    reconstruction = z @ W_dec64[:granularity] + b_dec64
    error = ((x - reconstruction) ** 2).sum()
    return [
        granularity,
        k,
        (z > 0).sum(1).mean(),
        error / ((x - x.mean(0)) ** 2).sum(),
        error / ((x - x.mean()) ** 2).sum(),
        np.corrcoef(pdist(x), pdist(reconstruction))[0, 1],
        (~(z > 0).any(0)).sum(),
    ]


def r_squared(y: Array, fitted: Array) -> float:
    return float(1 - ((y - fitted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def power_law(values: Array) -> list[float]:
    values = np.sort(values[values > 0])[::-1]
    first = max(1, int(np.ceil(MIDDLE[0] * len(values))))
    last = int(np.floor(MIDDLE[1] * len(values)))
    ranks = np.arange(first, last + 1)
    y = np.log(values[first - 1 : last])
    slope, intercept = np.polyfit(np.log(ranks), y, 1)
    fitted = intercept + slope * np.log(ranks)
    return [slope, np.exp(intercept), r_squared(y, fitted), first, last]


out = {}
as_trained = [row(g, k) for g, k in zip(GRANULARITIES, KS, strict=True)]
fixed_ratio = [row(g, max(1, round(K * g / N))) for g in GRANULARITIES[:-1]]
out["rows"] = np.array(as_trained + fixed_ratio)
z = encode(N, K)
squared_norms = (W_dec64**2).sum(1)
out["frequencies"] = (z > 0).mean(0)
out["mean_squared_activations"] = (z**2).mean(0) * squared_norms
out["eigenvalues"] = np.linalg.eigvalsh(np.cov(W_dec64.T, bias=True))[::-1]
out["power_laws"] = np.array(
    [power_law(out[name]) for name in ("eigenvalues", "mean_squared_activations", "frequencies")]
)
series = np.array(as_trained)[:, [3, 4, 2, 5]]  # fvu, fvu_scalar_mean, l0, rsa
out["metric_correlations"] = np.corrcoef(series.T)

norms = np.sqrt(squared_norms)
unit = W_dec64 / np.where(norms > 0, norms, 1)[:, None]
cosines = unit @ unit.T
np.fill_diagonal(cosines, -np.inf)
blocks = list(zip([0, *GRANULARITIES[:-1]], GRANULARITIES, strict=True))
means = np.zeros((len(blocks), len(blocks)))
for i, (start, end) in enumerate(blocks):
    for j in range(i + 1):
        means[i, j] = cosines[start:end, blocks[j][0] : blocks[j][1]].max(1).mean()
out["block_cosines"] = means
earlier = np.sort(cosines[24:96, :24].max(1))
out["earlier_cosines"] = earlier
out["earlier_quantiles"] = np.quantile(earlier, [0.1, 0.5, 0.9])
out["earlier_share"] = np.array([(earlier > 0.7).mean()])

# Scaling laws, on losses with some noise.
points = np.array(
    [
        (n, n / divisor, k * (1 - 0.05 * np.log(divisor)))
        for n in (4096, 8192, 16384)
        for divisor in (1, 2, 4, 16)
        for k in (16, 32, 64, 128)
    ]
)
n, g, k = np.log(points).T
columns = np.stack([np.ones_like(k), k, n, k * n, g, g * k], 1)
truth = columns @ [0.4, -0.9, -0.2, 0.04, -0.1, 0.01]
loss = (np.exp(truth) + np.exp(-4 - 0.1 * k)) * np.exp(0.01 * rng.normal(size=len(k)))
out["scaling_points"] = np.concatenate([points, loss[:, None]], 1)
y = np.log(loss)
c, *_ = np.linalg.lstsq(columns, y, rcond=None)
residual = y - columns @ c
covariance = np.linalg.inv(columns.T @ columns) * (residual @ residual) / (len(y) - len(c))
out["scaling"] = np.stack([c, np.sqrt(np.diag(covariance))])
out["scaling_r_squared"] = np.array([r_squared(y, columns @ c)])


def with_floor(p: Array) -> Array:
    return np.asarray(np.logaddexp(columns @ p[:6], p[6] + p[7] * k), dtype=np.float64)


best = min(
    (
        least_squares(
            lambda p: with_floor(p) - y,
            [*c, np.log(loss.min() * s), 0],
            method="lm",
            ftol=1e-15,
            xtol=1e-15,
            gtol=1e-15,
            max_nfev=100000,
        )
        for s in (0.9, 0.5, 0.1)
    ),
    key=lambda fit: fit.cost,
)
out["scaling_floor"] = best.x
out["scaling_floor_r_squared"] = np.array([r_squared(y, with_floor(best.x))])

out = {name: np.ascontiguousarray(values, dtype=np.float64) for name, values in out.items()}
out |= {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec, "x": x32}
save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "evaluation.safetensors"))
for name in (
    "rows",
    "power_laws",
    "metric_correlations",
    "block_cosines",
    "earlier_quantiles",
    "earlier_share",
    "scaling",
    "scaling_r_squared",
    "scaling_floor",
    "scaling_floor_r_squared",
):
    print(name, np.array2string(out[name], precision=5, suppress_small=True), sep="\n")
