// One launch as XLA's foreign function interface has it: the binary and how to launch it are
// attributes, so that a compiled program is whole in itself.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "cuda.h"
#include "xla/ffi/api/ffi.h"

namespace lnrnn::cuda {

namespace ffi = xla::ffi;

// In the attribute `launch`.
enum Launch { grid_x, grid_y, grid_z, threads, shared, at_once, launch_words };

// In the attribute `parameters`: an array, operands and then results, by its number, or
enum Parameter { of_flag = -3, of_nothing = -2, of_scalar = -1 };

constexpr const char* unfit = "The attributes of a launch do not fit its arrays.";

inline ffi::Error call(void* stream, std::string_view key, std::string_view name,
                       std::string_view binary, ffi::Span<const int64_t> launched,
                       ffi::Span<const int64_t> parameters, ffi::Span<const int64_t> scalars,
                       ffi::RemainingArgs args, ffi::RemainingRets rets) {
    if (launched.size() != launch_words) return ffi::Error::InvalidArgument(unfit);
    const Driver& driver = Driver::get();
    if (!driver.missing.empty()) return ffi::Error::Internal(driver.missing);
    // the driver takes the address of each parameter
    std::vector<uint64_t> values(parameters.size());
    std::vector<void*> addresses(parameters.size());
    size_t scalar = 0;
    for (size_t i = 0; i < parameters.size(); ++i) {
        const int64_t which = parameters[i];
        void* pointer = nullptr;
        if (which == of_scalar) {
            if (scalar == scalars.size()) return ffi::Error::InvalidArgument(unfit);
            const int32_t number = int32_t(scalars[scalar++]);
            std::memcpy(&values[i], &number, sizeof number);
        } else if (which == of_flag) {
            int result = 0;
            int32_t* flag = cuda::flag().get(driver, stream, &result);
            if (!flag) return ffi::Error::Internal("There is no memory for the flag of a kernel.");
            if (Flag::lower(flag))
                return ffi::Error::Internal(
                    "Programs of an earlier recurrence have waited for each other in vain: the results "
                    "of that call are wrong; run it with engine='portable'.");
            pointer = flag;
        } else if (which >= 0 && size_t(which) < args.size()) {
            auto buffer = args.get<ffi::AnyBuffer>(which);
            if (!buffer) return buffer.error();
            pointer = buffer->untyped_data();
        } else if (which >= 0) {
            auto buffer = rets.get<ffi::AnyBuffer>(which - args.size());
            if (!buffer) return buffer.error();
            pointer = (*buffer)->untyped_data();
        }
        if (which != of_scalar) std::memcpy(&values[i], &pointer, sizeof pointer);
        addresses[i] = &values[i];
    }
    const auto word = [&](Launch i) { return unsigned(launched[i]); };
    const Kernel kernel{key, name, binary, {word(grid_x), word(grid_y), word(grid_z)},
                        word(threads), word(shared), launched[at_once] != 0};
    const std::string why = launch(stream, kernel, addresses.data());
    return why.empty() ? ffi::Error::Success() : ffi::Error::Internal(why);
}

// What follows the stream.
template <typename Binding>
auto bound(Binding&& binding) {
    return std::forward<Binding>(binding)
        .template Attr<std::string_view>("key")
        .template Attr<std::string_view>("name")
        .template Attr<std::string_view>("binary")
        .template Attr<ffi::Span<const int64_t>>("launch")
        .template Attr<ffi::Span<const int64_t>>("parameters")
        .template Attr<ffi::Span<const int64_t>>("scalars")
        .RemainingArgs()
        .RemainingRets();
}

}  // namespace lnrnn::cuda
