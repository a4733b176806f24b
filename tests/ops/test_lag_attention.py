"""What is special to lag_attention: its definition, its parametrisations, its limits, and the profile by lag."""

from __future__ import annotations

import math

import pytest
import torch

from xmae_fast import ModelCfg, ops, random_masking, xMAE
from xmae_fast.evaluation import lag_profile
from xmae_fast.model.blocks import attention_params
from xmae_fast.ops.lag_attention import AttentionParams, attention_weights, gaussian_table, lag_seconds, window_table

TINY = {"seq_len": 200, "patch_len": 20, "d_model": 16, "nhead": 2, "proj_dim": 8, "stem_ch": 4, "dropout": 0.0}


def make_params(D: int, dtype=torch.float64) -> AttentionParams:
    shapes = ((D,), (D,), (D,), (D,), (3 * D, D), (3 * D,), (D, D), (D,))
    return AttentionParams(*(torch.randn(*shape, dtype=dtype) for shape in shapes))


@pytest.mark.parametrize("keys", [None, 25, 9])
def test_no_table_equals_torch_multihead_attention(keys):
    D, H = 32, 4
    norm_q, norm_kv = torch.nn.LayerNorm(D).double(), torch.nn.LayerNorm(D).double()
    mha = torch.nn.MultiheadAttention(D, H, batch_first=True).double()
    for p in (*norm_q.parameters(), *norm_kv.parameters(), mha.in_proj_bias, mha.out_proj.bias):
        torch.nn.init.normal_(p)
    x = torch.randn(3, 25, D, dtype=torch.float64)
    kv = None if keys is None else torch.randn(3, keys, D, dtype=torch.float64)
    q = norm_q(x)
    context = q if kv is None else norm_kv(kv)
    want, weights = mha(q, context, context, average_attn_weights=False)
    params = attention_params(norm_q, norm_kv, mha)
    torch.testing.assert_close(ops.lag_attention(x, kv, params, num_heads=H), x + want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention_weights(x, kv, params, num_heads=H), weights, rtol=1e-12, atol=1e-12)


def test_definition_pair_by_pair():
    """The formula of the docstring, written as loops."""
    B, queries, keys, D, H, N = 2, 4, 3, 6, 2, 9
    x, kv = torch.randn(B, queries, D, dtype=torch.float64), torch.randn(B, keys, D, dtype=torch.float64)
    params, table = make_params(D), torch.randn(H, 2 * N - 1, dtype=torch.float64)
    query_pos, key_pos = torch.tensor([[0, 8, 3, 3], [1, 2, 5, 7]]), torch.tensor([[8, 0, 4], [2, 6, 1]])
    got = attention_weights(x, kv, params, num_heads=H, bias_table=table, query_pos=query_pos, key_pos=key_pos)
    normed = torch.nn.functional.layer_norm(x, (D,), params.norm_q_weight, params.norm_q_bias)
    normed_kv = torch.nn.functional.layer_norm(kv, (D,), params.norm_kv_weight, params.norm_kv_bias)
    d = D // H
    for b in range(B):
        for h in range(H):
            rows = slice(h * d, (h + 1) * d)
            for i in range(queries):
                q = params.in_weight[:D][rows] @ normed[b, i] + params.in_bias[:D][rows]
                scores = []
                for j in range(keys):
                    k = params.in_weight[D : 2 * D][rows] @ normed_kv[b, j] + params.in_bias[D : 2 * D][rows]
                    lag = int(key_pos[b, j] - query_pos[b, i])
                    scores.append(q @ k / math.sqrt(d) + table[h, lag + N - 1])
                torch.testing.assert_close(got[b, h, i], torch.stack(scores).softmax(0))


