/* Prints what a SavedModel of export/saved_model.py finds in a picture, without Python.

    ./serve MODEL PICTURE

One line for each object, tabs between: name, score, the box (x0, y0, x1, y1) in pixels, how many
pixels its mask has. Exit status 1 after one line if the model or the picture cannot be read.

The headers and libraries of TensorFlow's wheel are enough to build it:

    TF=$(python -c "import tensorflow as tf; print(tf.sysconfig.get_lib())")
    g++ -std=c++17 -O2 -DEIGEN_MAX_ALIGN_BYTES=64 -isystem $TF/include export/examples/serve.cc \
        -o serve -L$TF -Wl,-rpath,$TF -Wl,--no-as-needed \
        -l:libtensorflow_cc.so.2 -l:libtensorflow_framework.so.2

(libtensorflow_cc registers sessions and operators, which nothing here calls by name: the linker
would leave it out.)
*/

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

using tensorflow::Tensor;
using tensorflow::tstring;

namespace {

void check(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// What the endpoint serving_default answers, by the names of its outputs.
std::map<std::string, Tensor> answer(const std::string& model, const std::string& encoded) {
  tensorflow::SavedModelBundle loaded;
  check(tensorflow::LoadSavedModel({}, {}, model, {"serve"}, &loaded));
  const auto& endpoint = loaded.GetSignatures().at("serving_default");
  std::vector<std::string> keys, tensors;
  for (const auto& [key, tensor] : endpoint.outputs()) {
    keys.push_back(key);
    tensors.push_back(tensor.name());
  }
  Tensor batch(tensorflow::DT_STRING, {1});
  batch.vec<tstring>()(0) = encoded;
  std::vector<Tensor> values;
  check(loaded.GetSession()->Run({{endpoint.inputs().at("encoded").name(), batch}}, tensors, {},
                                 &values));
  std::map<std::string, Tensor> named;
  for (size_t i = 0; i < keys.size(); ++i) named.emplace(keys[i], values[i]);
  return named;
}

// The objects of the batch's one picture; rows that are not valid are padding.
void print(const std::map<std::string, Tensor>& found) {
  const auto valid = found.at("valid").matrix<bool>();
  const auto names = found.at("names").matrix<tstring>();
  const auto scores = found.at("scores").matrix<float>();
  const auto boxes = found.at("boxes").tensor<float, 3>();
  const auto masks = found.at("masks").tensor<uint8_t, 4>();
  const auto pixels = masks.dimension(2) * masks.dimension(3);
  for (int row = 0; row < valid.dimension(1); ++row) {
    if (!valid(0, row)) continue;
    const auto* mask = &masks(0, row, 0, 0);
    long area = 0;
    for (long pixel = 0; pixel < pixels; ++pixel) area += mask[pixel];
    std::printf("%s\t%.6f\t%.3f\t%.3f\t%.3f\t%.3f\t%ld\n", names(0, row).c_str(), scores(0, row),
                boxes(0, row, 0), boxes(0, row, 1), boxes(0, row, 2), boxes(0, row, 3), area);
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: %s MODEL PICTURE\n", arguments[0]);
    return 2;
  }
  try {
    const auto found = answer(arguments[1], bytes_of(arguments[2]));
    const std::string error = found.at("errors").vec<tstring>()(0);
    if (!error.empty()) throw std::runtime_error(std::string(arguments[2]) + ": " + error);
    print(found);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
