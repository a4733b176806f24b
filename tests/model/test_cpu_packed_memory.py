"""The weights that the CPU kernels keep packed are freed with their model, and all of them are."""

from __future__ import annotations

import gc
import multiprocessing
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.model.copies import copied, copied_by_reference, pickled, saved
from xmae_fast import ModelCfg, ops, xMAE
from xmae_fast.backend import MODEL_OPS, release_cpu_memory
from xmae_fast.model.packed import drop_packed, packed_bytes

CFG = {"seq_len": 80, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
PPG = torch.linspace(-1, 1, 160).view(2, 80)


@pytest.fixture(autouse=True)
def _built(need_impl):
    """Start and end with nothing packed, whatever other tests keep alive."""
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    gc.collect()
    release_cpu_memory()
    yield
    gc.collect()
    drop_packed()


def make_model(seed: int = 0) -> xMAE:
    torch.manual_seed(seed)
    return xMAE(ModelCfg(**CFG), impl="cpu").eval()


def embedded(model: xMAE) -> xMAE:
    model.embed(PPG)
    return model


def test_dropped_models_keep_nothing():
    living = embedded(make_model())
    before, want = packed_bytes(), living.embed(PPG)
    assert before > 0
    for seed in range(24):
        embedded(make_model(seed))
    gc.collect()
    assert packed_bytes() == before
    assert torch.equal(living.embed(PPG), want)
    assert packed_bytes() == before
    del living
    gc.collect()
    assert packed_bytes() == 0


def test_many_living_models_are_all_kept():
    models = [embedded(make_model(seed)) for seed in range(3)]
    three = packed_bytes()
    del models[1]
    gc.collect()
    assert packed_bytes() == three * 2 // 3
    for model in models:
        embedded(model)
    assert packed_bytes() == three * 2 // 3


def averaged(model):
    return torch.optim.swa_utils.AveragedModel(model).module


@pytest.mark.parametrize("make", [copied, copied_by_reference, pickled, saved, averaged])
def test_copies_are_models_too(make):
    model = embedded(make_model())
    one, want = packed_bytes(), model.embed(PPG)
    other = make(model).eval()
    assert torch.equal(other.embed(PPG), want)
    both = packed_bytes()
    assert both == (one if make is copied_by_reference else 2 * one)
    del model
    gc.collect()
    assert packed_bytes() == one
    assert torch.equal(other.embed(PPG), want)
    assert packed_bytes() == one
    del other
    gc.collect()
    assert packed_bytes() == 0


def in_a_cycle(model):
    model.itself = [model]


def in_another_module(model):
    nn.Sequential(nn.Identity(), model)


def compiled(model):
    torch.compiler.reset()
    torch.compile(model.embed, backend="eager")(PPG)
    torch.compiler.reset()


def dropped_by_a_thread(model):
    thread = threading.Thread(target=embedded, args=(make_model(5),))
    thread.start()
    thread.join()


@pytest.mark.parametrize("how", [in_a_cycle, in_another_module, compiled, dropped_by_a_thread])
def test_however_a_model_was_used(how):
    model = embedded(make_model())
    how(model)
    assert packed_bytes() > 0
    del model
    gc.collect()
    assert packed_bytes() == 0


def to_another_dtype(model):
    model.double()


def state_assigned(model):
    model.load_state_dict(make_model(1).state_dict(), assign=True)


@pytest.mark.parametrize("move", [to_another_dtype, state_assigned])
def test_weights_that_move(move):
    model = embedded(make_model())
    assert packed_bytes() > 0
    move(model)
    assert packed_bytes() == 0


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called where a model goes")


class Dispatches(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called where a model goes")


@pytest.mark.parametrize("mode", [FakeTensorMode, Functions, Dispatches, torch.inference_mode])
def test_whatever_mode_is_on_when_a_model_goes(mode):
    living, model = embedded(make_model()), embedded(make_model(1))
    both = packed_bytes()
    with mode():
        del model
        gc.collect()
        assert packed_bytes() == both // 2
    assert packed_bytes() == both // 2
    embedded(living)
    assert packed_bytes() == both // 2


def test_fake_models_are_no_obstacle():
    model = make_model(1)
    model.mask_token = nn.Parameter(FakeTensorMode().from_tensor(torch.zeros(1, 1, 48)))
    embedded(make_model())
    gc.collect()
    assert packed_bytes() == 0
    assert model.mask_token.shape == (1, 1, 48)


def test_half_made_models_are_no_obstacle():
    half = xMAE.__new__(xMAE)
    embedded(make_model())
    with pytest.raises(TypeError, match="cfg: expected a ModelCfg"):
        xMAE({})
    assert packed_bytes() == 0
    assert not hasattr(half, "cfg")


def test_a_part_that_outlives_its_model():
    """Packed weights of a part that outlives its model are dropped; the part packs them again, and its results stay."""
    model = make_model()
    path = model.ppg_path
    with torch.no_grad():
        want = path.encode(PPG[:, None], inference=True)
        del model
        gc.collect()
        for _ in range(2):
            assert torch.equal(path.encode(PPG[:, None], inference=True), want)


def patch_embed(weight: Tensor) -> Tensor:
    D, S, P = weight.shape
    return ops.patch_embed(torch.ones(1, S, 2 * P), weight, torch.zeros(D), torch.zeros(1, 2, D), impl="cpu")


def test_tensors_of_the_callers_own_are_bounded():
    weights = [torch.full((32, 4, 8), float(i)) for i in range(80)]
    sizes = []
    for i, weight in enumerate(weights):
        assert torch.equal(patch_embed(weight), torch.full((1, 2, 32), 32.0 * i))
        sizes.append(packed_bytes())
    assert sizes[0] > 0
    assert max(sizes) == 32 * sizes[0]
    assert torch.equal(patch_embed(weights[7]), torch.full((1, 2, 32), 32.0 * 7))
    release_cpu_memory()
    assert packed_bytes() == 0
    assert torch.equal(patch_embed(weights[7]), torch.full((1, 2, 32), 32.0 * 7))


def test_models_that_come_and_go_beside_one_at_work():
    model, errors, done = make_model(), [], threading.Event()
    want = model.embed(PPG)

    def work():
        while not done.is_set():
            if not torch.equal(model.embed(PPG), want):
                errors.append("another result")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seed in range(3):
        embedded(make_model(seed))
        gc.collect()
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


def _in_child(model, queue):
    before = packed_bytes()
    embedded(make_model(1))
    gc.collect()
    queue.put((before, packed_bytes(), model.embed(PPG).numpy()))


def test_in_a_forked_child():
    torch.set_num_threads(1)
    model = embedded(make_model())
    one, want = packed_bytes(), model.embed(PPG)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(model, queue))
    child.start()
    before, after, got = queue.get(timeout=60)
    child.join()
    assert (before, after, packed_bytes()) == (one, one, one)
    assert torch.equal(torch.from_numpy(got), want)


def test_the_interpreter_ends_in_silence():
    code = """
        import torch
        from xmae_fast import ModelCfg, xMAE
        cfg = ModelCfg(seq_len=80, patch_len=20, d_model=48, nhead=4, stem_ch=8)
        models = [xMAE(cfg, impl="cpu") for _ in range(2)]
        models[0].itself = models[0]
        for model in models:
            model.embed(torch.zeros(1, 80))
        print("done")
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "done\n", "")
