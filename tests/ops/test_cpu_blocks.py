"""What is special to the C++ kernels of feed_forward and lag_attention: instruction sets, threads, packed weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.ops.cpu_blocks import CASES, EVERY_SPLIT, KERNELS, SPLITS
from tests.ops.instruction_sets import SPLIT
from xmae_fast import available, ops
from xmae_fast.backend import BackendError, cpu_kernels
from xmae_fast.model.blocks import TransformerDecoderLite
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.feed_forward import reference as feed_forward_reference
from xmae_fast.ops.lag_attention import reference as attention_reference
from xmae_fast.ops.lag_attention.params import kernel_weights
from xmae_fast.testing import check_op, named_tensors


@pytest.fixture(autouse=True)
def _need_kernels(need_impl):
    need_impl("feed_forward", "cpu")
    need_impl("lag_attention", "cpu")


def results(op: str, case: Case, dropout_p: float = 0.0) -> dict[str, torch.Tensor]:
    """The output and every gradient, without and with autograd."""
    inputs = CASES[op].make_inputs(case.sizes, Maker(3)) | {"dropout_p": dropout_p}
    torch.manual_seed(4)
    with torch.no_grad():
        found = {"evaluation": CASES[op].call(inputs, "cpu")}
    leaves = {name: x.requires_grad_() for name, x in named_tensors(inputs) if x.is_floating_point()}
    torch.manual_seed(4)
    out = CASES[op].call(inputs, "cpu")
    gradients = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out), allow_unused=True)
    named = zip(leaves, gradients, strict=True)
    return found | {"output": out.detach()} | {name: gradient for name, gradient in named if gradient is not None}


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
@pytest.mark.parametrize(("op", "case"), EVERY_SPLIT)
def test_threads_change_no_bit(op, case, dropout_p):
    torch.set_num_threads(1)
    want = results(op, case, dropout_p)
    if cpu_kernels() not in SPLIT:  # those compute inference alone by parts
        assert torch.equal(want["evaluation"], want["output"])
    for threads in (2, 3):
        torch.set_num_threads(threads)
        got = results(op, case, dropout_p)
        assert got.keys() == want.keys()
        for name, x in want.items():
            assert torch.equal(got[name], x), (threads, name)


@pytest.mark.parametrize(("op", "case"), EVERY_SPLIT)
def test_split_work_matches_the_oracle(op, case):
    torch.set_num_threads(2)
    check_op(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"))


# Weights are packed once, and packed again when their bytes change


def make_block() -> TransformerDecoderLite:
    block = TransformerDecoderLite(32, 2, dropout=0.0)
    block.impl = "cpu"
    return block


def change_through_data(block):
    for parameter in block.parameters():
        parameter.data.mul_(1.5)


def change_by_optimiser(block):
    optimiser = torch.optim.AdamW(block.parameters(), lr=0.1)
    block(torch.randn(2, 5, 32)).square().sum().backward()
    optimiser.step()


def change_by_state_dict(block):
    block.load_state_dict({name: torch.randn_like(x) for name, x in block.state_dict().items()})


def change_one_bit(block):
    weight = block.mlp[0].weight.data
    weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(10.0))


@pytest.mark.parametrize("change", [change_through_data, change_by_optimiser, change_by_state_dict, change_one_bit])
def test_changed_weights_are_seen(change):
    block, x = make_block(), torch.randn(3, 7, 32)
    with torch.no_grad():
        block(x)
    change(block)
    with torch.no_grad():
        assert torch.equal(block(x), copy.deepcopy(block)(x)), "nothing is packed yet of a copy"


# Autograd and torch.compile


@pytest.mark.parametrize(("op", "case"), EVERY_SPLIT)
def test_only_the_gradients_asked_for(op, case):
    inputs = CASES[op].make_inputs(case.sizes, Maker(3)) | {"dropout_p": 0.2}
    leaves = {name: x for name, x in named_tensors(inputs) if x.is_floating_point()}
    all_of_them = results(op, case, 0.2)
    for name, x in leaves.items():
        if name not in all_of_them:  # the second norm in self-attention
            continue
        x.requires_grad_()
        torch.manual_seed(4)
        out = CASES[op].call(inputs, "cpu")
        (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
        assert torch.equal(gradient, all_of_them[name]), name
        x.requires_grad_(False)


def test_gradients_are_differentiable_once():
    inputs = CASES["feed_forward"].make_inputs({"B": 2, "N": 3, "D": 16, "F": 16}, Maker())
    x = inputs["x"].requires_grad_()
    loss = ops.feed_forward(**inputs, impl="cpu").square().sum()
    with pytest.raises(BackendError, match="impl='reference' can"):
        torch.autograd.grad(loss, x, create_graph=True)


def block_inputs(sizes, make):
    """A block of self-attention and feed-forward, a cross-attention with a table and another feed-forward."""
    attention = CASES["lag_attention"].make_inputs
    cross = attention({"B": 2, "Nq": 6, "Nk": 4, "D": 32, "H": 2, "bias": "table"}, make)
    within = attention({"B": 2, "Nq": 6, "Nk": "self", "D": 32, "H": 2, "bias": "none"}, make)
    feed_forward = CASES["feed_forward"].make_inputs
    ups = [feed_forward({"B": 1, "N": 1, "D": 32, "F": 64}, make)["params"] for _ in range(2)]
    return {"x": cross["x"], "key_value": cross["key_value"], "key_pos": cross["key_pos"]} | {
        "table": cross["bias_table"], "weights": (within["params"], ups[0], cross["params"], ups[1])
    }  # fmt: skip


def whole_block(attend, feed, x, key_value, key_pos, table, weights):
    x = feed(attend(x, None, weights[0], None, None), weights[1])
    return feed(attend(x, key_value, weights[2], table, key_pos), weights[3])


def block_oracle(inputs):
    def attend(x, key_value, params, table, key_pos):
        query_pos = torch.arange(x.shape[1])[None]
        key_pos = query_pos if key_pos is None else key_pos
        return attention_reference.lag_attention(x, key_value, params, 2, table, query_pos, key_pos, dropout_p=0.0)

    return whole_block(attend, lambda x, params: feed_forward_reference.feed_forward(x, params, 0.0), **inputs)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_whole_forward_and_backward(compiler):
    def attend(x, key_value, params, table, key_pos):
        options = {} if table is None else {"bias_table": table, "key_pos": key_pos}
        return ops.lag_attention(x, key_value, params, num_heads=2, dropout_p=0.0, impl="cpu", **options)

    def run(inputs):
        return whole_block(attend, lambda x, params: ops.feed_forward(x, params, impl="cpu"), **inputs)

    # Without vector instructions Inductor of torch 2.13 writes vector code for arange all the same, which is no C++.
    scalar = compiler == "inductor" and torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    options = {"cpp.simdlen": 1} if scalar else None
    compiled = torch.compile(run, fullgraph=True, backend=compiler, options=options)
    block = replace(CASES["lag_attention"], make_inputs=block_inputs, oracle=block_oracle)
    case = Case("block", {})
    check_op(block, case, run)
    check_op(block, case, compiled)
    with torch.no_grad():
        check_op(replace(block, differentiable=False), case, compiled)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_with_dropout(compiler):
    inputs = CASES["feed_forward"].make_inputs({"B": 2, "N": 8, "D": 64, "F": 16}, Maker())
    x, p = inputs["x"].requires_grad_(), 0.5

    def run(x):
        return ops.feed_forward(x, inputs["params"], dropout_p=p, impl="cpu")

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    outs = []
    for seed in (2, 3, 2):
        torch.manual_seed(seed)
        outs.append(compiled(x))
        assert 0.3 < (outs[-1] == x).double().mean() < 0.7
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])
    kept = (outs[0] != x).to(x.dtype)
    plain = ops.feed_forward(x, inputs["params"], impl="cpu")
    torch.testing.assert_close(outs[0], x + (plain - x) * kept / (1 - p))
    (want,) = torch.autograd.grad((x + (plain - x) * kept / (1 - p)).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(outs[0].sum(), x)[0], want)


def test_opcheck():
    seed, p = torch.tensor([1, 2]), 0.2
    for case in SPLITS["feed_forward"]:
        inputs = CASES["feed_forward"].make_inputs(case.sizes, Maker())
        args = (inputs["x"], list(inputs["params"]), seed, p)
        torch.library.opcheck(KERNELS.feed_forward_eval.default, args)
        torch.library.opcheck(KERNELS.feed_forward_train.default, args)
        out, hidden, stats = KERNELS.feed_forward_train(*args)
        for needs in (0b1111111, 0b0100100):
            torch.library.opcheck(KERNELS.feed_forward_backward.default, (out, *args, hidden, stats, needs))
    for case in SPLITS["lag_attention"]:
        inputs = CASES["lag_attention"].make_inputs(case.sizes, Maker())
        x, table = inputs["x"], inputs.get("bias_table")
        query_pos = None if table is None else torch.arange(x.shape[1])[None]
        key_pos = None if table is None else inputs.get("key_pos", query_pos)
        weights = kernel_weights(inputs["params"], inputs["key_value"] is not None)
        args = (x, inputs["key_value"], weights, inputs["num_heads"], table, query_pos, key_pos, seed, p)
        torch.library.opcheck(KERNELS.lag_attention_eval.default, args)
        torch.library.opcheck(KERNELS.lag_attention_train.default, args)
        out, *saved = KERNELS.lag_attention_train(*args)
        for needs in (2 ** (len(weights) + 3) - 1, 0b00110010001):
            torch.library.opcheck(KERNELS.lag_attention_backward.default, (out, *args, *saved, needs))
    torch.library.opcheck(KERNELS.dropout_mask.default, (seed, 3, 70, p))


# What the kernels do not serve


@pytest.mark.parametrize("op", list(CASES))
def test_other_dtypes(op):
    assert available()[op]["cpu"].usable
    inputs = CASES[op].make_inputs(CASES[op].tests[0].sizes, Maker(dtype=torch.float64))
    assert torch.equal(CASES[op].call(inputs, "auto"), CASES[op].call(inputs, "reference"))
    with pytest.raises(BackendError, match="torch.float32, got torch.float64"):
        CASES[op].call(inputs, "cpu")


def test_positions_out_of_range_are_refused_by_the_kernel():
    inputs = CASES["lag_attention"].make_inputs(CASES["lag_attention"].tests[4].sizes, Maker())
    x, table = inputs["x"], inputs["bias_table"]
    query_pos, weights = torch.arange(x.shape[1])[None], kernel_weights(inputs["params"], cross=False)
    for key_pos, match in ((query_pos + 1, r"0\.\.4, got 5"), (query_pos - 1, r"0\.\.4, got -1")):
        with pytest.raises(RuntimeError, match=match):
            KERNELS.lag_attention_eval(x, None, weights, 8, table, query_pos, key_pos, None, 0.0)


def test_no_queries():
    """Keys and values of samples without queries get zeros as gradients, not what the memory held."""
    sizes = {"B": 2, "Nq": 4, "Nk": 3, "D": 8, "H": 2, "bias": "none"}
    inputs = CASES["lag_attention"].make_inputs(sizes, Maker())
    key_value = inputs["key_value"].requires_grad_()
    out = ops.lag_attention(inputs["x"][:, :0], key_value, inputs["params"], num_heads=2, impl="cpu")
    assert out.shape == (2, 0, 8)
    (gradient,) = torch.autograd.grad(out.sum(), key_value)
    assert torch.equal(gradient, torch.zeros_like(key_value))
