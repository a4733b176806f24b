// Attention of one head of one sample, forward and backward. xmae_fast/ops/lag_attention/README.md has the definition
// and the derivation. Scores are computed transposed, [key, query], for a panel of P queries at a time. Queries are in
// the lanes of the vectors, so that softmax sums from vector to vector and never within a vector.
#pragma once

#include "cpu/base/dropout.h"
#include "cpu/base/gemm.h"

namespace xmae_fast::XMAE_ISA {

constexpr int64_t P = kPanelVectors * W;  // queries of a panel

// One head of one sample. Rows of q are q_stride apart, those of k and v kv_stride.
struct Head {
  const float *q, *k, *v;  // [Nq, d], [Nk, d], [Nk, d]
  int64_t q_stride, kv_stride, Nq, Nk, d;
  float scale;                         // 1 / sqrt(d)
  const float* table;                  // [2 N - 1]: biases by lag; or null
  int64_t zero;                        // N - 1, the table's column for lag 0
  const int64_t *query_pos, *key_pos;  // [Nq], [Nk]
  const Dropout* dropout;
  int64_t row;  // row of the dropout's mask: sample * H + head
};

// The arguments of the backward of a head. Rows of q lie q_stride apart, those of k and v kv_stride.
struct HeadGradient {
  const float* context;  // [Nq, d]: gradient of the context
  int64_t context_stride;
  float *q, *k, *v;  // [Nq, d], [Nk, d], [Nk, d]: results
  int64_t q_stride, kv_stride;
  float* table;  // [2 N - 1], added to; or null
};

// The scratch memory of a head. `take` returns the next `count` floats of it.
class HeadScratch {
 public:
  explicit HeadScratch(int64_t count) : at_(scratch(kSlotHead, count)) {}
  float* take(int64_t count) {
    float* p = at_;
    at_ += count;
    return p;
  }

 private:
  float* at_;
};

// Returns `columns` rounded up to whole panels. The other two return how much scratch memory a head takes.
XMAE_INLINE int64_t panel_stride(int64_t columns) { return (columns + P - 1) / P * P; }
inline int64_t head_forward_size(int64_t Nq, int64_t Nk, int64_t d) {
  return d * P + Nk * P + Nk * panel_stride(d) + dropout_stride(Nq * Nk);
}
inline int64_t head_backward_size(int64_t Nq, int64_t Nk, int64_t d) {
  return head_forward_size(Nq, Nk, d) + d * P + 2 * Nk * P + 2 * Nq * panel_stride(d);
}

// Computes R rows and P columns of A B. Element (r, k) of A is a[r * a_stride + k], or a[k * a_stride + r] if `across`.
template <int R, bool across, typename Epilogue>
void small_tile(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t steps, int64_t row,
    const Epilogue& epilogue) {
  Vec acc[R][2] = {};
  for (int64_t k = 0; k < steps; ++k) {
    const Vec b0 = load(b), b1 = load(b + W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec s = broadcast(across ? a[k * a_stride + r] : a[r * a_stride + k]);
      acc[r][0] += s * b0;
      acc[r][1] += s * b1;
    }
    b += b_stride;
  }
  Vec done[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    done[r][0] = acc[r][0];
    done[r][1] = acc[r][1];
  }
#pragma GCC unroll 1  // so that there is one copy of the epilogue, not R copies
  for (int r = 0; r < R; ++r) epilogue(row + r, done[r][0], done[r][1]);
}

// Calls the instantiation of small_tile for `rows` rows, 1 to R.
template <int R, bool across, typename Epilogue>
XMAE_INLINE void small_rows(
    int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t steps, int64_t row,
    const Epilogue& epilogue) {
  if (rows == R) return small_tile<R, across>(a, a_stride, b, b_stride, steps, row, epilogue);
  if constexpr (R > 1) small_rows<R - 1, across>(rows, a, a_stride, b, b_stride, steps, row, epilogue);
}

// Computes A [rows, steps] B [steps, P] and calls epilogue(row, Vec, Vec) with each finished row.
template <bool across, typename Epilogue>
XMAE_INLINE void small_product(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t steps, int64_t rows,
    const Epilogue& epilogue) {
  const int64_t most = tile_rows(), tiles = (rows + most - 1) / most;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t from = rows * t / tiles, to = rows * (t + 1) / tiles;
    const float* tile = a + from * (across ? 1 : a_stride);
    small_rows<kMostRows, across>(to - from, tile, a_stride, b, b_stride, steps, from, epilogue);
  }
}

// out [rows, d] = A B * factor, or += if `add`. Rows of out lie out_stride apart; those of B are padded to whole
// panels.
template <bool across>
XMAE_INLINE void small_matrix(
    const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t steps, int64_t rows, int64_t d,
    float factor, bool add, float* out, int64_t out_stride) {
  for (int64_t c = 0; c < d; c += P) {
    small_product<across>(a, a_stride, b + c, b_stride, steps, rows, [&](int64_t row, Vec v0, Vec v1) {
      float* p = out + row * out_stride + c;
      v0 *= factor;
      v1 *= factor;
      if (add) {
        v0 += load_some(p, d - c);
        v1 += load_some(p + W, d - c - W);
      }
      store_some(p, v0, d - c);
      store_some(p + W, v1, d - c - W);
    });
  }
}

