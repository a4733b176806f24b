import time
from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_fast.recordings.dates import moved
from xmae_fast.recordings.times import TimeColumn, find_time_columns

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
STEPS = np.arange(0, 3_000_000, 8000)  # us of 375 rows, 125 Hz


def read(*columns, names=("time",), day_first=None, fs=None, chunk=100):
    column = TimeColumn(names, day_first)
    for k in range(0, len(columns[0]), chunk):
        column.add(*(values[k : k + chunk] for values in columns))
    return column.finish(fs)


def stamps(begin="2024-02-05T10:11:12.5", steps=STEPS):
    return pandas.Series(pandas.Timestamp(begin) + pandas.to_timedelta(steps, unit="us"))


def check(times, start, steps=STEPS):
    np.testing.assert_allclose(times.seconds, steps / 1e6, atol=2e-6)
    assert times.start == start


FORMATS = [
    ("%Y-%m-%d %H:%M:%S.%f", None),
    ("%Y-%m-%dT%H:%M:%S,%fZ", "+00:00"),
    ("%Y-%m-%dT%H:%M:%S.%f+0530", "+05:30"),
    ("%Y/%m/%d %H:%M:%S.%f-08:00", "-08:00"),
    ("%Y.%m.%d %H:%M:%S.%f", None),
    ("%d.%m.%Y %H:%M:%S.%f", None),
    ("%m/%d/%Y %I:%M:%S.%f %p", None),
    ("%d-%b-%Y %H:%M:%S.%f", None),
    ("%b %d, %Y %H:%M:%S.%f", None),
    ("[%H:%M:%S.%f %d/%m/%Y]", None),
    ("'%H:%M:%S.%f %d.%m.%y'", None),
    ("%Y%m%d%H%M%S.%f", None),
    ("%Y%m%dT%H%M%S%fZ", "+00:00"),
    ('"%Y%m%d %H:%M:%S:%f"', None),
]


def ambiguous(moment, form):
    """Whether a date of the year 2005 or later has several readings; PhysioBank's brackets have the day first."""
    if form[0] == "[" or not ("%d.%m" in form or "/%y" in form.lower()):
        return False
    return moment.day <= 12 and moment.day != moment.month


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.integers(0, 20 * 365 * 86400),
    st.sampled_from([10, 50, 375]),
    st.booleans(),
)
def test_dates_as_people_write_them(form, second, chunk, mixed):
    """A date is read rightly, or refused as ambiguous; it is never read wrongly."""
    moments = stamps(pandas.Timestamp("2005-01-01") + pandas.Timedelta(seconds=second))
    texts = moments.dt.strftime(form[0])
    if mixed and form[0].endswith("%S.%f"):
        texts = texts.str.replace(".000000", "", regex=False)  # as pandas writes whole seconds
    start = moments[0].isoformat() + (form[1] or "")
    day_first = None
    if ambiguous(moments[0], form[0]):
        with pytest.raises(ValueError, match="--day-first or --month-first says which"):
            read(texts, chunk=chunk)
        day_first = form[0].find("%d") < form[0].find("%m")
    times = read(texts, day_first=day_first, chunk=chunk)
    check(times, start)


@settings(max_examples=100, deadline=None)
@given(st.dates(date(2000, 1, 1), date(2060, 1, 1)), st.booleans(), st.integers(1, 3), st.sampled_from(["%Y", "%y"]))
def test_midnight_tells_the_order(day, day_first, days, year):
    """Of two readings, the one that moves on by seconds over midnight; or none."""
    moments = pandas.Series(
        pandas.date_range(pandas.Timestamp(day) - timedelta(seconds=5), periods=days * 86400, freq="1s")
    )
    moments = moments[(moments.dt.hour * 60 + moments.dt.minute).isin([0, 1439])]
    texts = moments.dt.strftime(f"%d/%m/{year} %H:%M:%S" if day_first else f"%m/%d/{year} %H:%M:%S")
    times = read(texts, chunk=1000)
    assert times.start == moments.iloc[0].isoformat()
    np.testing.assert_allclose(times.seconds, (moments - moments.iloc[0]).dt.total_seconds())


def test_ambiguous_dates():
    texts = stamps("2024-02-05").dt.strftime("%d/%m/%Y %H:%M:%S.%f")
    with pytest.raises(ValueError, match=r"'05/02/2024' in column 'time' may be 2024-02-05 or 2024-05-02; --day-first"):
        read(texts)
    check(read(texts, day_first=True), "2024-02-05T00:00:00")
    check(read(texts, day_first=False), "2024-05-02T00:00:00")
    check(read(stamps("2024-05-05").dt.strftime("%d/%m/%Y %H:%M:%S.%f")), "2024-05-05T00:00:00")
    late = stamps("2024-02-25").dt.strftime("%d/%m/%Y %H:%M:%S.%f")
    check(read(late), "2024-02-25T00:00:00")
    with pytest.raises(
        ValueError, match="'25/02/2024', which is no date with the month first; --day-first may be meant"
    ):
        read(late, day_first=False)
    far = pandas.concat([stamps("2024-02-05"), stamps("2024-02-07")]).dt.strftime("%d/%m/%Y %H:%M:%S.%f")
    with pytest.raises(ValueError, match="--day-first or --month-first"):  # a gap of days or of months
        read(far)
    with pytest.raises(ValueError, match="do not exist in any one order"):
        read(pandas.Series(["13/02/2024 10:00:00", "02/13/2024 10:00:01"]))


