"""Training of feed_forward, lag_attention and patch_embed in bfloat16 on CPUs: errors, dropout, threads, gradients."""

from __future__ import annotations

import pytest
import torch

from tests.ops.bfloat16_errors import assert_close, check_training, relative_error, step
from tests.ops.cpu_blocks import CASES as BLOCKS
from tests.ops.cpu_blocks import EVERY_SPLIT, KERNELS, SPLITS
from tests.ops.instruction_sets import BF16_SETS, on_bf16
from tests.ops.test_cpu_blocks_dropout import WITH_MASK
from xmae_fast import backend, ops
from xmae_fast.ops.cases import Maker, all_cases, cases
from xmae_fast.ops.lag_attention.params import kernel_weights
from xmae_fast.testing import named_tensors

CASES = {op: all_cases()[op] for op in ("feed_forward", "lag_attention", "patch_embed")}
# Rows that are more than one part of the sums over rows (1,024 rows), and patches that are whole tiles.
LONG = {
    "feed_forward": cases({"B": 43, "N": 25, "D": 48, "F": 80}),
    "lag_attention": cases({"B": 43, "Nq": 25, "Nk": 15, "D": 48, "H": 4, "bias": "table"}),
    "patch_embed": cases({"B": 100, "S": 8, "N": 11, "P": 4, "D": 40}, {"B": 5, "S": 3, "N": 11, "P": 7, "D": 33}),
}
EVERY_CASE = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op, of_op in CASES.items()
    for case in (*of_op.tests, *SPLITS.get(op, ()), *LONG[op])
]
EVERY_LONG = [pytest.param(op, case, id=f"{op}-{case.name}") for op in CASES for case in LONG[op]]


@pytest.fixture(autouse=True)
def _need_kernels(need_impl):
    for op in CASES:
        need_impl(op, "cpu")


@pytest.fixture(params=BF16_SETS)
def instructions(request):
    with on_bf16(request.param):
        yield request.param


@pytest.fixture
def fastest():
    """The fastest instruction set that this processor has, by its name."""
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        yield


def kernels_of(op: str, **options):
    def run(inputs):
        torch.manual_seed(11)
        return CASES[op].call(inputs | options, "cpu")

    return run


def training(op: str, case, **options) -> dict[str, torch.Tensor]:
    return step(kernels_of(op, **options), CASES[op].make_inputs(case.sizes, Maker(3)), torch.float32)


@pytest.mark.parametrize(("op", "case"), EVERY_CASE)
def test_errors(op, case, instructions):
    check_training(CASES[op], case.sizes, kernels_of(op), CASES[op].oracle)


@pytest.mark.parametrize(("op", "case"), EVERY_SPLIT)
def test_dropout_draws_the_masks_of_float32(op, case, instructions):
    p = 0.3
    masked = WITH_MASK[op]
    check_training(CASES[op], case.sizes, kernels_of(op, dropout_p=p), lambda inputs: masked(inputs, p))


def test_dropped_elements_are_those_of_float32(instructions):
    inputs = CASES["feed_forward"].make_inputs({"B": 5, "N": 9, "D": 70, "F": 32}, Maker())
    run = kernels_of("feed_forward", dropout_p=0.4)
    half = step(run, inputs, torch.float32)["output"] == inputs["x"]
    single = step(run, inputs, torch.float32, autocast=False)["output"] == inputs["x"]
    assert torch.equal(half, single)
    assert 0.3 < half.double().mean() < 0.5


@pytest.mark.parametrize(("op", "case"), [*EVERY_SPLIT, *EVERY_LONG])
def test_threads_change_no_bit(op, case, fastest):
    options = {"dropout_p": 0.3} if op in BLOCKS else {}
    torch.set_num_threads(1)
    want = training(op, case, **options)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        got = training(op, case, **options)
        for name, x in want.items():
            assert torch.equal(got[name], x), (threads, name)