def test_rows_without_admissible_key_get_zeros():
    D, H, N = 8, 2, 5
    x, params = torch.randn(2, N, D, dtype=torch.float64, requires_grad=True), make_params(D)
    table = window_table(lag_seconds(N, 1.0, dtype=torch.float64), 2, 3, H)  # patches 3 and 4 see no key
    weights = attention_weights(x, None, params, num_heads=H, bias_table=table)
    assert torch.equal(weights[:, :, 3:].sum(), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(weights[:, :, :3].sum(-1), torch.ones(2, H, 3, dtype=torch.float64))
    assert (weights[:, :, 0, :2] == 0).all()
    assert (weights[:, :, 0, 4] == 0).all()
    out = ops.lag_attention(x, None, params, num_heads=H, bias_table=table)
    torch.testing.assert_close(out[:, 3:], x[:, 3:] + params.out_bias)
    (gradient,) = torch.autograd.grad(out[:, 3:].sum(), x)
    torch.testing.assert_close(gradient, torch.zeros_like(x).index_fill_(1, torch.tensor([3, 4]), 1))


def test_window_over_everything_equals_none():
    x, params = torch.randn(2, 7, 8, dtype=torch.float64), make_params(8)
    table = window_table(lag_seconds(7, 0.4, dtype=torch.float64), -2.4, 2.4, 2)
    assert torch.equal(
        ops.lag_attention(x, None, params, num_heads=2, bias_table=table),
        ops.lag_attention(x, None, params, num_heads=2),
    )


def test_window_bounds_are_inclusive_in_seconds():
    table = window_table(lag_seconds(25, 0.4), 0.4, 1.2, 3)
    assert (table == 0).sum(1).tolist() == [3, 3, 3]
    assert lag_seconds(25, 0.4)[table[0] == 0].tolist() == pytest.approx([0.4, 0.8, 1.2])


def test_gaussian_gradcheck():
    lags = lag_seconds(6, 0.1, dtype=torch.float64)
    center, log_width = torch.tensor([0.1, 0.4]).double(), torch.tensor([-1.0, -0.5]).double()
    x, kv, params = torch.randn(2, 6, 8).double(), torch.randn(2, 4, 8).double(), make_params(8)
    key_pos = torch.tensor([[0, 2, 3, 5], [1, 2, 4, 5]])

    def run(center, log_width):
        table = gaussian_table(lags, center, log_width)
        return ops.lag_attention(x, kv, params, num_heads=2, bias_table=table, key_pos=key_pos)

    assert torch.autograd.gradcheck(run, (center.requires_grad_(), log_width.requires_grad_()))


def test_table_gradcheck_with_inadmissible_entries():
    table = torch.randn(2, 11, dtype=torch.float64)
    x, kv, params = torch.randn(2, 6, 8).double(), torch.randn(2, 6, 8).double(), make_params(8)
    closed = torch.zeros_like(table, dtype=torch.bool)
    closed[:, :7] = True  # queries 5 has no key left, others few

    def run(x, kv, table):
        return ops.lag_attention(x, kv, params, num_heads=2, bias_table=table.masked_fill(closed, -torch.inf))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), kv.requires_grad_(), table.requires_grad_()))


@pytest.mark.parametrize("lag", ["window(-100, 100)", "window(0.0, 0.6)", "gaussian", "table"])
def test_model_with_lag(lag):
    """Same published weights; a window over everything and a zero table change nothing, and lag parameters learn."""
    torch.manual_seed(1)
    plain = xMAE(ModelCfg(**TINY)).eval()
    model = xMAE(ModelCfg(**TINY, lag=lag)).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    learned = {"gaussian": ["center", "log_width"], "table": ["table"]}.get(lag, [])
    assert missing.missing_keys == [f"bridger.ecg2ppg.0.lag.{name}" for name in learned]
    ppg, ecg, mask = torch.randn(3, 200), torch.randn(3, 200), random_masking(3, 10, 0.8)
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    got, want = model(ppg, ecg, **ids), plain(ppg, ecg, **ids)
    assert torch.equal(got["ppg_embedding"], want["ppg_embedding"])
    same = torch.allclose(got["ecg_reconstructed"], want["ecg_reconstructed"], atol=1e-6)
    assert same == (lag in ("window(-100, 100)", "table"))
    got["ecg_reconstructed"].square().sum().backward()
    for name in learned:
        assert model.get_parameter(f"bridger.ecg2ppg.0.lag.{name}").grad.abs().sum() > 0


def test_gaussian_starts_in_the_physiological_range():
    lag = xMAE(ModelCfg(**TINY, lag="gaussian")).bridger.ecg2ppg[0].lag
    assert (lag.center >= 0.1).all()
    assert (lag.center <= 0.4).all()
    assert torch.allclose(lag.log_width.exp(), torch.tensor(0.4))


