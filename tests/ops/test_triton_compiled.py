"""The Triton kernels of the published model compiled for real GPUs, without one: resources, launches, offsets.

`benchmarks/results/triton_resources.json` says what each kernel may use; after a change that is meant to move it, write
it anew: `python -m xmae_fast.testing.resources --out benchmarks/results/triton_resources.json`, and read its diff.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results" / "triton_resources.json"
MORE_REGISTERS = 16  # than committed: another Triton allocates a little differently


@pytest.fixture(scope="module")
def resources():
    """Of every distinct launch of a training step and an embedding in bfloat16, for sm_90 and sm_80."""
    from xmae_fast.testing.resources import compile_all

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return [found for part in pool.map(compile_all, (90, 80)) for found in part]


def test_no_spills_and_shared_memory_within_limits(resources):
    from xmae_fast.testing.resources import SHARED_LIMIT

    assert len(resources) > 50
    for found in resources:
        assert found.stack == 0, found
        assert found.shared <= SHARED_LIMIT[found.arch], found


def test_tensor_cores_and_registers_as_committed(resources):
    entries = sorted(json.loads(COMMITTED.read_text()), key=lambda entry: entry["registers"])
    committed = {entry["key"]: entry for entry in entries}  # where variants differ by alignment alone, the largest
    assert {found.key for found in resources} == set(committed), "launches have changed: write the file anew"
    for found in resources:
        assert found.tensor_cores == committed[found.key]["tensor_cores"], found
        assert found.registers <= committed[found.key]["registers"] + MORE_REGISTERS, found


def test_every_product_in_bfloat16_is_on_tensor_cores_of_sm_90():
    entries = [entry for entry in json.loads(COMMITTED.read_text()) if entry["arch"] == 90]
    cores = Counter(entry["tensor_cores"] for entry in entries)
    small = {entry["kernel"] for entry in entries if entry["tensor_cores"] == "HMMA"}
    assert cores["HGMMA"] > 70
    assert small == {"stem_weight_gradient_kernel"}  # with fewer than the 64 rows that wgmma takes


@pytest.mark.parametrize("autocast", [torch.bfloat16, None])
def test_a_step_is_recorded_without_reading_a_value(autocast):
    """Fake tensors have no values: a synchronisation (`item`, `if tensor`) would raise."""
    from xmae_fast.testing.launches import embedding, name_of, training_step

    step = training_step(512, autocast, (9, 0))
    assert len(step) > 50
    assert not [name for name in map(name_of, step) if "item" in name or "local_scalar" in name]
    assert len(embedding(512, autocast, (9, 0))) < len(step)


def test_launches_do_not_depend_on_the_batch_size():
    from xmae_fast.testing.launches import name_of, training_step

    counts = [Counter(map(name_of, training_step(B, torch.bfloat16, (9, 0)))) for B in (8, 512, 131_072)]
    assert counts[0] == counts[1] == counts[2]


def test_offsets_are_64_bits_where_tensors_are_large():
    """At B = 131,072 a level of the stem has 2^32 numbers: every offset into one must be computed in 64 bits."""
    from xmae_fast.testing.launches import production_launches
    from xmae_fast.testing.offsets import narrow_offsets

    assert not narrow_offsets(production_launches(B=131_072))


def test_narrow_offsets_are_found():
    """The check is checked: a row times a stride in 32 bits is reported, the same in 64 bits is not."""
    from xmae_fast.testing.offsets import overflows

    row = """
    %c = arith.constant 64 : i32
    %pid = tt.get_program_id x : i32
    %first = arith.muli %pid, %c : i32
    %range = tt.make_range {end = 64 : i32, start = 0 : i32} : tensor<64xi32>
    %splat = tt.splat %first : i32 -> tensor<64xi32>
    %row = arith.addi %splat, %range : tensor<64xi32>
    """
    narrow = """
    %stride = tt.splat %stride_xb : i32 -> tensor<64xi32>
    %offset = arith.muli %row, %stride : tensor<64xi32>
    %at = tt.addptr %x, %offset : tensor<64x!tt.ptr<f32>>, tensor<64xi32>
    """
    wide = """
    %long = arith.extsi %row : tensor<64xi32> to tensor<64xi64>
    %stride64 = arith.extsi %stride_xb : i32 to i64
    %stride = tt.splat %stride64 : i64 -> tensor<64xi64>
    %offset = arith.muli %long, %stride : tensor<64xi64>
    %at = tt.addptr %x, %offset : tensor<64x!tt.ptr<f32>>, tensor<64xi64>
    """
    arguments, programs = {"%stride_xb": 32_000}, (131_072 // 64,)
    (found,) = overflows(row + narrow, arguments, programs)
    assert "%offset = muli" in found
    assert not overflows(row + wide, arguments, programs)
    assert not overflows(row + narrow, {"%stride_xb": 1_000}, programs)
    assert not overflows(row + narrow.replace("tt.addptr %x, %offset", "tt.addptr %x, %row"), arguments, programs)


def test_programs_of_two_stems_are_judged_apart():
    """A product that is small for the programs on either side of a comparison is not reported; a large one is."""
    code = """
    %pid = tt.get_program_id x : i32
    %second = arith.cmpi sge, %pid, %programs : i32
    %length = arith.select %second, %L_2, %L : i32
    %sample = arith.divsi %rows, %length : i32
    %offset = arith.muli %sample, %length : i32
    %at = tt.addptr %x, %offset : !tt.ptr<f32>, i32
    """
    from xmae_fast.testing.offsets import overflows

    sizes = {"%rows": 2**30, "%L": 1000, "%L_2": 1}
    assert not overflows(code, sizes | {"%programs": 70}, (100,))
    assert overflows(code.replace("%programs", "%unknown"), sizes, (100,))
    (found,) = overflows(code.replace("%sample, %length", "%sample, %L"), sizes | {"%programs": 70}, (100,))
    assert "%offset = muli" in found


def test_every_kernel_waits_first_for_the_launch_before():
    from xmae_fast import ops

    folder, kernels = Path(ops.__file__).parent, []
    for file in folder.rglob("*.py"):
        for function in ast.parse(file.read_text()).body:
            if isinstance(function, ast.FunctionDef) and function.name.endswith("_kernel"):
                kernels.append(function.name)
                first = function.body[1 if ast.get_docstring(function) else 0]
                assert ast.unparse(first) == "wait_for_previous_launch()", f"{file.name}: {function.name}"
    assert len(kernels) > 40


@pytest.mark.parametrize(("arch", "waits"), [(90, 1), (80, 0)])
def test_it_is_a_wait_on_gpus_that_can_overlap_launches(arch, waits, monkeypatch):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime import driver

    from xmae_fast.ops.conv_stem.triton.forward import stem_activation_kernel

    target = GPUTarget("cuda", arch, 32)
    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: target), raising=False)
    types = {name: "i32" for name in stem_activation_kernel.arg_names}
    constants = {"C": 32, "BLOCK_C": 32, "BLOCK_M": 64}
    types |= {"x_ptr": "*bf16", "norms_ptr": "*fp32", "out_ptr": "*bf16"} | dict.fromkeys(constants, "constexpr")
    text = compile(ASTSource(stem_activation_kernel, types, constants), target=target).asm["ptx"]
    assert text.count("griddepcontrol.wait") == text.count("griddepcontrol.launch_dependents") == waits
    assert not waits or text.index("griddepcontrol.wait") < text.index("ld.global")


@pytest.mark.parametrize(
    ("capability", "on", "asked"), [((9, 0), True, True), ((9, 0), False, None), ((8, 0), True, None)]
)
def test_launches_overlap_where_asked_for_and_possible(capability, on, asked, monkeypatch):
    from xmae_fast.ops import _launch

    seen = []

    class Kernel:
        def __getitem__(self, programs):
            return lambda **options: seen.append(options.get("launch_pdl"))

    monkeypatch.setattr(_launch._triton, "capability", lambda device: capability)
    before = _launch.overlap_launches(on)
    try:
        _launch._start(Kernel(), (1,), {"x_ptr": torch.zeros(1)}, {})
    finally:
        assert _launch.overlap_launches(before) is on
    assert seen == [asked]


def test_who_comes_last_sees_what_the_others_left():
    """All threads have stored before one of them counts the program, and none loads before it has counted: a barrier,
    an atomic addition that releases and acquires on the whole GPU, a barrier."""
    from xmae_fast.testing.launches import name_of, training_step
    from xmae_fast.testing.resources import code_of

    step = training_step(8, torch.bfloat16, (9, 0))
    for kernel in ("stem_conv_kernel", "stem_input_gradient_kernel", "stem_pointwise_gradient_kernel"):
        launch = next(one for one in step if name_of(one) == kernel and one.args.get("counters_ptr") is not None)
        text = code_of(launch, 90).asm["ptx"]
        found = re.findall(r"bar\.sync|atom\S+|ld\.global|st\.global", text)
        counted = [place for place, word in enumerate(found) if word == "atom.global.gpu.acq_rel.add.u32"]
        assert len(counted) == 2, kernel  # of a group's tiles, and of a stem's groups
        for place in counted:
            assert found[place - 1] == found[place + 1] == "bar.sync", (kernel, found[place - 3 : place + 5])
