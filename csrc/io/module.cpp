// The Python module xmae_fast._C_io, which reads segments from memory-mapped files into batches. It works on NumPy's
// arrays and does not depend on torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "io/gather.h"

namespace py = pybind11;

namespace xmae_io {
namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void check(bool holds, const std::string& what) {
  if (!holds) throw std::invalid_argument(what);
}

// Memory-mapped files and the reads from them; xmae_fast/data/gather.py describes the arguments. file, ppg, ecg
// [count]: each segment's file, and where its signals begin in it, in bytes.
class Gather {
 public:
  Gather(
      const std::vector<py::buffer>& maps, const std::vector<int>& sizes, const std::vector<bool>& swapped,
      const std::vector<int64_t>& strides, int64_t L)
      : L_(L) {
    const size_t n = maps.size();
    const bool listed = sizes.size() == n && swapped.size() == n && strides.size() == n;
    check(listed, "maps: expected one entry per map in each list");
    check(L > 0, "L: expected at least 1, got " + std::to_string(L));
    for (size_t i = 0; i < n; ++i) {
      const int size = sizes[i];
      check(size == 2 || size == 4 || size == 8, "sizes: expected 2, 4 or 8 bytes, got " + std::to_string(size));
      check(strides[i] >= sizes[i], "strides: expected at least the element's size, got " + std::to_string(strides[i]));
      held_.push_back(maps[i].request());
      const py::buffer_info& info = held_.back();
      files_.push_back({
          .data = static_cast<const uint8_t*>(info.ptr),
          .size = info.size * info.itemsize,
          .kind = static_cast<Kind>(sizes[i]),
          .swapped = swapped[i],
          .stride = strides[i],
      });
    }
  }

  Array<uint8_t> gather(
      const Array<int32_t>& file, const Array<int64_t>& ppg, const Array<int64_t>& ecg, Array<float>& ppg_out,
      Array<float>& ecg_out, bool half, int threads, uint64_t seed, uint64_t epoch,
      const std::optional<Array<int64_t>>& items) const {
    const Batch batch = checked(file, ppg, ecg);
    float* const out[2] = {room(ppg_out, batch.count, "ppg_out"), room(ecg_out, batch.count, "ecg_out")};
    check(!items || items->size() == batch.count, "items: expected one per segment");
    const Randomness random{.seed = seed, .epoch = epoch, .items = items ? items->data() : nullptr};
    return without_gil(batch, [&](uint8_t* problems) { xmae_io::gather(batch, half, random, threads, out, problems); });
  }

  Array<uint8_t> inspect(
      const Array<int32_t>& file, const Array<int64_t>& ppg, const Array<int64_t>& ecg, int threads) const {
    const Batch batch = checked(file, ppg, ecg);
    return without_gil(batch, [&](uint8_t* problems) { xmae_io::inspect(batch, threads, problems); });
  }

  Array<uint8_t> copy(
      const Array<int32_t>& file, const Array<int64_t>& ppg, const Array<int64_t>& ecg, Array<uint8_t>& ppg_out,
      Array<uint8_t>& ecg_out, int threads) const {
    const Batch batch = checked(file, ppg, ecg);
    int64_t most = 0;
    for (const File& f : files_) most = std::max(most, static_cast<int64_t>(f.kind));
    for (const File& f : files_) {
      check(static_cast<int64_t>(f.kind) == most, "copy: expected files of one element size");
    }
    check(
        ppg_out.size() == batch.count * L_ * most && ecg_out.size() == ppg_out.size(),
        "ppg_out, ecg_out: expected [count, L * element size] bytes");
    uint8_t* const out[2] = {ppg_out.mutable_data(), ecg_out.mutable_data()};
    return without_gil(batch, [&](uint8_t* problems) { xmae_io::copy(batch, threads, out, problems); });
  }

