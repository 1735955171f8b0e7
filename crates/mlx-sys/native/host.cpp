// Operations of an MLX graph that run a function of the host program. `src/host.rs` declares the interface.

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

using mlx::core::array;

extern "C" {

// An evaluated array. Strides are in elements.
struct ashlar_view {
  void* data;
  const int32_t* shape;
  const int64_t* strides;
  size_t dims;
};

// Returns zero, or a status with a NUL-terminated message.
using ashlar_body = int (*)(
    const void* payload, const ashlar_view* inputs, ashlar_view* outputs, char* message, size_t capacity);

struct ashlar_output {
  const int32_t* shape;
  size_t dims;
  mlx_dtype dtype;
  // Index of the input whose contents the output starts with, or -1.
  int32_t takes;
};
}

namespace {

// Bounds the number of host operations that are prepared and not yet done, across all streams. The thread that
// prepares them sleeps while the bound is reached. Tasks of a stream run without the preparing thread's help, so
// they finish and wake it.
class Gate {
 public:
  void enter() {
    std::unique_lock lock(mutex_);
    left_.wait(lock, [this] { return inside_ < limit_; });
    ++inside_;
  }

  void leave() {
    {
      std::lock_guard lock(mutex_);
      --inside_;
    }
    left_.notify_all();
  }

  void set_limit(size_t limit) {
    {
      std::lock_guard lock(mutex_);
      limit_ = limit;
    }
    left_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  size_t inside_ = 0;
  size_t limit_ = SIZE_MAX;
};

// Never destroyed: streams may still run when the process ends.
Gate& gate() {
  static Gate* gate = new Gate;
  return *gate;
}

// One place inside the gate.
class Ticket {
 public:
  Ticket() { gate().enter(); }
  ~Ticket() { gate().leave(); }
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;
};

// Copies `source`, whatever its strides, to row-major `target`.
void copy_rows(const array& source, char* target) {
  size_t item = source.itemsize();
  if (source.size() == 0) {
    return;
  }
  const char* from = source.data<char>();
  if (source.flags().row_contiguous) {
    std::memcpy(target, from, source.size() * item);
    return;
  }
  // The last axis is copied as a whole where it is contiguous.
  size_t dims = source.ndim();
  size_t row = source.shape(-1);
  int64_t step = source.strides(-1);
  std::vector<int32_t> index(dims, 0);
  for (size_t done = 0; done < source.size(); done += row) {
    int64_t offset = 0;
    for (size_t axis = 0; axis + 1 < dims; ++axis) {
      offset += index[axis] * source.strides(axis);
    }
    const char* line = from + offset * static_cast<int64_t>(item);
    if (step == 1) {
      std::memcpy(target, line, row * item);
    } else {
      for (size_t i = 0; i < row; ++i) {
        std::memcpy(target + i * item, line + static_cast<int64_t>(i * item) * step, item);
      }
    }
    target += row * item;
    for (int axis = static_cast<int>(dims) - 2; axis >= 0; --axis) {
      if (++index[axis] < source.shape(axis)) {
        break;
      }
      index[axis] = 0;
    }
  }
}

class HostOperation : public mlx::core::Primitive {
 public:
  HostOperation(
      mlx::core::Stream stream,
      std::string name,
      ashlar_body body,
      std::shared_ptr<void> payload,
      std::vector<bool> strided,
      std::vector<int32_t> takes)
      : Primitive(stream),
        name_(std::move(name)),
        body_(body),
        payload_(std::move(payload)),
        strided_(std::move(strided)),
        takes_(std::move(takes)) {}

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    auto job = std::make_shared<Job>(name_, body_, payload_);
    std::vector<bool> taken(inputs.size(), false);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (takes_[i] >= 0) {
        taken[takes_[i]] = true;
        job->take(inputs[takes_[i]], outputs[i]);
      } else {
        outputs[i].set_data(mlx::core::allocator::malloc(outputs[i].nbytes()));
      }
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      bool as_is = strided_[i] && (inputs[i].ndim() == 0 || inputs[i].strides(-1) == 1 || inputs[i].shape(-1) <= 1);
      job->add_input(inputs[i], taken[i], as_is);
    }
    for (auto& output : outputs) {
      job->outputs.push_back(array::unsafe_weak_copy(output));
    }
    mlx::core::cpu::get_command_encoder(stream()).dispatch([job = std::move(job)] { job->run(); });
  }

