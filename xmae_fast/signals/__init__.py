"""Recorded PPG and ECG, many segments at once: `clean` (filling, filters, resampling, scaling), `beats` (and quality).

Both repeat neurokit2 0.2.13, which works segment by segment. They need SciPy, and import it where it is used; they know
neither torch nor any other part of the package, so that processes that prepare recordings start quickly.
"""
