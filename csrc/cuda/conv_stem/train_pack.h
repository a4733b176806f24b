// The first and the last launch of a training step: weights packed for tensor cores, and their gradients collected from what CTAs
// left.
#pragma once

#include "cuda/conv_stem/train_backward.h"
#include "cuda/conv_stem/train_ends.h"

namespace xmae_fast::cuda {

struct PackArguments {
  Step step;                     // norms are filled from running statistics where statistics are not the batch's
  char* packed;                  // [stems, kPackedBytes]
  Product products[kMatrices];   // in the order of kForwardOrder
  int forward[kMatrices], backward[kMatrices];
  bool streamed[kMatrices];
  static constexpr int kShares = 28;  // CTAs for a matrix
};

template <typename Lane>
class Pack {
  using Number = typename Lane::Number;

 public:
  using Arguments = PackArguments;
  static constexpr int kBytes = 0;

  // CTA: stem, matrix, share; behind those of a stem's matrices one for `norms`.
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
        if (run.streamed[matrix] && into + bytes > kChunk) end = clear_to_chunk(lane, packed, end, run.forward[matrix], share);
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
  static XMAE_HD float weight(const float* flat, int at) { return at < 0 ? 0.0f : flat[at]; }

  // Zeros up to the next chunk of the matrix that begins at `first`, by the first share -> where they end.
  static XMAE_HD int clear_to_chunk(Lane& lane, char* packed, int end, int first, int share) {
    const int into = (end - first) % kChunk, next = into == 0 ? end : end + kChunk - into;
    for (int at = end + 16 * lane.thread(); share == 0 && at < next; at += 16 * Lane::kThreads) lane.put(packed + at, zeros());
    return next;
  }

  // Tiles of B operands (stem_pack.h); value(k of the product, n).
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

  static XMAE_HD void running_norms(Lane& lane, const Step& step, int stem) {
    if (step.batch) return;
    const float* const running = step.weights(stem) + kTrainWeights + 2 * kTrainChannels;
    for (int c = lane.thread(); c < kTrainChannels; c += Lane::kThreads) {
      store_norm<Lane>(step, stem, c, running[c], running[kTrainChannels + c], running[kTrainChannels + c]);
    }
    // Nothing is centred by the mean of x then.
    if (lane.thread() < kNormRows) step.norm(stem, lane.thread())[kTrainChannels] = lane.thread() == kRstd || lane.thread() == kScale;
    if (lane.thread() < kMoments) step.moments[stem * kMoments + lane.thread()] = 0.0f;
  }
};

struct FinishArguments {
  Step step;
  Product products[kMatrices];
  const float* arenas[kMatrices];
  int ctas[kMatrices][2];        // of each stem
  int before[kMatrices + 1];     // CTAs of this kernel for the matrices before
  const float* wave_sums;        // [CTAs, 2 + kWindow, 32]
  int wave_ctas[2];
  const float* end_sums;         // [CTAs, EndArguments::kSums, kStemChannels]
  int end_ctas[2];
  float* out;                    // [stems, kTrainWeights + 2 kTrainChannels]
};

template <typename Lane>
class Finish {
  using Number = typename Lane::Number;
  static constexpr int kOut = kTrainWeights + 2 * kTrainChannels;

 public:
  using Arguments = FinishArguments;
  static constexpr int kBytes = kScratchBytes + 4 * 32 * (2 + kWindow);

  // CTA: stem, then 256 numbers of a matrix's arena; behind them one for BatchNorms, the first unit and the skip path.
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
    const int size = arena_of_cta(product.k, product.c_out), element = (cta - run.before[matrix]) * Lane::kThreads + lane.thread();
    const int part = element / size, place = element % size, k = place % 4, l = place / 4 % 32, inputs = place / 128 % 2;
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
  // COLUMNS numbers of each CTA's `stride` summed into shared memory behind the scratch.
  template <int COLUMNS>
  static XMAE_HD void sum_columns(Lane& lane, const float* from, int ctas, int stride, int first) {
    sum_over_ctas<COLUMNS>(lane, 0, kScratchBytes + 4 * first, ctas, [&](int cta, int quad) {
      return lane.template fetch<Float4>(from + static_cast<int64_t>(cta) * stride + first + 4 * quad);
    });
  }
  static XMAE_HD float total(Lane& lane, int at) { return lane.template load<float>(kScratchBytes + 4 * at); }

  // The first unit's output before BatchNorm is linear in x: with the lag products of x and the sums of the gradient times x
  // under each tap nothing has to be gone over again.
  static XMAE_HD void first_unit(Lane& lane, const FinishArguments& run, int stem, float* out) {
    const Product first = first_product();
    constexpr int kColumns = 32 * (2 + kWindow);
    const float* const from = run.wave_sums + static_cast<int64_t>(stem ? run.wave_ctas[0] : 0) * kColumns;
    for (int first = 0; first + 64 <= kColumns; first += 64) sum_columns<64>(lane, from, run.wave_ctas[stem], kColumns, first);
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
      float product = 0.0f;  // of the tap's samples and the outputs, centred
      for (int t = 0; t < kWindow; ++t) {
        const int other = weight_at(first, t, 0, c);
        const float w = other < 0 ? 0.0f : Number::value(Number::one(step.weights(stem)[other]));
        product = fmaf(w, moments[kWindow + (t < tap ? lag_at(t, tap) : lag_at(tap, t))], product);
      }
      value -= d_beta * moments[tap] + d_gamma * step.norm(stem, kRstd)[channel] * product / moments[kMoments - 1];
    }
    out[weight] = value * step.norm(stem, kScale)[channel];
  }

  // Its outputs before BatchNorm are w x: the batch's mean and all but eps of the variance follow w.
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
