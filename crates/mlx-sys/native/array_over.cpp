// Makes an array over memory that MLX does not own, without a copy, on a CPU.
//
// `mlx_array_new_data_managed_payload` asks the allocator for a buffer around foreign memory. The CPU's allocator has
// none to give, so that function copies there.

#include <cstddef>
#include <exception>
#include <memory>
#include <utility>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/private/mlx.h"
#include "mlx/mlx.h"

// Makes an array of `shape` over `data`; calls `release(payload)` when the last use of the memory ends.
//
// `data` must be aligned to 8 bytes and have 8 readable bytes in front: a CPU buffer is the address of its size, which
// the data follows. Those bytes are only read, to decide whether a copy would save memory; any value will do.
// Returns 0, 1 after an exception (reported through MLX's error handler), or 2 if buffers are laid out otherwise. After 1
// or 2 `release` is not called.
extern "C" int ashlar_array_over(
    mlx_array* result,
    void* data,
    const int* shape,
    int dimensions,
    mlx_dtype dtype,
    void* payload,
    void (*release)(void*)) {
  try {
    mlx::core::allocator::Buffer buffer(static_cast<std::size_t*>(data) - 1);
    if (buffer.raw_ptr() != data) {
      return 2;
    }
    mlx::core::Shape extents(shape, shape + dimensions);
    auto deleter = [payload, release](mlx::core::allocator::Buffer) { release(payload); };
#if MLX_VERSION_NUMERIC >= 32004
    // A buffer and its deleter are one object there, which must not release what no array has taken over.
    auto taken = std::make_shared<bool>(false);
    mlx::core::allocator::Data owned(buffer, [taken, deleter](mlx::core::allocator::Buffer given) {
      if (*taken) {
        deleter(given);
      }
    });
    mlx::core::array made(std::move(owned), std::move(extents), mlx_dtype_to_cpp(dtype));
    *taken = true;
    mlx_array_set_(*result, std::move(made));
#else
    mlx_array_set_(*result, mlx::core::array(buffer, std::move(extents), mlx_dtype_to_cpp(dtype), deleter));
#endif
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
  return 0;
}
