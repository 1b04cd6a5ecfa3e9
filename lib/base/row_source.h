// Rows that are made when they are wanted: what a store fills itself from where the tensor is in no memory, but in a file.
// The store says where the bytes go, so that nothing is copied twice, and who reads them.
#ifndef DSV4MX_LIB_BASE_ROW_SOURCE_H_
#define DSV4MX_LIB_BASE_ROW_SOURCE_H_

#include <cstdint>

#include "lib/base/status.h"

namespace dsv4mx {

class RowSource {
 public:
  virtual ~RowSource() = default;
  // Bytes of one row as Read gives it.
  virtual int64_t RowBytes() const = 0;
  // Writes rows [first, first + rows) to `to`, one behind the other. Any number of threads may read.
  virtual Status Read(int64_t first, int64_t rows, uint8_t* to) const = 0;
  // Bytes of the file from one row to the next: what progress counts.
  virtual int64_t FileBytes() const { return RowBytes(); }
  // Asks the system to have these rows ready. Only a hint.
  virtual void Prefetch(int64_t /*first*/, int64_t /*rows*/) const {}
};

}  // namespace dsv4mx

#endif  // DSV4MX_LIB_BASE_ROW_SOURCE_H_
