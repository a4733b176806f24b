"""Frozen weights: the CPU kernels read them again exactly when somebody says so."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import Tensor, nn

from xmae_fast import ops
from xmae_fast.backend import release_cpu_memory, use_cpu_kernels
from xmae_fast.ops import _frozen
from xmae_fast.ops._frozen import Hold
from xmae_fast.ops.feed_forward import FeedForwardParams

D, S, P = 32, 4, 8


@pytest.fixture(autouse=True)
def _built(need_impl):
    """Every test ends with nothing frozen or packed."""
    need_impl("patch_embed", "cpu")
    need_impl("feed_forward", "cpu")
    release_cpu_memory()
    yield
    gc.collect()
    assert not _frozen._versions
    assert not _frozen._holds
    release_cpu_memory()


@torch.no_grad()
def embedded(weight: Tensor) -> float:
    """Each number of the result is S P times the number of which `weight` is full."""
    out = ops.patch_embed(torch.ones(1, S, 2 * P), weight, torch.zeros(D), torch.zeros(1, 2, D), impl="cpu")
    assert torch.equal(out, out[0, 0, 0].expand_as(out))
    return out[0, 0, 0].item() / (S * P)


def full(value: float) -> Tensor:
    return torch.full((D, S, P), float(value))


def test_frozen_weights_are_not_read_again(kernels):
    weight = full(1)
    assert embedded(weight) == 1
    hold = Hold([weight])
    assert embedded(weight) == 1
    weight.data.fill_(2)  # is not counted
    assert embedded(weight) == 1
    hold.release()
    assert embedded(weight) == 2
    weight.data.fill_(3)
    assert embedded(weight) == 3


def test_what_was_packed_before_is_read_once():
    weight = full(1)
    assert embedded(weight) == 1
    weight.data.fill_(2)
    hold = Hold([weight])
    assert embedded(weight) == 2
    weight.data.fill_(3)
    another = Hold([weight])  # whoever freezes may rely on what lies there now
    assert embedded(weight) == 3
    hold.release()
    another.release()


def test_changes_that_count_are_seen(kernels):
    weight = full(1)
    hold = Hold([weight])
    for value in (2, 3, 3, 2):
        weight.fill_(value)
        assert embedded(weight) == value
    view = weight.view(-1)
    view[:] = 7
    assert embedded(weight) == 7
    weight.detach()[:] = 8
    assert embedded(weight) == 8
    with torch.inference_mode():
        weight.fill_(9)
        assert embedded(weight) == 9
    assert embedded(weight) == 9
    hold.release()


def test_every_instruction_set_has_its_own(kernels):
    weight = full(1)
    hold = Hold([weight])
    assert embedded(weight) == 1
    with use_cpu_kernels("baseline"):
        assert embedded(weight) == 1
    weight.fill_(2)
    with use_cpu_kernels("baseline"):
        assert embedded(weight) == 2
    assert embedded(weight) == 2
    hold.release()


def test_another_tensor_over_the_same_memory_is_no_frozen_one():
    weight = full(1)
    hold = Hold([weight])
    other = nn.Parameter(weight.data)  # with a counter of its own
    assert embedded(weight) == embedded(other) == 1
    with torch.no_grad():
        other.fill_(2)
    assert embedded(other) == 2
    assert embedded(weight) == 2  # because the call before has packed it
    weight.data.fill_(3)
    assert embedded(weight) == 2
    assert embedded(other) == 3
    hold.release()


def test_memory_that_was_exchanged_is_read():
    weight, other = full(1), full(2)
    hold = Hold([weight])
    assert embedded(weight) == 1
    weight.data = other
    assert embedded(weight) == 2
    other.fill_(3)  # by the counter of `other`
    assert embedded(weight) == 3
    weight.data = weight.data.transpose(0, 0).clone()
    assert embedded(weight) == 3
    hold.release()


def test_exchanged_between_frozen_ones():
    a, b = full(1), full(2)
    hold = Hold([a, b])
    assert (embedded(a), embedded(b)) == (1, 2)
    a.data, b.data = b.data, a.data
    assert (embedded(a), embedded(b)) == (2, 1)
    a.fill_(5)
    assert (embedded(a), embedded(b)) == (5, 1)
    hold.release()


def test_another_layout():
    weight = torch.arange(D * D, dtype=torch.float32).view(D, D, 1)
    x, pos = torch.randn(1, D, 2), torch.zeros(1, 2, D)
    hold = Hold([weight])

    def both(w: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(ops.patch_embed(x, w, torch.zeros(D), pos, impl=impl) for impl in ("cpu", "reference"))

    for _ in range(2):
        torch.testing.assert_close(*both(weight))
    weight.data = weight.data.transpose(0, 1)
    for _ in range(2):
        torch.testing.assert_close(*both(weight))
    weight.data.mul_(-1)  # is a copy for the kernels, which is read
    torch.testing.assert_close(*both(weight))
    hold.release()


def test_an_address_is_not_used_again_while_it_is_trusted():
    weight = full(1)
    address, hold = weight.data_ptr(), Hold([weight])
    assert embedded(weight) == 1
    weight.data = full(2)
    others = [full(i) for i in range(50)]
    assert address not in {x.data_ptr() for x in others}
    assert [embedded(x) for x in others] == list(range(50))
    hold.release()
    del hold, others
    assert embedded(weight) == 2


def test_an_address_that_is_used_again_after_release():
    reused = 0
    for value in range(1, 200):
        weight = full(value)
        hold = Hold([weight])
        assert embedded(weight) == value
        address = weight.data_ptr()
        hold.release()
        del weight, hold
        weight = full(-value)
        reused += weight.data_ptr() == address
        for _ in range(2):
            assert embedded(weight) == -value
    assert reused > 0


def test_several_holds_of_one_weight():
    weight = full(1)
    first, second = Hold([weight, weight]), Hold([weight])
    assert embedded(weight) == 1
    first.release()
    first.release()
    weight.data.fill_(2)
    assert embedded(weight) == 1
    weight.fill_(3)
    assert embedded(weight) == 3
    second.release()
    weight.data.fill_(4)
    assert embedded(weight) == 4


def test_some_weights_of_a_call_are_frozen():
    torch.manual_seed(0)
    x = torch.randn(1, 2, D)
    params = FeedForwardParams(
        torch.ones(D), torch.zeros(D), torch.randn(64, D), torch.zeros(64), torch.randn(D, 64), torch.zeros(D)
    )
    hold = Hold(params)  # vectors are not frozen
    first = ops.feed_forward(x, params, impl="cpu")
    for vector in (params.norm_weight, params.norm_bias, params.up_bias, params.down_bias):
        vector.data.add_(1)
        again = ops.feed_forward(x, params, impl="cpu")
        assert not torch.equal(again, first)
        first = again
    params.up_weight.data.neg_()
    assert torch.equal(ops.feed_forward(x, params, impl="cpu"), first)
    params.down_weight.add_(0)
    assert not torch.equal(ops.feed_forward(x, params, impl="cpu"), first)
    hold.release()


def test_a_call_that_fails_leaves_no_word():
    weight = full(1)
    hold = Hold([weight])
    alias = nn.Parameter(weight.data)
    assert embedded(weight) == 1
    with pytest.raises(RuntimeError, match="expected a bias"):
        _frozen.call(
            torch.ops.xmae_fast.patch_embed, (weight,), torch.ones(1, 2 * P, S), weight, torch.zeros(D + 1),
            torch.zeros(1, 2, D), True,
        )  # fmt: skip
    weight.data.fill_(2)
    assert embedded(alias) == 2
    hold.release()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_steps_of_optimisers(kind, fused):
    weight = nn.Parameter(full(1))
    optimiser = kind([weight], lr=0.25, fused=fused)
    hold = Hold([weight])
    assert embedded(weight) == 1
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        want = weight[0, 0, 0].item()
        assert embedded(weight) == pytest.approx(want, rel=1e-6)
    assert want < 0.9
    hold.release()


def test_weights_without_counters_are_refused():
    with torch.inference_mode():
        weight = full(1)
    with pytest.raises(RuntimeError, match=r"freeze: expected weights that count .* torch\.inference_mode"):
        Hold([full(1), weight])
    frozen = full(2)
    hold = Hold([frozen])
    frozen.data = weight
    for _ in range(2):
        assert embedded(frozen) == 1
    hold.release()


def test_only_matrices_of_the_cpu_in_dtypes_of_the_kernels():
    left_out = (
        torch.zeros(8), torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.int64),
        torch.zeros(4, 4, device="meta"), torch.zeros(4, 4).t()[:2], torch.zeros(0, 4), torch.zeros(4, 4).to_sparse(),
    )  # fmt: skip
    hold = Hold([*left_out, half := torch.zeros(4, 4, dtype=torch.bfloat16)])
    assert list(_frozen._versions) == [id(half)]
    hold.release()


def test_threads():
    """A change that was made before a call began is seen by it, whatever other threads freeze and compute."""
    weights, errors, done = [full(0) for _ in range(3)], [], threading.Event()

    def change(weight: Tensor) -> None:
        hold = Hold([weight])
        try:
            for value in range(1, 150):
                weight.fill_(value)
                if (got := embedded(weight)) != value:
                    errors.append((got, value))
                if value % 10 == 0:
                    hold.release()
                    hold = Hold([weight])
        finally:
            hold.release()

    def read() -> None:
        last = [0.0] * len(weights)
        while not done.is_set():
            now = [embedded_any(weight) for weight in weights]
            if any(a < b for a, b in zip(now, last, strict=True)):
                errors.append((now, last))
            last = now

    @torch.no_grad()
    def embedded_any(weight: Tensor) -> float:
        """Values grow, so that the smallest of a weight that is being written is at least that of the last call."""
        out = ops.patch_embed(torch.ones(1, S, 2 * P), weight, torch.zeros(D), torch.zeros(1, 2, D), impl="cpu")
        return out.min().item() / (S * P)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=change, args=(weight,)) for weight in weights]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not errors
    assert [embedded(weight) for weight in weights] == [149.0] * 3
