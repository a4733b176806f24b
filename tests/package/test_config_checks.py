"""Checks that the configurations of model, training and simulator share."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from xmae_fast._config_checks import between, check_all, did_you_mean, nearest, one_of, positive, refuse_unknown, whole


@pytest.mark.parametrize(
    ("check", "fitting", "others"),
    [
        (whole(2), (2, 7), (1, 2.0, True, None, "2", np.float64(3))),
        (whole(0, none=True), (0, None), (-1, False)),
        (between(0, 0.5), (0, 0.5, np.float64(0.25)), (-0.1, 0.6, math.nan, True, None, "0.1")),
        (positive(), (1, 1e-9), (0, -1, math.inf, math.nan, True, None)),
        (positive(none=True), (None, 2), (0,)),
        (one_of(True, None, "blocks"), (True, None, "blocks"), (1, False, "Blocks", 0)),
    ],
)
def test_what_fits(check, fitting, others):
    fits, _ = check
    assert all(fits(value) for value in fitting)
    assert not any(fits(value) for value in others)


def test_errors_name_key_expected_and_got():
    checks = {"rate": between(0, 2000), "mode": one_of("a", None), "rows": whole(1, none=True)}
    check_all(checks, SimpleNamespace(rate=2000, mode=None, rows=None))
    for wrong, message in (
        ({"rate": 3000}, r"Cfg\.rate: expected a number in \[0, 2000\], got 3000"),
        ({"mode": "b"}, r"Cfg\.mode: expected one of 'a', null, got 'b'"),
        ({"rows": 0}, r"Cfg\.rows: expected a whole number >= 1 or null, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_all(checks, SimpleNamespace(**({"rate": 1, "mode": "a", "rows": 1} | wrong)), "Cfg.")


def test_the_nearest_name_is_proposed():
    known = ["batch_size", "patience"]
    assert nearest("bach_size", known) == "batch_size"
    assert nearest("zzz", known) is None
    assert did_you_mean("zzz", known) == ""
    with pytest.raises(ValueError, match=r"cfg: unknown key 'bach_size' \(did you mean 'batch_size'\?\)"):
        refuse_unknown({"patience": 1, "bach_size": 2}, known, "cfg")
    with pytest.raises(ValueError, match="cfg: unknown key 'zzz'; known keys are batch_size, patience"):
        refuse_unknown(["zzz"], known, "cfg")
    with pytest.raises(ValueError, match="did you mean 'other_name'"):
        refuse_unknown(["othr_name"], known, "cfg", [*known, "other_name"])
    refuse_unknown([], known, "cfg")
