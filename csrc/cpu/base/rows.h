// What both sublayers do with rows of tokens: LayerNorm, products with packed weights, sums over rows in a fixed order,
// and the split of the work: groups of rows go through a whole sublayer while their activations stay in the L2 cache.
#pragma once

#include "cpu/base/blocks.h"
#include "cpu/base/outer.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t kGroupRows = 72;   // the hidden layer of a group: 300 kB for F = 1024
constexpr int64_t kThreadRows = 24;  // fewer rows to a thread: better to split columns than to read all weights twice

struct Moments {
  float mean, rstd;
};

// Of one row [D]. The mean is corrected by the mean distance from it: in a row that hardly varies its rounding would be many
// standard deviations.
XMAE_INLINE Moments moments(const float* x, int64_t D) {
  const int64_t whole = D / W * W;
  Vec total{}, distances{}, squares{};
  float rest = 0, rest_distances = 0, rest_squares = 0;
  for (int64_t c = 0; c < whole; c += W) total += load(x + c);
  for (int64_t c = whole; c < D; ++c) rest += x[c];
  const float about = (sum(total) + rest) / static_cast<float>(D);
  for (int64_t c = 0; c < whole; c += W) {
    const Vec centred = load(x + c) - about;
    distances += centred;
    squares += centred * centred;
  }
  for (int64_t c = whole; c < D; ++c) {
    rest_distances += x[c] - about;
    rest_squares += (x[c] - about) * (x[c] - about);
  }
  const float shift = (sum(distances) + rest_distances) / static_cast<float>(D);
  const float var = (sum(squares) + rest_squares) / static_cast<float>(D) - shift * shift;
  return {about + shift, 1.0f / __builtin_sqrtf((var > 0.0f ? var : 0.0f) + kNormEps)};
}

// LayerNorm of one row: x [D] -> out [D].
XMAE_INLINE void normalise_row(const float* x, const Moments& m, const Norm& norm, int64_t D, float* out) {
  const int64_t whole = D / W * W;
  for (int64_t c = 0; c < whole; c += W) {
    store(out + c, (load(x + c) - m.mean) * m.rstd * load(norm.weight + c) + load(norm.bias + c));
  }
  for (int64_t c = whole; c < D; ++c) out[c] = (x[c] - m.mean) * m.rstd * norm.weight[c] + norm.bias[c];
}

// x [rows, D] -> out [rows, D] (rows `stride` apart); stats [rows, 2] or null.
inline void normalise(
    const float* x, const Norm& norm, int64_t rows, int64_t D, float* out, int64_t stride, float* stats) {
  for (int64_t row = 0; row < rows; ++row) {
    const Moments m = moments(x + row * D, D);
    normalise_row(x + row * D, m, norm, D, out + row * stride);
    if (stats != nullptr) {
      stats[2 * row] = m.mean;
      stats[2 * row + 1] = m.rstd;
    }
  }
}

// Backward of LayerNorm for one row. With h = (x - mean) rstd and g = dn weight:
// dx = residual + rstd (g - mean(g) - h mean(g h)), dweight += dn h, dbias += dn; dx and residual may be null. g takes
// the place of dn: multiplied anew it could be fused with the subtraction, and for D = 1 g - mean(g) would not vanish.
inline void norm_gradient_row(
    const float* x, const float* stats, const float* weight, float* dn, int64_t D, const float* residual, float* dx,
    float* dweight, float* dbias) {
  const float mean = stats[0], rstd = stats[1], share = 1.0f / static_cast<float>(D);
  const int64_t whole = D / W * W;
  Vec sums{}, products{};
  float sum_g = 0, sum_gh = 0;
  for (int64_t c = 0; c < whole; c += W) {
    const Vec h = (load(x + c) - mean) * rstd, d = load(dn + c), g = d * load(weight + c);
    sums += g;
    products += g * h;
    store(dn + c, g);
    store(dweight + c, load(dweight + c) + d * h);
    store(dbias + c, load(dbias + c) + d);
  }
  for (int64_t c = whole; c < D; ++c) {
    const float h = (x[c] - mean) * rstd, d = dn[c], g = d * weight[c];
    sum_g += g;
    sum_gh += g * h;
    dn[c] = g;
    dweight[c] += d * h;
    dbias[c] += d;
  }
  if (dx == nullptr) return;
  const float mean_g = (sum_g + sum(sums)) * share, mean_gh = (sum_gh + sum(products)) * share;
  for (int64_t c = 0; c < whole; c += W) {
    const Vec h = (load(x + c) - mean) * rstd;
    const Vec through = rstd * (load(dn + c) - mean_g - h * mean_gh);
    store(dx + c, residual != nullptr ? load(residual + c) + through : through);
  }
  for (int64_t c = whole; c < D; ++c) {
    const float h = (x[c] - mean) * rstd;
    const float through = rstd * (dn[c] - mean_g - h * mean_gh);
    dx[c] = residual != nullptr ? residual[c] + through : through;
  }
}

