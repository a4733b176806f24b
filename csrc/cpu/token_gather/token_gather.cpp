// The operators of token_gather, which move patches and tokens by patch index. They copy and sum a few numbers at a
// time and are limited by memory, so the vectors that the compiler makes suffice. One thread computes a result, and
// sums have a fixed order. In all of them N is the number of patches, Nk that of kept patches and P the samples of a
// patch.

#include <tuple>

#include "cpu/base/tensors.h"

namespace xmae_fast {
namespace {

// Returns how many samples or rows of `floats` numbers a thread should have at least: waking it takes as long as moving
// some 64 kB.
int64_t grain(int64_t floats) { return 16384 / (floats + 1) + 1; }

// Patch indices [B, count] in 0..N-1. The constructor checks every one, because they are used as addresses.
struct Ids {
  Tensor tensor;
  const int64_t* data;
  int64_t B, count;

  Ids(const char* op, const char* name, const Tensor& ids, int64_t wanted_B, int64_t N)
      : tensor(of(op, name, ids)),
        data(static_cast<const int64_t*>(tensor.const_data_ptr())),
        B(tensor.size(0)),
        count(tensor.size(1)) {
    STD_TORCH_CHECK(B == wanted_B, op, ": ", name, ": expected ", wanted_B, " rows, got ", B);
    for (int64_t i = 0; i < B * count; ++i) {
      STD_TORCH_CHECK(
          data[i] >= 0 && data[i] < N, op, ": ", name, ": expected patch indices in 0..", N - 1, ", got ", data[i],
          " in row ", i / count);
    }
  }
  // Returns contiguous indices, whose values are not checked.
  static Tensor of(const char* op, const char* name, const Tensor& ids) {
    STD_TORCH_CHECK(
        ids.dim() == 2 && ids.scalar_type() == ScalarType::Long, op, ": ", name,
        ": expected int64 patch indices, one row for each sample");
    return ids.is_contiguous() ? ids : torch::stable::contiguous(ids);
  }
  const int64_t* row(int64_t b) const { return data + b * count; }
};

// out [count] += x [count], and out = x.
void add(float* out, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += x[i];
}
void copy(float* out, const float* x, int64_t count) { std::copy_n(x, count, out); }

// Returns the kept patches [B, 1, Nk * P].
Tensor gather_patches(
    const Tensor& signal_,   // [B, 1, N * P]; samples of the batch may lie apart, as in a channel of [B, C, L]
    const Tensor& ids_keep,  // [B, Nk]
    int64_t P) {
  constexpr const char* op = "gather_patches";
  STD_TORCH_CHECK(
      signal_.dim() == 3 && signal_.size(1) == 1 && P >= 1 && signal_.size(2) % P == 0, op,
      ": expected signal [B, 1, N * ", P, "]");
  const Tensor signal =
      signal_.scalar_type() == ScalarType::Float && signal_.stride(2) == 1 ? signal_ : dense(op, "signal", signal_);
  const int64_t B = signal.size(0), stride = signal.stride(0);
  const Ids ids(op, "ids_keep", ids_keep, B, signal.size(2) / P);
  Tensor out = empty({B, 1, ids.count * P});
  const float* from = data(signal);
  float* to = mutable_data(out);
  parallel(B, grain(ids.count * P), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* kept = to + b * ids.count * P;
      for (int64_t j = 0; j < ids.count; ++j) copy(kept + j * P, from + b * stride + ids.row(b)[j] * P, P);
    }
  });
  return out;
}

// Returns the gradient of the signal [B, 1, N * P].
Tensor gather_patches_backward(
    const Tensor& grad_,     // [B, 1, Nk * P]
    const Tensor& ids_keep,  // [B, Nk]
    int64_t N, int64_t P) {
  constexpr const char* op = "gather_patches";
  const Tensor grad = dense(op, "grad", grad_);
  const int64_t B = grad.size(0);
  const Ids ids(op, "ids_keep", ids_keep, B, N);
  check_count(op, "grad", grad, B * ids.count * P);
  Tensor out = empty({B, 1, N * P});
  const float* from = data(grad);
  float* to = mutable_data(out);
  parallel(B, grain(N * P), [&](int64_t begin, int64_t end) {
    std::fill(to + begin * N * P, to + end * N * P, 0.0f);
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t j = 0; j < ids.count; ++j) add(to + (b * N + ids.row(b)[j]) * P, from + (b * ids.count + j) * P, P);
    }
  });
  return out;
}

