// Divides the segments of a batch among threads and finds each segment in its file.

#include "io/gather.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>

#include "io/guard.h"
#include "io/philox.h"

namespace xmae_io {
namespace {

// Calls work(part, begin, end) for contiguous parts of the rows [0, count), each on a thread. The calling thread does
// the first.
template <class Work>
void parallel(int64_t count, int64_t parts, const Work& work) {
  std::vector<std::thread> others;
  others.reserve(parts);
  int64_t started = 1;
  try {
    for (; started < parts; ++started) {
      const int64_t part = started;
      const int64_t begin = count * part / parts, end = count * (part + 1) / parts;
      others.emplace_back([&work, part, begin, end] { work(part, begin, end); });
    }
  } catch (const std::system_error&) {  // no more threads can be started: this thread does the remaining parts
  }
  work(0, 0, count / parts);
  if (started < parts) work(0, count * started / parts, count);
  for (std::thread& other : others) other.join();
}

// Whether both signals of segment i lie inside a file of the batch.
bool inside(const Batch& batch, int64_t i) {
  if (batch.file[i] < 0 || batch.file[i] >= static_cast<int64_t>(batch.files.size())) return false;
  const File& file = batch.files[batch.file[i]];
  const int64_t extent = (batch.L - 1) * file.stride + static_cast<int64_t>(file.kind);
  for (const int64_t* offsets : batch.offsets) {
    if (offsets[i] < 0 || offsets[i] > file.size - extent) return false;
  }
  return true;
}

constexpr int64_t kAhead = 4;  // how many segments ahead data are fetched into the cache

// Returns segment i. Its `next` says where the segment kAhead later lies.
Segment segment_at(const Batch& batch, int64_t i) {
  Segment s{};
  s.file = &batch.files[batch.file[i]];
  s.L = batch.L;
  for (int k = 0; k < 2; ++k) s.offset[k] = batch.offsets[k][i];
  if (i + kAhead < batch.count && inside(batch, i + kAhead)) {
    const File& file = batch.files[batch.file[i + kAhead]];
    const int64_t ppg = batch.offsets[0][i + kAhead], ecg = batch.offsets[1][i + kAhead];
    const int64_t extent = batch.L * file.stride;
    const bool together = std::abs(ppg - ecg) < extent;
    s.next_bytes = together ? extent / 2 : extent;
    s.next[0] = file.data + (together ? std::min(ppg, ecg) : ppg);
    s.next[1] = together ? s.next[0] + s.next_bytes : file.data + ecg;
  }
  return s;
}

// Writes the problems that read(i, scratch) returns for each row to problems [count]. It is called under the guard, and
// not for rows outside of their file.
template <class Read>
void each_row(const Batch& batch, int threads, int64_t scratch_floats, uint8_t* problems, const Read& read) {
  install_guard();
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(threads, batch.count / 8));
  std::vector<float> scratch(parts * scratch_floats);
  parallel(batch.count, parts, [&](int64_t part, int64_t begin, int64_t end) {
    float* const room = scratch.data() + part * scratch_floats;
    for (int64_t i = begin; i < end; ++i) {
      problems[i] = kOutside;
      if (inside(batch, i)) problems[i] = guard([&] { return read(i, room); }, uint8_t{kVanished});
    }
  });
}

// Copies `count` elements of the type's size to out in native byte order.
template <class Bits>
void copy_elements(const File& file, const uint8_t* from, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, from + i * file.stride, sizeof bits);
    if (file.swapped) {
      uint8_t* const bytes = reinterpret_cast<uint8_t*>(&bits);
      std::reverse(bytes, bytes + sizeof bits);
    }
    std::memcpy(out + i * sizeof bits, &bits, sizeof bits);
  }
}

}  // namespace

void gather(
    const Batch& batch, bool half, const Randomness& random, int threads, float* const out[2], uint8_t* problems) {
  const Rows& table = rows();
  each_row(batch, threads, 4 * scratch_row(batch.L), problems, [&](int64_t i, float* scratch) {
    Segment segment = segment_at(batch, i);
    for (int k = 0; k < 2; ++k) segment.out[k] = out[k] + i * batch.L;
    segment.half = half;
    Augment draws[2];
    if (random.items != nullptr) {
      double uniforms[8];
      philox_uniforms(random.seed, random.epoch, static_cast<uint64_t>(random.items[i]), uniforms);
      draw_augmentation(uniforms, draws);
      segment.augment = draws;
    }
    return table.prepare(segment, scratch);
  });
}

void inspect(const Batch& batch, int threads, uint8_t* problems) {
  const Rows& table = rows();
  each_row(batch, threads, 4 * scratch_row(batch.L), problems, [&](int64_t i, float* scratch) {
    return table.inspect(segment_at(batch, i), scratch);
  });
}

void copy(const Batch& batch, int threads, uint8_t* const out[2], uint8_t* problems) {
  each_row(batch, threads, 0, problems, [&](int64_t i, float*) {
    const File& file = batch.files[batch.file[i]];
    const int64_t size = static_cast<int64_t>(file.kind), at = i * batch.L * size;
    for (int k = 0; k < 2; ++k) {
      const uint8_t* from = file.data + batch.offsets[k][i];
      if (size == 2) copy_elements<uint16_t>(file, from, batch.L, out[k] + at);
      if (size == 4) copy_elements<uint32_t>(file, from, batch.L, out[k] + at);
      if (size == 8) copy_elements<uint64_t>(file, from, batch.L, out[k] + at);
    }
    return uint8_t{0};
  });
}

}  // namespace xmae_io