  void eval_gpu(const std::vector<array>&, std::vector<array>&) override {
    throw std::runtime_error("host operation `" + name_ + "` runs on a CPU stream only");
  }

  const char* name() const override { return name_.c_str(); }

 private:
  // Everything that one run needs, alive until the stream has run it.
  struct Job {
    // A copy to make before the body runs.
    struct Copy {
      array source;
      char* target;
    };

    Job(std::string name, ashlar_body body, std::shared_ptr<void> payload)
        : name(std::move(name)), body(body), payload(std::move(payload)) {}

    // Gives `output` the contents of `input`: its buffer if nothing else needs that, else a copy.
    void take(const array& input, array& output) {
      if (input.is_donatable() && input.flags().row_contiguous) {
        output.copy_shared_buffer(input, output.strides(), input.flags(), input.data_size());
      } else {
        output.set_data(mlx::core::allocator::malloc(output.nbytes()));
        copies.push_back({array::unsafe_weak_copy(input), output.data<char>()});
      }
    }

    void add_input(const array& input, bool taken, bool as_is) {
      if (taken || as_is || input.flags().row_contiguous) {
        // MLX keeps the buffer until the task is done; `taken` inputs are read through their output.
        inputs.push_back(array::unsafe_weak_copy(input));
      } else {
        array copy(input.shape(), input.dtype(), nullptr, {});
        copy.set_data(mlx::core::allocator::malloc(copy.nbytes()));
        copies.push_back({array::unsafe_weak_copy(input), copy.data<char>()});
        inputs.push_back(std::move(copy));
      }
      is_taken.push_back(taken);
    }

    void run() {
      for (auto& copy : copies) {
        copy_rows(copy.source, copy.target);
      }
      std::vector<ashlar_view> in, out;
      for (size_t i = 0; i < inputs.size(); ++i) {
        in.push_back(view(inputs[i]));
        if (is_taken[i]) {
          in.back().data = nullptr;
        }
      }
      for (auto& output : outputs) {
        out.push_back(view(output));
      }
      char message[512] = "";
      if (body(payload.get(), in.data(), out.data(), message, sizeof(message)) != 0) {
        throw std::runtime_error("host operation `" + name + "` failed: " + message);
      }
    }

    static ashlar_view view(array& a) {
      return {a.size() == 0 ? nullptr : a.data<void>(), a.shape().data(), a.strides().data(), a.ndim()};
    }

    Ticket ticket;
    std::string name;
    ashlar_body body;
    std::shared_ptr<void> payload;
    std::vector<array> inputs, outputs;
    std::vector<bool> is_taken;
    std::vector<Copy> copies;
  };

  std::string name_;
  ashlar_body body_;
  std::shared_ptr<void> payload_;
  std::vector<bool> strided_;
  std::vector<int32_t> takes_;
};

} // namespace

extern "C" int ashlar_host_operation(
    mlx_vector_array* result,
    const char* name,
    mlx_vector_array inputs,
    const bool* strided,
    const ashlar_output* outputs,
    size_t output_count,
    ashlar_body body,
    void* payload,
    void (*free_payload)(void*),
    mlx_stream stream) {
  // Freed when neither a graph nor a running task needs it, also after an error below.
  std::shared_ptr<void> owned(payload, free_payload);
  try {
    auto& in = mlx_vector_array_get_(inputs);
    auto on = mlx_stream_get_(stream);
    if (on.device != mlx::core::Device::cpu) {
      on = mlx::core::default_stream(mlx::core::Device::cpu);
    }
    std::vector<mlx::core::Shape> shapes;
    std::vector<mlx::core::Dtype> dtypes;
    std::vector<int32_t> takes;
    for (size_t i = 0; i < output_count; ++i) {
      shapes.emplace_back(outputs[i].shape, outputs[i].shape + outputs[i].dims);
      dtypes.push_back(mlx_dtype_to_cpp(outputs[i].dtype));
      takes.push_back(outputs[i].takes);
    }
    auto primitive = std::make_shared<HostOperation>(
        on, name, body, std::move(owned), std::vector<bool>(strided, strided + in.size()), std::move(takes));
    mlx_vector_array_set_(*result, array::make_arrays(std::move(shapes), dtypes, primitive, in));
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
  return 0;
}

extern "C" void ashlar_set_run_ahead(size_t operations) {
  gate().set_limit(operations);
}