// Returns queries [B, N, D].
Tensor assemble_queries(
    const Tensor& tokens_,      // [B, Nk, D]
    const Tensor& ids_keep,     // [B, Nk]
    const Tensor& pos_,         // [1, N, D]
    const Tensor& mask_loc_) {  // [N, D]
  constexpr const char* op = "assemble_queries";
  const Tensor tokens = dense(op, "tokens", tokens_), pos = dense(op, "pos", pos_);
  const Tensor mask_loc = dense(op, "mask_loc", mask_loc_);
  STD_TORCH_CHECK(tokens.dim() == 3 && mask_loc.dim() == 2, op, ": expected tokens [B, Nk, D] and mask_loc [N, D]");
  const int64_t B = tokens.size(0), kept = tokens.size(1), D = tokens.size(2), N = mask_loc.size(0);
  const Ids ids(op, "ids_keep", ids_keep, B, N);
  check_count(op, "mask_loc", mask_loc, N * D);
  check_count(op, "pos", pos, N * D);
  STD_TORCH_CHECK(
      ids.count == kept && kept <= N, op, ": expected one of ", N, " patch indices for each of ", kept, " tokens");
  Tensor out = empty({B, N, D});
  const float *x = data(tokens), *p = data(pos), *m = data(mask_loc);
  float* to = mutable_data(out);
  parallel(B, grain(N * D), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* rows = to + b * N * D;
      for (int64_t i = 0; i < N * D; ++i) rows[i] = m[i] + p[i];
      for (int64_t j = 0; j < kept; ++j) {
        const float *token = x + (b * kept + j) * D, *held = p + j * D, *wanted = p + ids.row(b)[j] * D;
        float* row = rows + ids.row(b)[j] * D;
        for (int64_t d = 0; d < D; ++d) row[d] = (token[d] - held[d]) + wanted[d];
      }
    }
  });
  return out;
}

// Sums grad [B, N, D] over the samples: the rows that chosen_rows [B, N] chooses to chosen [N, D], the others to rest
// [N, D].
void sum_samples(
    const float* grad, const std::vector<uint8_t>& chosen_rows, int64_t B, int64_t N, int64_t D, float* chosen,
    float* rest) {
  parallel(N, grain(B * D), [&](int64_t begin, int64_t end) {
    std::vector<float> parts(2 * D);
    for (int64_t n = begin; n < end; ++n) {
      float* sums[] = {rest + n * D, chosen + n * D};
      for (float* sum : sums) std::fill_n(sum, D, 0.0f);
      for (int64_t first = 0; first < B; first += kSumRows) {
        std::fill(parts.begin(), parts.end(), 0.0f);
        for (int64_t b = first; b < std::min(B, first + kSumRows); ++b) {
          add(parts.data() + (chosen_rows[b * N + n] ? D : 0), grad + (b * N + n) * D, D);
        }
        for (int64_t i = 0; i < 2; ++i) add(sums[i], parts.data() + i * D, D);
      }
    }
  });
}

// Returns the gradients of tokens [B, Nk, D], pos [1, N, D] and mask_loc [N, D].
std::tuple<Tensor, Tensor, Tensor> assemble_queries_backward(
    const Tensor& grad_,     // [B, N, D]
    const Tensor& ids_keep,  // [B, Nk]
    bool want_sums) {        // the gradients of pos and mask_loc; they are empty unless wanted
  constexpr const char* op = "assemble_queries";
  const Tensor grad = dense(op, "grad", grad_);
  STD_TORCH_CHECK(grad.dim() == 3, op, ": expected grad [B, N, D]");
  const int64_t B = grad.size(0), N = grad.size(1), D = grad.size(2);
  const Ids ids(op, "ids_keep", ids_keep, B, N);
  const int64_t kept = ids.count;
  STD_TORCH_CHECK(kept <= N, op, ": ids_keep: expected at most ", N, " columns, got ", kept);
  Tensor tokens_grad = empty({B, kept, D});
  const float* from = data(grad);
  float* tokens = mutable_data(tokens_grad);
  parallel(B, grain(kept * D), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t j = 0; j < kept; ++j) copy(tokens + (b * kept + j) * D, from + (b * N + ids.row(b)[j]) * D, D);
    }
  });
  if (!want_sums) return {tokens_grad, empty({0}), empty({0})};
  std::vector<uint8_t> masked(B * N, 1);
  for (int64_t i = 0; i < B * kept; ++i) masked[i / kept * N + ids.data[i]] = 0;
  Tensor pos_grad = empty({1, N, D}), mask_loc_grad = empty({N, D});
  float *pos = mutable_data(pos_grad), *mask_loc = mutable_data(mask_loc_grad);
  sum_samples(from, masked, B, N, D, mask_loc, pos);
  add(pos, mask_loc, N * D);
  std::vector<float> held(kept * D);  // the forward subtracted the first Nk positions, which the tokens contained
  kernels().column_sums(tokens, B, kept * D, held.data());
  for (int64_t i = 0; i < kept * D; ++i) pos[i] -= held[i];
  return {tokens_grad, pos_grad, mask_loc_grad};
}

