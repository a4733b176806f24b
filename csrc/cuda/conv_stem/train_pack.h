// The first and the last launch of a training step. The first packs weights for tensor cores; the last adds up the
// weights' gradients that the CTAs of the backward left.
#pragma once

#include "cuda/conv_stem/train_backward.h"
#include "cuda/conv_stem/train_ends.h"

namespace xmae_fast::cuda {

struct PackArguments {
  Step step;                          // norms are filled here where running statistics are used instead of the batch's
  char* packed;                       // [stems, kPackedBytes]
  Product products[kMatrices];        // in the order of kForwardOrder
  int forward[kMatrices];             // where a matrix begins in `packed`, in bytes: for the forward
  int backward[kMatrices];            // and for the backward
  bool streamed[kMatrices];           // the forward streams it, so no piece may cross the end of a chunk
  static constexpr int kShares = 28;  // CTAs that pack one matrix
};

template <typename Lane>
class Pack {
  using Number = typename Lane::Number;

 public:
  using Arguments = PackArguments;
  static constexpr int kBytes = 0;

  // Computes one CTA's share of the launch. CTAs count shares, then matrices, then stems; after the shares of a stem's
  // matrices one more CTA fills `norms`.
  static XMAE_HD void run(Lane& lane, const PackArguments& run) {
    constexpr int kCtas = kMatrices * PackArguments::kShares + 1;
    const int stem = lane.block() / kCtas, cta = lane.block() % kCtas;
    const int matrix = cta / PackArguments::kShares, share = cta % PackArguments::kShares;
    if (matrix == kMatrices) return running_norms(lane, run.step, stem);
    const Product product = run.products[matrix];
    const float* const flat = run.step.weights(stem);
    char* const packed = run.packed + static_cast<int64_t>(stem) * kPackedBytes;
    int piece = 0, end = run.forward[matrix];
    for (int i = 0; i < product.k; ++i) {
      const int tap = tap_in_order(product.k, i), tiles = tiles_under(product.k, product.c_out, tap);
      for (int part = 0; part < product.c_in / 32; ++part) {
        const int bytes = tiles * kTileBytes, into = (end - run.forward[matrix]) % kChunk;
        if (run.streamed[matrix] && into + bytes > kChunk) {
          end = clear_to_chunk(lane, packed, end, run.forward[matrix], share);
        }
        if (piece++ % PackArguments::kShares == share) {
          fill(lane, packed + end, tiles, [&](int input, int output) {
            return weight(flat, weight_at(product, tap, 32 * part + input, output));
          });
        }
        end += bytes;
      }
    }
    if (run.streamed[matrix]) clear_to_chunk(lane, packed, end, run.forward[matrix], share);
    end = run.backward[matrix];
    for (int inputs = 0; inputs < product.c_in / 32; ++inputs) {
      for (int i = 0; i < product.k; ++i) {
        const int tap = tap_in_order(product.k, i), parts = parts_under(product.k, product.c_out, tap);
        for (int part = 0; part < parts; ++part, end += 4 * kTileBytes) {
          if (piece++ % PackArguments::kShares != share) continue;
          fill(lane, packed + end, 4, [&](int output, int input) {
            return weight(flat, weight_at(product, tap, 32 * inputs + input, 32 * part + output));
          });
        }
      }
    }
  }

 private:
  // Returns a weight, or 0 for at = -1.
  static XMAE_HD float weight(const float* flat, int at) { return at < 0 ? 0.0f : flat[at]; }

  // Returns where the next chunk of the matrix that begins at `first` begins. The first share writes zeros up to there.
  static XMAE_HD int clear_to_chunk(Lane& lane, char* packed, int end, int first, int share) {
    const int into = (end - first) % kChunk, next = into == 0 ? end : end + kChunk - into;
    for (int at = end + 16 * lane.thread(); share == 0 && at < next; at += 16 * Lane::kThreads) {
      lane.put(packed + at, zeros());
    }
    return next;
  }

  // Writes tiles of the B operand (stem_pack.h). value(k, n) returns element (k, n) of B.
  template <typename Value>
  static XMAE_HD void fill(Lane& lane, char* to, int tiles, const Value& value) {
    for (int i = lane.thread(); i < tiles * 32; i += Lane::kThreads) {
      const int tile = i / 32, n = 8 * tile + i % 32 / 4, k = 2 * (i % 4);
      float v[8];
      XMAE_UNROLL
      for (int e = 0; e < 8; ++e) v[e] = value(16 * (e / 4) + 8 * (e / 2 % 2) + k + e % 2, n);
      lane.put(to + 16 * i, pack<Number>(v));
    }
  }

