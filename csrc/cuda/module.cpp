// The Python module _C_cuda. Importing it loads the library, whose static initialisers register the
// CUDA implementations of the ops that _C declares.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

namespace {

std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
  m.def("build_facts", [] {
    py::dict facts;
    facts["cuda_version"] = version_name(CUDART_VERSION);
    facts["architectures"] = FISHERMASK_CUDA_ARCHITECTURES;
    return facts;
  });
}