def test_lag_is_measured_between_kept_patches():
    """A window of exactly one patch makes every query look at the PPG patch one later, wherever it is stored."""
    model = xMAE(ModelCfg(**TINY, lag="window(0.2, 0.2)")).eval()
    keep_ppg = torch.tensor([[1, 4, 5, 9]]).expand(2, -1)
    profile = lag_profile(model, torch.randn(2, 200), torch.randn(2, 200), ids_keep_ppg=keep_ppg)
    at = profile.lags.sub(0.2).abs().argmin()
    assert profile.mass[0, :, at].tolist() == pytest.approx([4 / 10] * 2)  # 4 of 10 queries have that key
    assert profile.mass.sum().item() == pytest.approx(2 * 4 / 10)


@pytest.mark.parametrize("queries", ["all", "masked"])
def test_lag_profile(queries):
    model = xMAE(ModelCfg(**TINY, depth_bridge=2, lag="gaussian")).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mask = random_masking(3, 10, 0.6)
    profile = lag_profile(model, torch.randn(3, 200), torch.randn(3, 200), ids_keep_ecg=mask.ids_keep, queries=queries)
    assert profile.mass.shape == (2, 2, 19)
    assert profile.lags[[0, 9, 18]].tolist() == pytest.approx([-1.8, 0.0, 1.8])
    torch.testing.assert_close(profile.mass.sum(-1), torch.ones(2, 2, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert profile.uniform.sum().item() == pytest.approx(1)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_lag_profile_of_indifferent_attention_is_uniform():
    model = xMAE(ModelCfg(**TINY))
    torch.nn.init.zeros_(model.bridger.ecg2ppg[0].attn.in_proj_weight)
    profile = lag_profile(model, torch.randn(2, 200), torch.randn(2, 200))
    torch.testing.assert_close(profile.mass[0], profile.uniform.expand(2, -1), rtol=1e-5, atol=1e-8)


def test_lag_profile_errors():
    signal = torch.randn(2, 200)
    with pytest.raises(ValueError, match="ppg, ecg: expected both signals with one batch size, got .* and None"):
        lag_profile(xMAE(ModelCfg(**TINY)), signal, None)
    with pytest.raises(ValueError, match="model: expected one with a bridge"):
        lag_profile(xMAE(ModelCfg(**TINY, use_cross_bridge=False)), signal, signal)
    with pytest.raises(ValueError, match="queries: expected 'all' or 'masked', got 'some'"):
        lag_profile(xMAE(ModelCfg(**TINY)), signal, signal, queries="some")
    with pytest.raises(ValueError, match="queries: expected ids_keep_ecg with 'masked'"):
        lag_profile(xMAE(ModelCfg(**TINY)), signal, signal, queries="masked")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_heads": 3}, ValueError, "num_heads: expected a divisor of D = 8, got 3"),
        ({"bias_table": torch.zeros(3, 11)}, ValueError, r"bias_table: expected shape \[H=2, 2N-1\], got \[3, 11\]"),
        ({"bias_table": torch.zeros(2, 10)}, ValueError, "bias_table: expected an odd number of columns"),
        ({"bias_table": torch.zeros(2, 7)}, ValueError, "query_pos: needed, because there are 6 tokens"),
        ({"key_pos": torch.tensor([0, 1, 9])}, ValueError, r"key_pos: expected patch indices in 0\.\.5, got 9"),
        ({"key_pos": torch.tensor([0, 1])}, ValueError, r"key_pos: expected shape \[3\] or \[2, 3\], got \[1, 2\]"),
        ({"key_pos": torch.zeros(3)}, TypeError, "key_pos: expected int64"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p: expected a number in \[0, 1\), got 1.0"),
        (
            {"key_value": torch.zeros(2, 3, 7)},
            ValueError,
            r"key_value: expected shape \[B=2, Nk, D=8\], got \[2, 3, 7\]",
        ),
        ({"x": torch.zeros(2, 6, 8).double()}, TypeError, "x: expected dtype torch.float32"),
    ],
)
def test_errors(change, error, message):
    arguments = {
        "x": torch.zeros(2, 6, 8), "key_value": torch.zeros(2, 3, 8), "params": make_params(8, torch.float32),
        "num_heads": 2, "bias_table": torch.zeros(2, 11),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        ops.lag_attention(**(arguments | change))