@pytest.mark.parametrize(("op", "case"), EVERY_LONG)
def test_output_is_that_of_inference(op, case, instructions):
    inputs = CASES[op].make_inputs(case.sizes, Maker(3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want = CASES[op].call(inputs, "cpu")
    assert torch.equal(training(op, case)["output"], want)


@pytest.mark.parametrize(("op", "case"), [*EVERY_SPLIT, *EVERY_LONG])
def test_only_the_gradients_asked_for(op, case, fastest):
    all_of_them = training(op, case)
    inputs = CASES[op].make_inputs(case.sizes, Maker(3))
    for name, x in named_tensors(inputs):
        if name not in all_of_them:
            continue
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = kernels_of(op)(inputs)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
        (gradient,) = torch.autograd.grad(out, x, grad)
        assert torch.equal(gradient, all_of_them[name]), name
        x.requires_grad_(False)


@pytest.mark.parametrize("op", list(CASES))
def test_layouts(op, fastest):
    """Transposed inputs and an expanded gradient give what contiguous ones give."""
    inputs = CASES[op].make_inputs(CASES[op].tests[0].sizes, Maker(3))
    first = "features" if op == "patch_embed" else "x"
    results = []
    for x in (inputs[first].clone(), inputs[first].transpose(0, 2).clone().transpose(0, 2)):
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = CASES[op].call(inputs | {first: x}, "cpu")
        results.append(torch.autograd.grad(out.sum(), x)[0])
    assert torch.equal(*results)


def test_features_in_bfloat16(fastest):
    """The stem may return bfloat16 under autocast; the gradient then has that dtype, and the others are in float32."""
    inputs = CASES["patch_embed"].make_inputs({"B": 3, "S": 8, "N": 11, "P": 4, "D": 40}, Maker(3))
    rounded = inputs["features"].bfloat16()
    results = []
    for features in (rounded, rounded.float()):
        leaves = {"features": features.requires_grad_(), "weight": inputs["weight"].requires_grad_()}
        with torch.autocast("cpu", torch.bfloat16):
            out = CASES["patch_embed"].call(inputs | leaves, "cpu")
        results.append((out, *torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))))
    half, single = results
    assert [x.dtype for x in half] == [torch.float32, torch.bfloat16, torch.float32]
    assert torch.equal(half[0], single[0])
    assert torch.equal(half[1], single[1].bfloat16())
    assert torch.equal(half[2], single[2])


# Which kernels run


@pytest.mark.parametrize("op", list(CASES))
def test_float32_stays_float32(op):
    """Without autocast, and under it where the processor has no bfloat16 kernels, the float32 kernels run."""
    case = LONG[op][0]
    inputs = CASES[op].make_inputs(case.sizes, Maker(3))
    with backend.use_cpu_bfloat16("none"):
        want = step(kernels_of(op), inputs, torch.float32, autocast=False)
        asked = step(kernels_of(op), inputs, torch.float32)
    with backend.use_cpu_bfloat16("plain"):
        plain = step(kernels_of(op), inputs, torch.float32, autocast=False)
        half = step(kernels_of(op), inputs, torch.float32)
    for name, x in want.items():
        assert torch.equal(asked[name], x), name
        assert torch.equal(plain[name], x), name
    assert not torch.equal(half["output"], want["output"])


@pytest.mark.parametrize("op", list(CASES))
def test_a_bfloat16_model_with_gradients_runs_in_plain_pytorch(op):
    inputs = CASES[op].make_inputs(CASES[op].tests[0].sizes, Maker(dtype=torch.bfloat16))
    tensor = inputs["weight"] if op == "patch_embed" else inputs["x"]
    tensor.requires_grad_()
    with backend.use_cpu_bfloat16("plain"):
        assert torch.equal(CASES[op].call(inputs, "auto"), CASES[op].call(inputs, "reference"))
        with pytest.raises(backend.BackendError, match="without gradients"):
            CASES[op].call(inputs, "cpu")


@pytest.mark.parametrize("op", list(CASES))
def test_explain(op):
    with backend.use_cpu_bfloat16("plain"), torch.autocast("cpu", torch.bfloat16):
        said = backend.explain(op, impl="cpu")
    assert "bfloat16 by plain now, under autocast" in said
    assert "where gradients are wanted" not in said


