// The operations on rows of tokens that both sublayers of a block use: LayerNorm, products with packed weights, and
// sums over rows in a fixed order. Also divides the work: a group of rows passes through a whole sublayer while its
// activations stay in the second-level cache.
#pragma once

#include <type_traits>

#include "cpu/base/blocks.h"
#include "cpu/base/outer.h"

namespace xmae_fast::XMAE_ISA {

// With fewer rows for each thread it is faster to divide columns than to read all weights in every thread.
constexpr int64_t kThreadRows = 24;

struct Moments {
  float mean, rstd;
};

// Returns mean and 1 / standard deviation of x [D]. The mean is corrected by the mean distance from it, because in a
// row that hardly varies its rounding would be many standard deviations.
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

// Applies LayerNorm to one row: x [D] -> out [D].
XMAE_INLINE void normalise_row(const float* x, const Moments& m, const Norm& norm, int64_t D, float* out) {
  const int64_t whole = D / W * W;
  for (int64_t c = 0; c < whole; c += W) {
    store(out + c, (load(x + c) - m.mean) * m.rstd * load(norm.weight + c) + load(norm.bias + c));
  }
  for (int64_t c = whole; c < D; ++c) out[c] = (x[c] - m.mean) * m.rstd * norm.weight[c] + norm.bias[c];
}

// Applies LayerNorm: x [rows, D] -> out [rows, D], whose rows lie `stride` apart, and stats [rows, 2] (mean, 1 /
// standard deviation) unless null. Rows of bfloat16 numbers get zeros up to a whole panel.
template <typename Math>
void normalise(
    const float* x, const Norm& norm, int64_t rows, int64_t D, typename Math::Number* out, int64_t stride,
    float* stats) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * D;
    const Moments m = moments(from, D);
    if constexpr (std::is_same_v<typename Math::Number, float>) {
      normalise_row(from, m, norm, D, out + row * stride);
    } else {
      const auto normalised = [&](int64_t c) {
        const Vec centred = (load_some(from + c, D - c) - m.mean) * m.rstd;
        return centred * load_some(norm.weight + c, D - c) + load_some(norm.bias + c, D - c);
      };
      for (int64_t c = 0; c < D; c += 2 * W) {
        Math::store(out, stride, {row, c, 2 * W}, normalised(c), c + W < D ? normalised(c + W) : Vec{});
      }
    }
    if (stats != nullptr) {
      stats[2 * row] = m.mean;
      stats[2 * row + 1] = m.rstd;
    }
  }
}

// Rounds a [rows, D], whose rows lie `stride` apart, to the numbers of Math in out [rows, D], with zeros after each row
// up to a whole panel.
template <typename Math>
void round_rows(
    const float* a, int64_t stride, int64_t rows, int64_t D, typename Math::Number* out, int64_t out_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < D; c += 2 * W) {
      const float* from = a + row * stride + c;
      const Vec v1 = D - c > W ? load_some(from + W, D - c - W) : Vec{};
      Math::store(out, out_stride, {row, c, 2 * W}, load_some(from, D - c), v1);
    }
  }
}

// The backward of LayerNorm for one row. With h = (x - mean) rstd and g = dn weight:
//   dx = residual + rstd (g - mean(g) - h mean(g h)), dweight += dn h, dbias += dn
// All are [D]; dx and residual may be null. g is stored over dn: if it were multiplied again, the compiler could fuse
// the product with the subtraction, and for D = 1 g - mean(g) would not be 0.
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

// Sums a [rows, columns], whose rows lie `stride` apart, over the rows to out [columns]: kSumRows rows at a time and
// then those sums, always in the same order.
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

// Loads the numbers of a row [columns] that have the same columns as a finished row of a product.
XMAE_INLINE void load_row(const float* row, const RowOut& at, Vec& v0, Vec& v1) {
  v0 = load_some(row + at.column, at.count);
  v1 = at.count > W ? load_some(row + at.column + W, at.count - W) : Vec{};
}

// Refers to an epilogue without owning it, so that all products below share one instantiation of `multiply`. An
// epilogue that is inlined into every row of every tile height would be compiled 78 times, which takes minutes in all;
// after the 256 steps of a row one call costs nothing that can be measured.
class RowFunction {
 public:
  template <typename F>
  explicit RowFunction(const F& f) : object_(&f), call_(&call<F>) {}
  void operator()(const RowOut& at, Vec v0, Vec v1) const { call_(object_, at, v0, v1); }