// Returns tokens of all patches [B, N, D].
Tensor restore_tokens(
    const Tensor& tokens_,      // [B, Nk, D]
    const Tensor& ids_restore,  // [B, N]
    const Tensor& mask_token_,  // [1, 1, D]
    const Tensor& pos_) {       // [1, N, D]
  constexpr const char* op = "restore_tokens";
  const Tensor tokens = dense(op, "tokens", tokens_), mask_token = dense(op, "mask_token", mask_token_);
  const Tensor pos = dense(op, "pos", pos_);
  STD_TORCH_CHECK(tokens.dim() == 3 && pos.dim() == 3, op, ": expected tokens [B, Nk, D] and pos [1, N, D]");
  const int64_t B = tokens.size(0), kept = tokens.size(1), D = tokens.size(2), N = pos.size(1);
  const Ids ids(op, "ids_restore", ids_restore, B, N);
  STD_TORCH_CHECK(
      ids.count == N && kept <= N, op, ": ids_restore: expected N = ", N, " >= ", kept, " columns, got ", ids.count);
  check_count(op, "mask_token", mask_token, D);
  check_count(op, "pos", pos, N * D);
  Tensor out = empty({B, N, D});
  const float *x = data(tokens), *p = data(pos), *mask = data(mask_token);
  float* to = mutable_data(out);
  parallel(B, grain(N * D), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const int64_t place = ids.row(b)[n];
        const float *token = place < kept ? x + (b * kept + place) * D : mask, *position = p + n * D;
        float* row = to + (b * N + n) * D;
        for (int64_t d = 0; d < D; ++d) row[d] = token[d] + position[d];
      }
    }
  });
  return out;
}

// Returns the gradients of tokens [B, Nk, D], mask_token [1, 1, D] and pos [1, N, D].
std::tuple<Tensor, Tensor, Tensor> restore_tokens_backward(
    const Tensor& grad_,        // [B, N, D]
    const Tensor& ids_restore,  // [B, N]
    int64_t kept,               // Nk
    bool want_sums) {           // the gradients of mask_token and pos; they are empty unless wanted
  constexpr const char* op = "restore_tokens";
  const Tensor grad = dense(op, "grad", grad_);
  STD_TORCH_CHECK(grad.dim() == 3, op, ": expected grad [B, N, D]");
  const int64_t B = grad.size(0), N = grad.size(1), D = grad.size(2);
  const Ids ids(op, "ids_restore", ids_restore, B, N);
  STD_TORCH_CHECK(
      ids.count == N && kept >= 0 && kept <= N, op, ": ids_restore: expected N = ", N, " >= ", kept, " columns, got ",
      ids.count);
  Tensor tokens_grad = empty({B, kept, D});
  const float* from = data(grad);
  float* tokens = mutable_data(tokens_grad);
  std::vector<uint8_t> masked(B * N);
  parallel(B, grain(kept * D), [&](int64_t begin, int64_t end) {
    std::fill(tokens + begin * kept * D, tokens + end * kept * D, 0.0f);
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const int64_t place = ids.row(b)[n];
        masked[b * N + n] = place >= kept;
        if (place < kept) add(tokens + (b * kept + place) * D, from + (b * N + n) * D, D);
      }
    }
  });
  if (!want_sums) return {tokens_grad, empty({0}), empty({0})};
  Tensor mask_token_grad = empty({1, 1, D}), pos_grad = empty({1, N, D});
  float* pos = mutable_data(pos_grad);
  std::vector<float> of_mask(N * D);
  sum_samples(from, masked, B, N, D, of_mask.data(), pos);
  add(pos, of_mask.data(), N * D);
  kernels().column_sums(of_mask.data(), N, D, mutable_data(mask_token_grad));
  return {tokens_grad, mask_token_grad, pos_grad};
}

// Returns [B, 1, N * P]: 1 in the patches with ids_restore >= kept, which are masked, else 0.
Tensor masked_samples(
    const Tensor& ids_restore,  // [B, N]
    int64_t kept, int64_t P) {
  const Tensor ids = Ids::of("masked_samples", "ids_restore", ids_restore);
  STD_TORCH_CHECK(P >= 0, "masked_samples: patch_len: expected a whole number >= 0, got ", P);
  const int64_t B = ids.size(0), N = ids.size(1);
  Tensor out = empty({B, 1, N * P});
  const auto* places = static_cast<const int64_t*>(ids.const_data_ptr());
  float* to = mutable_data(out);
  parallel(B * N, grain(P), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::fill_n(to + i * P, P, places[i] >= kept ? 1.0f : 0.0f);
  });
  return out;
}

}  // namespace
}  // namespace xmae_fast

STABLE_TORCH_LIBRARY_IMPL(xmae_fast, CPU, m) {
  m.impl("gather_patches", TORCH_BOX(&xmae_fast::gather_patches));
  m.impl("gather_patches_backward", TORCH_BOX(&xmae_fast::gather_patches_backward));
  m.impl("assemble_queries", TORCH_BOX(&xmae_fast::assemble_queries));
  m.impl("assemble_queries_backward", TORCH_BOX(&xmae_fast::assemble_queries_backward));
  m.impl("restore_tokens", TORCH_BOX(&xmae_fast::restore_tokens));
  m.impl("restore_tokens_backward", TORCH_BOX(&xmae_fast::restore_tokens_backward));
  m.impl("masked_samples", TORCH_BOX(&xmae_fast::masked_samples));
}