def test_daylight_saving():
    """Offsets change within the recording; seconds go on."""
    moments = pandas.date_range("2024-10-27T00:59:50", periods=2000, freq="10ms", tz="UTC").tz_convert("Europe/Berlin")
    texts = pandas.Series([moment.isoformat() for moment in moments])
    assert len(set(texts.str[-6:])) == 2
    times = read(texts)
    np.testing.assert_allclose(times.seconds, np.arange(2000) / 100, atol=1e-9)
    assert times.start == "2024-10-27T02:59:50+02:00"
    times = read(pandas.Series(moments))
    np.testing.assert_allclose(times.seconds, np.arange(2000) / 100, atol=1e-9)
    assert times.start == "2024-10-27T02:59:50+02:00"


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("text", [False, True])
def test_unix_time(unit, text):
    whole = pandas.Series(stamps("2023-11-14T22:13:20").to_numpy().astype("datetime64[ns]").astype(np.int64))
    values = whole / 1e9 if unit == "s" else whole // {"ms": 10**6, "us": 1000, "ns": 1}[unit]
    times = read(values.astype(str) if text else values, names=["timestamp"])
    check(times, "2023-11-14T22:13:20+00:00")
    assert f"Unix time in {unit}" in times.notes[0]
    named = read(values, names=[f"timestamp_{unit}"])
    check(named, "2023-11-14T22:13:20+00:00")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["s", "ms", "us", "ns", "min"]), st.floats(17, 1000), st.booleans(), st.integers(0, 99))
def test_units_of_numbers(unit, fs, named, seed):
    noise = np.random.default_rng(seed)
    fs = max(fs, 90) if unit == "min" else fs  # a slower one may be a fast one in seconds
    t = np.arange(2000) + noise.normal(0, 0.2, 2000)
    t = np.sort(np.delete(t, slice(500, 500 + seed)) + (seed if seed % 2 else 0)) / fs
    values = t / {"s": 1, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60}[unit]
    if unit in ("us", "ns"):
        values = np.round(values)
    times = read(values, names=[f"Time [{unit}]" if named else "time"])
    np.testing.assert_allclose(times.seconds, t - t[0], atol=1e-5, rtol=1e-9)
    assert times.start == ""
    assert bool(times.notes) == (unit != "s" and not named)


def test_no_plausible_unit():
    with pytest.raises(
        ValueError, match=r"no unit .* \(8 Hz in s, 8000 Hz in ms, 8e\+06 Hz in us, .* in min\); --time"
    ):
        read(np.arange(1000) / 8)
    assert "names s, which gives 8 samples per second" in read(np.arange(1000) / 8, names=["time_s"]).notes[0]


def test_counted_samples():
    counter = np.arange(5, 1005)
    gap = np.delete(counter, slice(100, 150))
    for values in (counter, pandas.Series(counter.astype(str)), counter.astype(float)):
        with pytest.raises(ValueError, match="column 'time' counts samples and does not tell their rate; --fs HZ"):
            read(values)
        np.testing.assert_allclose(read(values, fs=125).seconds, np.arange(1000) / 125)
    np.testing.assert_allclose(read(gap, fs=125, names=["sample"]).seconds, (gap - 5) / 125)
    times = read(counter % 256, fs=125, names=["sample_number"])
    np.testing.assert_allclose(times.seconds, np.arange(1000) / 125)
    assert "starts again 3 times after 256 samples" in times.notes[0]
    np.testing.assert_allclose(read(counter, names=["time_ms"]).seconds, np.arange(1000) / 1000)