  // Fills `norms` from running statistics, unless the batch's are used.
  static XMAE_HD void running_norms(Lane& lane, const Step& step, int stem) {
    if (step.batch) return;
    const float* const running = step.weights(stem) + kTrainWeights + 2 * kTrainChannels;
    for (int c = lane.thread(); c < kTrainChannels; c += Lane::kThreads) {
      store_norm<Lane>(step, stem, c, running[c], running[kTrainChannels + c], running[kTrainChannels + c]);
    }
    // With running statistics nothing is centred by the mean of x: mean 0, and 1 / standard deviation and scale 1.
    if (lane.thread() < kNormRows) {
      step.norm(stem, lane.thread())[kTrainChannels] = lane.thread() == kRstd || lane.thread() == kScale;
    }
    if (lane.thread() < kMoments) step.moments[stem * kMoments + lane.thread()] = 0.0f;
  }
};

struct FinishArguments {
  Step step;
  Product products[kMatrices];
  const float* arenas[kMatrices];  // [c_in / 32, CTAs, arena_of_cta] of each matrix
  int ctas[kMatrices][2];          // CTAs of each stem that wrote to an arena
  int before[kMatrices + 1];       // CTAs of this kernel for the matrices before a matrix
  const float* wave_sums;          // [CTAs, 2 + kWindow, 32]: the first unit's sums
  int wave_ctas[2];                // CTAs of each stem that wrote them
  const float* end_sums;           // [CTAs, EndArguments::kSums, kStemChannels]
  int end_ctas[2];                 // CTAs of each stem that wrote them
  float* out;                      // [stems, kTrainWeights + 2 kTrainChannels]
};

template <typename Lane>
class Finish {
  using Number = typename Lane::Number;
  static constexpr int kOut = kTrainWeights + 2 * kTrainChannels;

 public:
  using Arguments = FinishArguments;
  static constexpr int kBytes = kScratchBytes + 4 * 32 * (2 + kWindow);

  // Computes one CTA's share of the launch. CTAs count 256 numbers of an arena each, then matrices, then stems; after a
  // stem's matrices one more CTA writes the gradients of BatchNorms, the first unit and the skip path.
  static XMAE_HD void run(Lane& lane, const FinishArguments& run) {
    const int ctas = run.before[kMatrices] + 1, stem = lane.block() / ctas, cta = lane.block() % ctas;
    float* const out = run.out + static_cast<int64_t>(stem) * kOut;
    if (cta == ctas - 1) {
      for (int c = kSecondChannel + lane.thread(); c < kSkipChannel; c += Lane::kThreads) {
        const float* const sums = run.step.sums + stem * 2 * kTrainChannels;
        out[kTrainWeights + c] = sums[kTrainChannels + c];
        out[kTrainWeights + kTrainChannels + c] = sums[c];
      }
      first_unit(lane, run, stem, out);
      skip_path(lane, run, stem, out);
      return;
    }
    int matrix = 0;
    while (cta >= run.before[matrix + 1]) ++matrix;
    const Product product = run.products[matrix];
    const int size = arena_of_cta(product.k, product.c_out),
              element = (cta - run.before[matrix]) * Lane::kThreads + lane.thread();
    const int part = element / size, place = element % size, k = place % 4, l = place / 4 % 32,
              inputs = place / 128 % 2;
    const Pair pair = pair_in_order(product.k, product.c_out, place / 256);
    if (pair.tap >= product.k || part >= product.c_in / 32) return;
    const int input = 32 * part + 16 * inputs + l / 4 + 8 * (k / 2), output = 8 * pair.tile + 2 * (l % 4) + k % 2;
    const int at = weight_at(product, tap_in_order(product.k, pair.tap), input, output);
    if (at < 0) return;
    const int all = run.ctas[matrix][0] + run.ctas[matrix][1], first = stem ? run.ctas[matrix][0] : 0;
    const float* from = run.arenas[matrix] + (static_cast<int64_t>(part) * all + first) * size + place;
    float sum = 0.0f;
#if defined(__CUDA_ARCH__)
#pragma unroll 8
#endif
    for (int i = 0; i < run.ctas[matrix][stem]; ++i, from += size) sum += lane.template fetch<float>(from);
    out[at] = sum;
  }

