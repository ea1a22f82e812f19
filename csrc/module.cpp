// The Python module _C. Importing it loads the library, whose static initialisers register the ops;
// the module itself only answers how it was built and what it runs with.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/version.h>

#include <string>

#include "cpu/isa.h"

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
  return __VERSION__;
#else
  return "GCC " __VERSION__;
#endif
}

py::dict build_facts() {
  py::dict facts;
  facts["compiler"] = compiler();
  facts["cpp_standard"] = static_cast<long>(__cplusplus);
  facts["torch_version"] = TORCH_VERSION;
  facts["torch_target_version"] = std::to_string(TORCH_TARGET_VERSION >> 56) + "." +
                                  std::to_string(TORCH_TARGET_VERSION >> 48 & 0xff);
  return facts;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  using namespace fishermask;
  m.def("build_facts", &build_facts);
  m.def("threads", &torch::stable::get_num_threads);
  m.def("instruction_set", [] { return isa_name(isa_in_use()); });
  m.def("machine_instruction_set", [] { return isa_name(isa_of_machine()); });
  m.def(
      "set_instruction_set", [](const std::string& name) { set_isa(parse_isa(name)); },
      py::arg("name"));
}