// Returns rows [count, d] that may be read in whole panels: the rows themselves, or a padded copy in `room`.
struct Rows {
  const float* data;
  int64_t stride;
};
XMAE_INLINE Rows whole_panels(const float* rows, int64_t stride, int64_t count, int64_t d, float* room) {
  if (d % P == 0) return {rows, stride};
  const int64_t padded = panel_stride(d);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t c = 0; c < d; ++c) room[row * padded + c] = rows[row * stride + c];
    for (int64_t c = d; c < padded; ++c) room[row * padded + c] = 0.0f;
  }
  return {room, padded};
}

// out [d, P] = rows^T * factor for rows [count, d]; lanes from `count` on are 0.
XMAE_INLINE void into_lanes(const float* rows, int64_t stride, int64_t count, int64_t d, float factor, float* out) {
  for (int64_t lane = 0; lane < P; ++lane) {
    if (lane < count) {
      for (int64_t c = 0; c < d; ++c) out[c * P + lane] = rows[lane * stride + c] * factor;
    } else {
      for (int64_t c = 0; c < d; ++c) out[c * P + lane] = 0.0f;
    }
  }
}

// Applies softmax over the keys to scores [Nk, P], in place. A lane whose scores are all -inf gets zeros.
XMAE_INLINE void softmax(float* scores, int64_t Nk) {
  const Vec lowest = broadcast(-__builtin_inff());
  Vec m0 = lowest, m1 = lowest, sum0{}, sum1{};
  for (int64_t j = 0; j < Nk; ++j) {
    m0 = max(m0, load(scores + j * P));
    m1 = max(m1, load(scores + j * P + W));
  }
  m0 = m0 == lowest ? Vec{} : m0;
  m1 = m1 == lowest ? Vec{} : m1;
  for (int64_t j = 0; j < Nk; ++j) {
    const Vec s0 = load(scores + j * P) - m0, s1 = load(scores + j * P + W) - m1;
    const Vec e0 = s0 < -87.0f ? Vec{} : exp(s0), e1 = s1 < -87.0f ? Vec{} : exp(s1);  // exp(-inf) must be 0, not 1e-38
    sum0 += e0;
    sum1 += e1;
    store(scores + j * P, e0);
    store(scores + j * P + W, e1);
  }
  const Vec share0 = sum0 == 0.0f ? Vec{} : 1.0f / sum0, share1 = sum1 == 0.0f ? Vec{} : 1.0f / sum1;
  for (int64_t j = 0; j < Nk; ++j) {
    store(scores + j * P, load(scores + j * P) * share0);
    store(scores + j * P + W, load(scores + j * P + W) * share1);
  }
}

// Fills shift [P]: the table's column for key position p and a lane is p + shift[lane]. Lanes from `count` on repeat
// the last query.
XMAE_INLINE void lane_shifts(const Head& head, int64_t first, int64_t count, int64_t* shift) {
  for (int64_t lane = 0; lane < P; ++lane) {
    shift[lane] = head.zero - head.query_pos[first + (lane < count ? lane : count - 1)];
  }
}

// Computes the attention weights probs [Nk, P] of the queries [first, first + count). lanes: memory for [d, P].
inline void probabilities(const Head& head, int64_t first, int64_t count, float* lanes, float* probs) {
  into_lanes(head.q + first * head.q_stride, head.q_stride, count, head.d, head.scale, lanes);
  small_product<false>(head.k, head.kv_stride, lanes, P, head.d, head.Nk, [&](int64_t j, Vec v0, Vec v1) {
    store(probs + j * P, v0);
    store(probs + j * P + W, v1);
  });
  if (head.table != nullptr) {
    int64_t shift[P];
    lane_shifts(head, first, count, shift);
    for (int64_t j = 0; j < head.Nk; ++j) {
      const float* at = head.table + head.key_pos[j];
      for (int64_t lane = 0; lane < P; ++lane) probs[j * P + lane] += at[shift[lane]];
    }
  }
  softmax(probs, head.Nk);
}

// out = in * mask for in, out [Nk, P] of the queries [first, first + count). mask: the head's dropout mask [Nq, Nk].
XMAE_INLINE void apply_dropout(
    const float* mask, int64_t first, int64_t count, int64_t Nk, const float* in, float* out) {
  for (int64_t j = 0; j < Nk; ++j) {
    for (int64_t lane = 0; lane < count; ++lane) out[j * P + lane] = in[j * P + lane] * mask[(first + lane) * Nk + j];
    for (int64_t lane = count; lane < P; ++lane) out[j * P + lane] = 0.0f;
  }
}

