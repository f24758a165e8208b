// The recurrent layers of a file of this package, as the core takes them; see docs/file-format.md.
#pragma once

#include <deque>
#include <vector>

#include "file.h"
#include "stream.h"

namespace lnrnn {

class Model {
public:
    // Throws FileError where the file is none of this package, or has what the core does not
    // compute, or no stack of layers with one direction each.
    explicit Model(const File& file);

    const std::vector<StreamLayer>& layers() const { return layers_; }

private:
    std::deque<std::vector<float>> owned_;
    std::vector<StreamLayer> layers_;
};

}  // namespace lnrnn