 private:
  // This is no lambda, because GCC compiles a lambda's conversion to a pointer without this file's instruction set.
  template <typename F>
  static void call(const void* object, const RowOut& at, Vec v0, Vec v1) {
    (*static_cast<const F*>(object))(at, v0, v1);
  }
  const void* object_;
  void (*call_)(const void*, const RowOut&, Vec, Vec);
};

// Computes panels [first, last) of A B for all rows.
inline void multiply_any_panels(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, int64_t first, int64_t last,
    const RowFunction& epilogue) {
  multiply(a, stride, matrix, 0, rows, first, last, epilogue);
}
template <typename Epilogue>
XMAE_INLINE void multiply_panels(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, int64_t first, int64_t last,
    const Epilogue& epilogue) {
  multiply_any_panels(a, stride, matrix, rows, first, last, RowFunction(epilogue));
}

// The same in bfloat16. Here the epilogue is inlined: it is compiled twice, and takes as long as the products.
template <typename Number, typename Matrix, typename Epilogue>
XMAE_INLINE void multiply_panels(
    const Number* a, int64_t stride, const Matrix& matrix, int64_t rows, int64_t first, int64_t last,
    const Epilogue& epilogue) {
  multiply(a, stride, matrix, 0, rows, first, last, epilogue);
}

// Computes A B for all rows. Outside of a parallel loop it divides the columns among threads. epilogue: as in
// `multiply`.
template <typename Number, typename Matrix, typename Epilogue>
XMAE_INLINE void product(
    const Number* a, int64_t stride, const Matrix& matrix, int64_t rows, const Epilogue& epilogue) {
  parallel(matrix.panels.size(), 1, [&](int64_t first, int64_t last) {
    multiply_panels(a, stride, matrix, rows, first, last, epilogue);
  });
}

// out [rows, matrix.columns] = A B for a [rows, steps], whose rows lie stride and out_stride apart.
inline void product_into(
    const float* a, int64_t stride, const PackedMatrix& matrix, int64_t rows, float* out, int64_t out_stride) {
  product(a, stride, matrix, rows, [&](const RowOut& at, Vec v0, Vec v1) { store_row(out, out_stride, at, v0, v1); });
}

// out [M, N] = A^T B for a [rows, M] and b [rows, N]. A thread computes whole rows of out.
inline void outer(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t M, int64_t N,
    float* out) {
  const int64_t most = tile_rows();
  parallel((M + most - 1) / most, 1, [&](int64_t first, int64_t last) {
    const int64_t from = first * most, to = last * most < M ? last * most : M;
    std::memset(out + from * N, 0, (to - from) * N * sizeof(float));
    add_outer(a + from, a_stride, b, b_stride, rows, to - from, N, out + from * N, N);
  });
}

// Calls body(first, count) for groups that make up `units` units of rows_each rows. Groups run in parallel. Where there
// are too few of them for all threads they run one after another, and `body` divides its work by columns and heads. A
// unit's result must not depend on which group it is in.
template <typename Math, typename Body>
XMAE_INLINE void over_groups(int64_t units, int64_t rows_each, const Body& body) {
  const int64_t threads = num_threads();
  const int64_t most = rows_each == 0 ? units : rows_each < Math::kGroupRows ? Math::kGroupRows / rows_each : 1;
  const auto in_groups = [&](int64_t begin, int64_t end) {
    const int64_t groups = (end - begin + most - 1) / most;
    for (int64_t g = 0; g < groups; ++g) {  // groups have nearly equal sizes
      const int64_t from = begin + (end - begin) * g / groups, to = begin + (end - begin) * (g + 1) / groups;
      body(from, to - from);
    }
  };
  int64_t together = rows_each == 1 ? units : units - units % threads;  // the remaining units would leave threads idle
  if (units * rows_each < kThreadRows * threads) together = 0;
  parallel(together, 1, in_groups);
  if (together < units) in_groups(together, units);
}

}  // namespace xmae_fast::XMAE_ISA