// Computes context [Nq, d], whose rows lie `stride` apart.
inline void head_forward(const Head& head, float* context, int64_t stride) {
  const int64_t Nq = head.Nq, Nk = head.Nk, d = head.d;
  HeadScratch room(head_forward_size(Nq, Nk, d));
  float *lanes = room.take(d * P), *probs = room.take(Nk * P);
  const Rows v = whole_panels(head.v, head.kv_stride, Nk, d, room.take(Nk * panel_stride(d)));
  float* mask = room.take(dropout_stride(Nq * Nk));
  const bool drop = head.dropout->active();
  if (drop) dropout_row(*head.dropout, head.row, Nq * Nk, mask);
  for (int64_t first = 0; first < Nq; first += P) {
    const int64_t count = Nq - first < P ? Nq - first : P;
    probabilities(head, first, count, lanes, probs);
    if (drop) apply_dropout(mask, first, count, Nk, probs, probs);
    small_matrix<true>(probs, P, v.data, v.stride, Nk, count, d, 1.0f, false, context + first * stride, stride);
  }
}

// Takes the gradient back through softmax: dp becomes p (dp - sum over keys of p dp). probs (p), dprobs (dp) [Nk, P].
XMAE_INLINE void softmax_gradient(const float* probs, float* dprobs, int64_t Nk) {
  Vec r0{}, r1{};
  for (int64_t j = 0; j < Nk; ++j) {
    r0 += load(probs + j * P) * load(dprobs + j * P);
    r1 += load(probs + j * P + W) * load(dprobs + j * P + W);
  }
  for (int64_t j = 0; j < Nk; ++j) {
    store(dprobs + j * P, load(probs + j * P) * (load(dprobs + j * P) - r0));
    store(dprobs + j * P + W, load(probs + j * P + W) * (load(dprobs + j * P + W) - r1));
  }
}

// Computes the gradients of a head.
inline void head_backward(const Head& head, const HeadGradient& grad) {
  const int64_t Nq = head.Nq, Nk = head.Nk, d = head.d, padded = panel_stride(d);
  HeadScratch room(head_backward_size(Nq, Nk, d));
  float *lanes = room.take(d * P), *grad_lanes = room.take(d * P);
  float *probs = room.take(Nk * P), *dropped = room.take(Nk * P), *dscores = room.take(Nk * P);
  const Rows k = whole_panels(head.k, head.kv_stride, Nk, d, room.take(Nk * padded));
  const Rows q = whole_panels(head.q, head.q_stride, Nq, d, room.take(Nq * padded));
  const Rows g = whole_panels(grad.context, grad.context_stride, Nq, d, room.take(Nq * padded));
  float* mask = room.take(dropout_stride(Nq * Nk));
  const bool drop = head.dropout->active();
  if (drop) dropout_row(*head.dropout, head.row, Nq * Nk, mask);
  if (Nq == 0) {  // the loop below would not write these gradients, which are 0
    small_matrix<false>(nullptr, 0, nullptr, 0, 0, Nk, d, 0.0f, false, grad.k, grad.kv_stride);
    small_matrix<false>(nullptr, 0, nullptr, 0, 0, Nk, d, 0.0f, false, grad.v, grad.kv_stride);
  }
  for (int64_t first = 0; first < Nq; first += P) {
    const int64_t count = Nq - first < P ? Nq - first : P;
    const bool add = first > 0;
    probabilities(head, first, count, lanes, probs);
    into_lanes(grad.context + first * grad.context_stride, grad.context_stride, count, d, 1.0f, grad_lanes);
    small_product<false>(head.v, head.kv_stride, grad_lanes, P, d, Nk, [&](int64_t j, Vec v0, Vec v1) {
      store(dscores + j * P, v0);
      store(dscores + j * P + W, v1);
    });
    if (drop) {
      apply_dropout(mask, first, count, Nk, probs, dropped);
      apply_dropout(mask, first, count, Nk, dscores, dscores);
    }
    const float* weights = drop ? dropped : probs;
    const float *g_rows = g.data + first * g.stride, *q_rows = q.data + first * q.stride;
    small_matrix<false>(weights, P, g_rows, g.stride, count, Nk, d, 1.0f, add, grad.v, grad.kv_stride);
    softmax_gradient(probs, dscores, Nk);
    small_matrix<false>(dscores, P, q_rows, q.stride, count, Nk, d, head.scale, add, grad.k, grad.kv_stride);
    float* dq = grad.q + first * grad.q_stride;
    small_matrix<true>(dscores, P, k.data, k.stride, Nk, count, d, head.scale, false, dq, grad.q_stride);
    if (grad.table != nullptr) {
      int64_t shift[P];
      lane_shifts(head, first, count, shift);
      for (int64_t j = 0; j < Nk; ++j) {
        float* at = grad.table + head.key_pos[j];
        for (int64_t lane = 0; lane < count; ++lane) at[shift[lane]] += dscores[j * P + lane];
      }
    }
  }
}

}  // namespace xmae_fast::XMAE_ISA