 private:
  // Sums numbers [first, first + COLUMNS) of each CTA's `stride` numbers over the CTAs. `total` reads the results.
  template <int COLUMNS>
  static XMAE_HD void sum_columns(Lane& lane, const float* from, int ctas, int stride, int first) {
    sum_over_ctas<COLUMNS>(lane, 0, kScratchBytes + 4 * first, ctas, [&](int cta, int quad) {
      return lane.template fetch<Float4>(from + static_cast<int64_t>(cta) * stride + first + 4 * quad);
    });
  }
  static XMAE_HD float total(Lane& lane, int at) { return lane.template load<float>(kScratchBytes + 4 * at); }

  // Writes the first unit's gradients. Its output before BatchNorm is linear in x, so they follow from the lag products
  // of x and from the sums of the gradient times x under each tap, without another pass over the samples.
  static XMAE_HD void first_unit(Lane& lane, const FinishArguments& run, int stem, float* out) {
    const Product first = first_product();
    constexpr int kColumns = 32 * (2 + kWindow);
    const float* const from = run.wave_sums + static_cast<int64_t>(stem ? run.wave_ctas[0] : 0) * kColumns;
    for (int first = 0; first + 64 <= kColumns; first += 64) {
      sum_columns<64>(lane, from, run.wave_ctas[stem], kColumns, first);
    }
    sum_columns<32>(lane, from, run.wave_ctas[stem], kColumns, kColumns - 32);
    const int c = lane.thread() % 32, tap = lane.thread() / 32, channel = published(32, c);
    const float d_beta = total(lane, c), d_gamma = total(lane, 32 + c);
    if (tap == kWindow) {
      out[kTrainWeights + channel] = d_gamma;
      out[kTrainWeights + kTrainChannels + channel] = d_beta;
    }
    if (tap >= kWindow) return;
    const Step& step = run.step;
    const float* const moments = step.moments + stem * kMoments;
    const int weight = weight_at(first, tap, 0, c);
    if (weight < 0) return;
    float value = total(lane, 32 * (2 + tap) + c);
    if (step.batch) {
      float product = 0.0f;  // sum of the tap's samples times the outputs, both centred
      for (int t = 0; t < kWindow; ++t) {
        const int other = weight_at(first, t, 0, c);
        const float w = other < 0 ? 0.0f : Number::value(Number::one(step.weights(stem)[other]));
        product = fmaf(w, moments[kWindow + (t < tap ? lag_at(t, tap) : lag_at(tap, t))], product);
      }
      value -= d_beta * moments[tap] + d_gamma * step.norm(stem, kRstd)[channel] * product / moments[kMoments - 1];
    }
    out[weight] = value * step.norm(stem, kScale)[channel];
  }

  // Writes the skip path's gradients. Its outputs before BatchNorm are w x, so the batch's mean and standard deviation
  // grow with w and the normalised output depends on w through eps alone.
  static XMAE_HD void skip_path(Lane& lane, const FinishArguments& run, int stem, float* out) {
    constexpr int kColumns = EndArguments::kSums * kStemChannels;
    const float* const from = run.end_sums + static_cast<int64_t>(stem ? run.end_ctas[0] : 0) * kColumns;
    lane.barrier();
    sum_columns<64>(lane, from, run.end_ctas[stem], kColumns, 2 * kStemChannels);
    const int c = lane.thread();
    if (c >= kStemChannels) return;
    const Step& step = run.step;
    const int channel = kSkipChannel + c;
    const float sum = total(lane, 2 * kStemChannels + c), with_x = total(lane, 3 * kStemChannels + c);
    const float weight = Number::value(Number::one(step.weights(stem)[kSkipWeights + c]));
    const float rstd = step.norm(stem, kRstd)[channel];
    const float offset = weight * step.norm(stem, kMean)[kTrainChannels] - step.norm(stem, kMean)[channel];
    out[kTrainWeights + channel] = rstd * (weight * with_x + offset * sum);
    out[kTrainWeights + kTrainChannels + channel] = sum;
    out[kSkipWeights + c] = step.norm(stem, kScale)[channel] * with_x * (step.batch ? kNormEps * rstd * rstd : 1.0f);
  }
};

}  // namespace xmae_fast::cuda