@pytest.mark.parametrize("compiler", ["aot_eager"])
def test_compiles_forward_and_backward_under_autocast(compiler, fastest):
    inputs = CASES["feed_forward"].make_inputs({"B": 2, "N": 9, "D": 40, "F": 72}, Maker(3))

    def run(inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.feed_forward(inputs["x"], inputs["params"], impl="cpu")

    compiled = torch.compile(run, fullgraph=True, backend=compiler)
    want, got = (step(f, inputs, torch.float32, autocast=False) for f in (run, compiled))
    for name, x in want.items():
        assert torch.equal(got[name], x), name


def test_opcheck(fastest):
    seed, p = torch.tensor([1, 2]), 0.2
    inputs = CASES["feed_forward"].make_inputs(SPLITS["feed_forward"][0].sizes, Maker())
    args = (inputs["x"], list(inputs["params"]), seed, p)
    torch.library.opcheck(KERNELS.feed_forward_train_bf16.default, args)
    out, *saved = KERNELS.feed_forward_train_bf16(*args)
    for needs in (0b1111111, 0b0100100):
        torch.library.opcheck(KERNELS.feed_forward_backward_bf16.default, (out, *args, *saved, needs))
    for case in SPLITS["lag_attention"]:
        inputs = CASES["lag_attention"].make_inputs(case.sizes, Maker())
        x, table = inputs["x"], inputs.get("bias_table")
        query_pos = None if table is None else torch.arange(x.shape[1])[None]
        key_pos = None if table is None else inputs.get("key_pos", query_pos)
        weights = kernel_weights(inputs["params"], inputs["key_value"] is not None)
        args = (x, inputs["key_value"], weights, inputs["num_heads"], table, query_pos, key_pos, seed, p)
        torch.library.opcheck(KERNELS.lag_attention_train_bf16.default, args)
        out, *saved = KERNELS.lag_attention_train_bf16(*args)
        for needs in (2 ** (len(weights) + 3) - 1, 0b00110010001):
            torch.library.opcheck(KERNELS.lag_attention_backward_bf16.default, (out, *args, *saved, needs))
    inputs = CASES["patch_embed"].make_inputs({"B": 3, "S": 3, "N": 7, "P": 5, "D": 9}, Maker())
    for dtype in (torch.float32, torch.bfloat16):
        features = inputs["features"].transpose(1, 2).contiguous().to(dtype)
        args = (features, inputs["weight"], inputs["bias"], inputs["pos"])
        torch.library.opcheck(KERNELS.patch_embed_train_bf16.default, args)
        out = KERNELS.patch_embed_train_bf16(*args)
        for wants in ((True, True, True), (False, True, False), (True, False, False)):
            torch.library.opcheck(KERNELS.patch_embed_backward_bf16.default, (out, features, args[1], *wants))


# Versions that are known to be wrong must not pass


def product_rounded_at_every_tile(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a b for bfloat16 numbers, summed in bfloat16 after each 32 steps."""
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.bfloat16)
    for k in range(0, a.shape[1], 32):
        total += (a[:, k : k + 32].float() @ b[k : k + 32].float()).bfloat16()
    return total.float()


@pytest.mark.parametrize("wrong", ["none", "accumulation", "pair", "row", "half"])
def test_wrong_gradients_of_weights_are_rejected(wrong):
    """patch_embed's gradient of the weight is A^T B alone, so the versions below are what a wrong kernel would give.

    They are judged beside products of bfloat16 whose sums are rounded once. PyTorch's own are that good only where the
    processor multiplies in bfloat16.
    """
    sizes = {"B": 60, "S": 8, "N": 25, "P": 4, "D": 32}
    inputs = CASES["patch_embed"].make_inputs(sizes, Maker(3))
    want = step(CASES["patch_embed"].oracle, inputs, torch.float64, autocast=False)["weight"]
    grad = torch.randn(60, 25, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64).flatten(0, 1)
    a, b = grad.bfloat16().T, inputs["features"].transpose(1, 2).reshape(1500, 32).bfloat16()
    stock = (a.float() @ b.float()).bfloat16().view(32, 4, 8).transpose(1, 2)
    if wrong == "pair":  # the rows of one pair in one tile, in the other order
        b = torch.cat([b[:1], b[2:3], b[1:2], b[3:]])
        b[32:64] = b[32:64].view(16, 2, 32).flip(1).view(32, 32)
    if wrong == "row":
        b = b.roll(1, 0)
    if wrong == "half":  # the last rows, which are no whole chunk of 32, are left out
        b = b * (torch.arange(1500) < 1500 // 32 * 32)[:, None]
    product = product_rounded_at_every_tile(a, b) if wrong == "accumulation" else a.float() @ b.float()
    got = product.view(32, 4, 8).transpose(1, 2)
    if wrong == "none":
        return assert_close("weight", got, want, stock)
    with pytest.raises(AssertionError, match="weight: error"):
        assert_close("weight", got, want, stock)
    assert relative_error(got, want) < 2, "it is wrong in the way that is meant, and nothing else"