// out [columns] = sum of the rows of a, kSumRows at a time and then over those sums, always in the same order.
inline void sum_rows(const float* a, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; c += W) {
    const int64_t count = columns - c < W ? columns - c : W;
    Vec total{};
    for (int64_t first = 0; first < rows; first += kSumRows) {
      const int64_t end = first + kSumRows < rows ? first + kSumRows : rows;
      Vec part{};
      for (int64_t row = first; row < end; ++row) part += load_some(a + row * stride + c, count);
      total += part;
    }
    store_some(out + c, total, count);
  }
}

// The part of a row of some [., columns] matrix that a finished row of a product meets.
XMAE_INLINE void load_row(const float* row, const RowOut& at, Vec& v0, Vec& v1) {
  v0 = load_some(row + at.column, at.count);
  v1 = at.count > W ? load_some(row + at.column + W, at.count - W) : Vec{};
}

// A view of an epilogue, without ownership. All products below share one instantiation of `multiply` through it:
// inlined into every row of every tile height, each epilogue would be compiled 78 times (minutes in all), and behind 256
// steps a call costs nothing.
class RowFunction {
 public:
  template <typename F>
  explicit RowFunction(const F& f) : object_(&f), call_(&call<F>) {}
  void operator()(const RowOut& at, Vec v0, Vec v1) const { call_(object_, at, v0, v1); }

 private:
  template <typename F>  // no lambda: GCC compiles its conversion to a pointer without this file's instruction set
  static void call(const void* object, const RowOut& at, Vec v0, Vec v1) {
    (*static_cast<const F*>(object))(at, v0, v1);
  }
  const void* object_;
  void (*call_)(const void*, const RowOut&, Vec, Vec);
};

inline void multiply_panels(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, int64_t first, int64_t last,
    const RowFunction& epilogue) {
  multiply(a, stride, matrix, 0, rows, first, last, epilogue);
}

// A B for all rows; by columns on several threads where no parallel loop runs yet. epilogue as in `multiply`.
template <typename Epilogue>
XMAE_INLINE void product(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, const Epilogue& epilogue) {
  parallel(matrix.panels.size(), 1, [&](int64_t first, int64_t last) {
    multiply_panels(a, stride, matrix, rows, first, last, RowFunction(epilogue));
  });
}

// out [rows, matrix.columns] (rows out_stride apart) = A B.
inline void product_into(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, float* out, int64_t out_stride) {
  product(a, stride, matrix, rows, [&](const RowOut& at, Vec v0, Vec v1) { store_row(out, out_stride, at, v0, v1); });
}

// out [M, N] = A^T B, a thread owning whole rows of out.
inline void outer(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t M, int64_t N,
    float* out) {
  parallel((M + kRows - 1) / kRows, 1, [&](int64_t first, int64_t last) {
    const int64_t from = first * kRows, to = last * kRows < M ? last * kRows : M;
    std::memset(out + from * N, 0, (to - from) * N * sizeof(float));
    add_outer(a + from, a_stride, b, b_stride, rows, to - from, N, out + from * N, N);
  });
}

// body(first, count): units of `rows_each` rows in groups. Groups in parallel; where there are too few for all threads,
// one after the other, and `body` splits them by columns and heads. A result must not depend on its group.
template <typename Body>
XMAE_INLINE void over_groups(int64_t units, int64_t rows_each, const Body& body) {
  const int64_t threads = num_threads();
  const int64_t most = rows_each == 0 ? units : rows_each < kGroupRows ? kGroupRows / rows_each : 1;
  const auto in_groups = [&](int64_t begin, int64_t end) {
    const int64_t groups = (end - begin + most - 1) / most;
    for (int64_t g = 0; g < groups; ++g) {  // of nearly equal size
      const int64_t from = begin + (end - begin) * g / groups, to = begin + (end - begin) * (g + 1) / groups;
      body(from, to - from);
    }
  };
  int64_t together = rows_each == 1 ? units : units - units % threads;  // the rest would leave threads idle
  if (units * rows_each < kThreadRows * threads) together = 0;
  parallel(together, 1, in_groups);
  if (together < units) in_groups(together, units);
}

}  // namespace xmae_fast::XMAE_ISA