def clock(t, form):
    h, m, s = int(t // 3600), int(t % 3600 // 60), t % 60
    if form == "12":
        return f"{(h % 24 + 11) % 12 + 1}:{m:02d}:{s:06.3f} {'AM' if h % 24 < 12 else 'PM'}"
    if form == "atm":
        return f"'{h}:{m:02d}:{s:06.3f}'" if h else f"'{m}:{s:06.3f}'"
    return {
        "24": f"{h % 24:02d}:{m:02d}:{s:06.3f}",
        "ms": f"{m:02d}:{s:04.1f}",
        "days": f"{h // 24} days {h % 24:02d}:{m:02d}:{s:09.6f}",
    }[form]


@pytest.mark.parametrize("form", ["24", "12", "atm", "ms", "days"])
@pytest.mark.parametrize("begin", [0, 3590, 86390, 12 * 3600 - 5])
def test_times_of_day(form, begin):
    """Times of day have no date, and go on after midnight or a full hour."""
    t = begin + np.arange(400) / 10
    times = read(pandas.Series([clock(round(x, 1), form) for x in t]))
    np.testing.assert_allclose(times.seconds, np.arange(400) / 10, atol=1e-6)
    assert times.start == ""


@pytest.mark.parametrize("dates", ["%Y-%m-%d", "%d.%m.%Y", "%Y%m%d", "numbers", "datetimes"])
def test_a_date_column(dates):
    moments = stamps("2024-02-25T23:59:59")
    first = moments.dt.normalize()
    if dates == "numbers":
        first = moments.dt.strftime("%Y%m%d").astype(int)
    elif dates != "datetimes":
        first = moments.dt.strftime(dates)
    texts = moments.dt.strftime("%H:%M:%S.%f")
    check(read(first, texts, names=["date", "time"]), "2024-02-25T23:59:59")
    check(read(first, pandas.Series(list(moments.dt.time)), names=["date", "time"]), "2024-02-25T23:59:59")
    if dates != "datetimes":
        same = pandas.Series([first[0]] * len(first))
        times = read(same, texts, names=["date", "time"])
        check(times, "2024-02-25T23:59:59")
        assert "stays after midnight" in times.notes[0]


def test_pandas_types_and_decimal_commas():
    check(read(stamps()), "2024-02-05T10:11:12.500000")
    check(read(stamps().astype("datetime64[ms]")), "2024-02-05T10:11:12.500000")
    check(read(pandas.Series(pandas.to_timedelta(STEPS + 7_000_000, unit="us"))), "")
    check(read(pandas.Series(list(stamps()), dtype=object)), "2024-02-05T10:11:12.500000")
    comma = pandas.Series([f" {x / 1e6:.3f}".replace(".", ",") for x in STEPS])
    check(read(comma), "")
    holes = pandas.Series(STEPS / 1e6).astype("Float64")
    holes[7] = pandas.NA
    assert np.flatnonzero(np.isnan(read(holes).seconds)).tolist() == [7]


def test_start_of_the_earliest_row():
    assert moved("2024-02-05T10:11:12.500000+01:00", -13.25) == "2024-02-05T10:10:59.250000+01:00"
    assert moved("2024-02-05T10:11:12", 0.0) == "2024-02-05T10:11:12"
    assert moved("", 5) == ""


def test_what_is_no_time():
    texts = stamps().dt.strftime("%Y-%m-%d %H:%M:%S.%f")
    with pytest.raises(ValueError, match="row 102 of column 'time' holds 'lost', which is not understood"):
        read(pandas.concat([texts[:101], pandas.Series(["lost"]), texts[101:]]))
    with pytest.raises(ValueError, match="column 'time' has no rows"):
        TimeColumn(["time"]).finish()
    with pytest.raises(ValueError, match="some rows of column 'time' have a date"):
        read(pandas.Series(["2024-02-05 10:00:00", "10:00:01"]))
    column = TimeColumn(["time"])
    column.add(np.arange(10))
    column.add(texts)
    with pytest.raises(ValueError, match="numbers and texts"):
        column.finish()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="time zones of processes need tzset")
def test_neither_time_zone_nor_today_matter(monkeypatch):
    forms = ["%H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%d/%m/%y %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S.%f+01:00"]
    columns = [stamps().dt.strftime(form) for form in forms]
    columns += [stamps().to_numpy().astype("datetime64[ns]").astype(np.int64)]

    def results():
        return [(times.seconds.tolist(), times.start) for times in (read(c, day_first=True) for c in columns)]

    found = []
    try:
        for zone in ("UTC", "America/New_York", "Asia/Kathmandu"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            found.append(results())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found[0] == found[1] == found[2]
    assert [start for _, start in found[0]] == [
        "",
        "2024-02-05T10:11:12.500000",
        "2024-02-05T10:11:12.500000",
        "2024-02-05T10:11:12.500000+01:00",
        "2024-02-05T10:11:12.500000+00:00",
    ]


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["time", "PPG"], [0]),
        (["PPG", "Time [s]"], [1]),
        (["x", "time_us", "PPG"], [1]),
        (["unix_time", "PPG"], [0]),
        (["LocalTimestamp", "PPG"], [0]),
        (["'Elapsed time'", "PLETH"], [0]),
        (["Date", "Time", "PPG"], [0, 1]),
        (["time", "datetime", "PPG"], [1]),
        (["index", "elapsed (ms)", "PPG"], [1]),
        (["sample", "PPG"], [0]),
        (["Sample Number", "PPG"], [0]),
        (["Phone timestamp", "sensor timestamp [ns]", "ecg [uV]"], [1]),
        (["seconds", "PPG"], [0]),
        (["date", "PPG"], [0]),
        (["Shimmer_5A_Timestamp_Unix_CAL", "PPG"], [0]),
        (["PPG", "ECG", "pulse_transit_time", "sampling"], []),
        (["lifetime", "s", "S", "ms"], []),
    ],
)
def test_names_of_times(names, columns):
    assert find_time_columns(names) == columns
