"""The C++ reader against NumPy, bit for bit, on every instruction set."""

import importlib.util
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.instruction_sets import SETS
from xmae_fast.data import problems
from xmae_fast.data.gather import MapFormat, NumpyGather, make_gather

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("xmae_fast._C_io") is None, reason="the C++ reader is not built here"
)
DTYPES = ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")


@pytest.fixture(params=SETS)
def instruction_set(request):
    from xmae_fast import _C_io

    try:
        _C_io.use_kernels(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _C_io.use_kernels("auto")


def layout(kind: str, n: int, L: int, dtype: np.dtype):
    """Stride, offsets of PPG and ECG, and all bytes of n segments. `kind`: "packed", or a letter for each column."""
    size = dtype.itemsize
    rows = np.arange(n, dtype=np.int64)
    if kind == "packed":
        return size, rows * L * size, (n + rows) * L * size, 2 * n * L * size
    record = L * len(kind) * size
    starts = [rows * record + kind.index(name) * size for name in ("p", "e")]
    return len(kind) * size, *starts, n * record


def make_file(kind: str, signals: np.ndarray, dtype: np.dtype):
    """A buffer that holds `signals` [2, n, L] and NaN in gaps, its format, and the offsets of the segments."""
    _, n, L = signals.shape
    stride, ppg, ecg, size = layout(kind, n, L, dtype)
    buffer = np.full(size // dtype.itemsize, np.nan, dtype).view(np.uint8)
    for k, offsets in enumerate((ppg, ecg)):
        for i in range(n):
            np.ndarray((L,), dtype, buffer, offsets[i], (stride,))[:] = signals[k, i]
    return buffer, MapFormat(dtype, stride), ppg, ecg


def assert_same(buffer, form, L, ppg, ecg, half, draws=None, threads=1):
    """Check that both readers find the same problems and write the same rows, and no row with a problem."""
    results = []
    for impl in ("reference", "cpu"):
        out = np.full((2, len(ppg), L), 7, np.float32)
        gather = make_gather([buffer], [form], L, impl)
        found = gather.gather(np.zeros(len(ppg), np.int32), ppg, ecg, *out, half, threads, **(draws or {}))
        results.append((found, out))
    (expected, rows), (found, got) = results
    np.testing.assert_array_equal(problems_of(found, half), problems_of(expected, half))
    np.testing.assert_array_equal(got.view(np.int32), rows.view(np.int32))
    return found, got


def problems_of(found, half):
    return [problems.describe(int(f), "float16" if half else "float32") for f in found]


@pytest.mark.parametrize("kind", ["packed", "tpe", "tep", "pe", "etp", "xxpex"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("half", [True, False])
def test_equals_numpy(instruction_set, kind, dtype, half):
    rng = np.random.default_rng(0)
    for n, L in ((1, 1000), (5, 1000), (9, 37), (3, 1), (4, 2), (2, 513), (2, 1033)):
        signals = rng.normal(0, rng.choice([1e-3, 1, 100]), (2, n, L))
        buffer, form, ppg, ecg = make_file(kind, signals, np.dtype(dtype))
        draws = {"seed": 77, "epoch": 3, "items": np.arange(5, 5 + n)}
        for augmentation in (None, draws):
            assert_same(buffer, form, L, ppg, ecg, half, augmentation)


def test_result_does_not_depend_on_threads(instruction_set):
    signals = np.random.default_rng(1).normal(size=(2, 100, 50))
    buffer, form, ppg, ecg = make_file("tpe", signals, np.dtype("<f2"))
    draws = {"seed": 1, "epoch": 2, "items": np.arange(100)}
    outs = [assert_same(buffer, form, 50, ppg, ecg, True, draws, threads)[1] for threads in (1, 2, 8)]
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])


@pytest.mark.parametrize("half", [True, False])
def test_bad_segments(instruction_set, half):
    rows = {
        "": np.linspace(-1, 1, 40),
        "constant": np.full(40, 0.25),
        "constant, signs of zero": np.where(np.arange(40) % 2, 0.0, -0.0),
        "nan": np.where(np.arange(40) == 39, np.nan, np.arange(40)),
        "nan first": np.where(np.arange(40) == 0, -np.nan, np.arange(40)),
        "inf": np.where(np.arange(40) == 3, np.inf, 1.0),
        "-inf": np.where(np.arange(40) == 16, -np.inf, 1.0),
        "wide": np.linspace(-30000, 30000, 40),
        "wide enough to be used": np.linspace(-13000, 13000, 40),
        "smallest": np.where(np.arange(40) == 5, 2.0**-24, 0.0),
        "high": np.where(np.arange(40) == 5, 65504, 65472.0),
        "only the last sample differs": np.where(np.arange(40) == 39, 1.0, 0.0),
    }
    good = np.random.default_rng(0).normal(size=40)
    cases = [(a, good) for a in rows.values()] + [(good, b) for b in rows.values()]
    for dtype in DTYPES:
        buffer, form, ppg, ecg = make_file("tpe", np.array(cases).transpose(1, 0, 2), np.dtype(dtype))
        for epoch in range(6):  # augmentation shifts the only change out, or overflows, in some of them
            draws = {"seed": 0, "epoch": epoch, "items": np.arange(len(cases))}
            found, out = assert_same(buffer, form, 40, ppg, ecg, half, draws)
            assert np.isfinite(out).all()
        texts = problems_of(found, half)[: len(rows)]
        wide = "non-finite" if half else ""
        assert texts == ["", "constant", "constant", *["non-finite"] * 4, wide, *[""] * 4]


def test_inspect_finds_the_problems_of_both_arithmetics(instruction_set):
    rng = np.random.default_rng(2)
    signals = rng.normal(size=(2, 6, 30))
    signals[0, 1], signals[1, 2, 4], signals[0, 3] = 0.5, np.nan, np.linspace(1, 1 + 1e-5, 30)
    signals[1, 4] *= 1e5
    for dtype in DTYPES[2:]:
        buffer, form, ppg, ecg = make_file("pe", signals, np.dtype(dtype))
        arguments = np.zeros(6, np.int32), ppg, ecg, 1
        found = make_gather([buffer], [form], 30, "cpu").inspect(*arguments)
        np.testing.assert_array_equal(found, make_gather([buffer], [form], 30, "reference").inspect(*arguments))
        assert problems_of(found, True) == ["", "constant", "non-finite", "constant", "non-finite", ""]
        assert problems_of(found, False) == ["", "constant", "non-finite", "", "", ""]


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy_gives_the_stored_values(dtype):
    signals = np.random.default_rng(3).normal(size=(2, 4, 21))
    buffer, form, ppg, ecg = make_file("etp", signals, np.dtype(dtype))
    size = np.dtype(dtype).itemsize
    for impl in ("cpu", "reference"):
        out = np.zeros((2, 4, 21 * size), np.uint8)
        found = make_gather([buffer], [form], 21, impl).copy(np.zeros(4, np.int32), ppg, ecg, *out, 2)
        assert not found.any()
        native = np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(out.view(native), signals.astype(native))


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_segments_outside_the_file_are_not_read(impl):
    buffer, form, ppg, ecg = make_file("tpe", np.random.default_rng(4).normal(size=(2, 3, 10)), np.dtype("<f2"))
    ppg, ecg = ppg.copy(), ecg.copy()
    ppg[0], ecg[1], ecg[2] = -2, len(buffer) - 3, 2**62
    out = np.full((2, 3, 10), 7, np.float32)
    found = make_gather([buffer], [form], 10, impl).gather(np.zeros(3, np.int32), ppg, ecg, *out, True, 1)
    assert (found == problems.OUTSIDE).all()
    assert (out == 7).all()


def test_division_by_reciprocal_is_exact_for_all_significands(instruction_set):
    """Segments (0, t, range) with t < range for all pairs of 11-bit significands give every quotient that can occur."""
    significands = np.arange(1024, 2048)
    for top in significands:
        low = np.arange(1024, top + 1) / 2048  # below the range in the same binade, and all of the one below
        below = significands / 4096
        x = np.concatenate([[0.0], low, below, [top / 2048]]).astype(np.float16)
        buffer, form, ppg, ecg = make_file("packed", np.stack([x, x])[:, None], np.dtype("<f2"))
        assert_same(buffer, form, len(x), ppg, ecg, True)


def test_every_half_is_read_and_rounded(instruction_set):
    """All finite float16 numbers as data in rows of every magnitude, and as float32 and float64 that are rounded."""
    finite = np.arange(65536).astype(np.uint16).view(np.float16)
    finite = np.sort(finite[np.isfinite(finite)])
    for part in np.array_split(finite, 64):
        for dtype in ("<f2", ">f2"):
            buffer, form, ppg, ecg = make_file("packed", np.stack([part, -part])[:, None], np.dtype(dtype))
            assert_same(buffer, form, len(part), ppg, ecg, True)
    halves = finite[np.abs(finite) < 10000].astype(np.float64)
    between = (halves[1:] + halves[:-1]) / 2  # ties
    for nudge, dtype in itertools.product((0, 1e-12, -1e-12, 1e-7), ("<f4", "<f8")):
        for part in np.array_split(between * (1 + nudge), 16):
            buffer, form, ppg, ecg = make_file("packed", np.stack([part, part])[:, None], np.dtype(dtype))
            assert_same(buffer, form, len(part), ppg, ecg, True)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_layout_and_any_bits(data):
    """Both readers give the same for any bytes."""
    n, L = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 80))
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    kind = data.draw(st.sampled_from(["packed", "tpe", "tep", "pe", "etp", "xxpex"]))
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    stride, ppg, ecg, size = layout(kind, n, L, dtype)
    if data.draw(st.booleans()):
        buffer = rng.integers(0, 256, size, np.uint8)  # NaN, infinities, subnormal numbers
    else:
        buffer = rng.choice([-1.5, 0.0, -0.0, 1.0, 6e-8, 60000.0], size // dtype.itemsize).astype(dtype).view(np.uint8)
    order = rng.permutation(n)
    draws = {"seed": seed, "epoch": n, "items": order.astype(np.int64)} if data.draw(st.booleans()) else None
    half = data.draw(st.booleans())
    assert_same(buffer, MapFormat(dtype, stride), L, ppg[order], ecg[order], half, draws, data.draw(st.integers(1, 3)))


def test_arguments_are_checked():
    buffer, form, ppg, ecg = make_file("pe", np.random.default_rng(5).normal(size=(2, 2, 10)), np.dtype("<f2"))
    gather = make_gather([buffer], [form], 10, "cpu")
    out = np.zeros((2, 2, 10), np.float32)
    files = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="ppg_out: expected shape"):
        gather.gather(files, ppg, ecg, out[0, :1], out[1], True, 1)
    with pytest.raises(ValueError, match="file, ppg, ecg: expected as many"):
        gather.gather(files[:1], ppg, ecg, *out, True, 1)
    with pytest.raises(TypeError):
        gather.gather(files, ppg, ecg, out[0].astype(np.float64), out[1], True, 1)
    assert gather.gather(files + 1, ppg, ecg, *out, True, 1).tolist() == [problems.OUTSIDE] * 2
    with pytest.raises(ValueError, match="impl: expected"):
        make_gather([buffer], [form], 10, "fast")


def test_numpy_is_the_reader_where_cpp_is_not_built(monkeypatch):
    from xmae_fast.data import gather

    monkeypatch.setattr(gather, "_C_io", None)
    monkeypatch.setattr(gather, "_WHY_NOT", "no compiler", raising=False)
    assert isinstance(gather.make_gather([], [], 10), NumpyGather)
    assert gather.reader_name() == "NumPy (the C++ reader is not built: no compiler)"
    with pytest.raises(RuntimeError, match="no compiler"):
        gather.make_gather([], [], 10, "cpu")
