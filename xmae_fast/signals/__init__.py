"""Operations on recorded PPG and ECG, many segments at once.

`clean` fills gaps, filters, resamples and scales; `beats` finds beats and judges the quality. Both compute what
neurokit2 0.2.13 computes segment by segment. They need SciPy, which they import where they use it. They import neither
torch nor other parts of the package, so that processes that prepare recordings start quickly.
"""