  // Returns the share of the first pages of these segments' PPG that is in the page cache, or 1 where the system does
  // not tell.
  double resident(const Array<int32_t>& file, const Array<int64_t>& ppg) const {
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    int64_t asked = 0, there = 0;
    for (py::ssize_t i = 0; i < file.size(); ++i) {
      const File& f = files_.at(file.data()[i]);
      if (ppg.data()[i] < 0 || ppg.data()[i] >= f.size) continue;
      const uintptr_t address = reinterpret_cast<uintptr_t>(f.data) + static_cast<uintptr_t>(ppg.data()[i]);
      unsigned char in_core = 0;
#if defined(__linux__)
      if (mincore(reinterpret_cast<void*>(address / page * page), 1, &in_core) != 0) continue;
#else
      continue;
#endif
      ++asked;
      there += in_core & 1;
    }
    return asked ? static_cast<double>(there) / static_cast<double>(asked) : 1.0;
  }

 private:
  // Returns the batch after checking that the arrays have equal sizes.
  Batch checked(const Array<int32_t>& file, const Array<int64_t>& ppg, const Array<int64_t>& ecg) const {
    const int64_t count = file.size();
    check(ppg.size() == count && ecg.size() == count, "file, ppg, ecg: expected as many entries in each");
    return {.files = files_, .count = count, .L = L_, .file = file.data(), .offsets = {ppg.data(), ecg.data()}};
  }

  // Returns the memory of an output [count, L] after checking its shape.
  float* room(Array<float>& out, int64_t count, const char* name) const {
    check(
        out.ndim() == 2 && out.shape(0) == count && out.shape(1) == L_,
        std::string(name) + ": expected shape (" + std::to_string(count) + ", " + std::to_string(L_) + ")");
    return out.mutable_data();
  }

  // Calls work(problems) without Python's global lock and returns problems [count].
  template <class Work>
  Array<uint8_t> without_gil(const Batch& batch, const Work& work) const {
    Array<uint8_t> problems(batch.count);
    uint8_t* const data = problems.mutable_data();
    {
      const py::gil_scoped_release released;
      work(data);
    }
    return problems;
  }

  int64_t L_;
  std::vector<py::buffer_info> held_;  // keeps the maps alive
  std::vector<File> files_;
};

}  // namespace
}  // namespace xmae_io

PYBIND11_MODULE(_C_io, m) {
  using namespace xmae_io;
  m.def("kernels", [] { return std::string(rows().name); });
  m.def("use_kernels", [](const std::string& name) { use_rows(name.c_str()); });
  // .noconvert(), because an array of another type would be copied, and the batch would be written to the copy.
  py::class_<Gather>(m, "Gather")
      .def(
          py::init<
              const std::vector<py::buffer>&, const std::vector<int>&, const std::vector<bool>&,
              const std::vector<int64_t>&, int64_t>(),
          py::arg("maps"), py::arg("sizes"), py::arg("swapped"), py::arg("strides"), py::arg("L"))
      .def(
          "gather", &Gather::gather, py::arg("file").noconvert(), py::arg("ppg").noconvert(),
          py::arg("ecg").noconvert(), py::arg("ppg_out").noconvert(), py::arg("ecg_out").noconvert(), py::arg("half"),
          py::arg("threads"), py::arg("seed") = 0, py::arg("epoch") = 0, py::arg("items").noconvert() = py::none())
      .def(
          "inspect", &Gather::inspect, py::arg("file").noconvert(), py::arg("ppg").noconvert(),
          py::arg("ecg").noconvert(), py::arg("threads"))
      .def(
          "copy", &Gather::copy, py::arg("file").noconvert(), py::arg("ppg").noconvert(), py::arg("ecg").noconvert(),
          py::arg("ppg_out").noconvert(), py::arg("ecg_out").noconvert(), py::arg("threads"))
      .def("resident", &Gather::resident, py::arg("file").noconvert(), py::arg("ppg").noconvert());
}
