// Numbers of fixed width in files, lowest byte first whatever the machine does.
#ifndef DSV4MX_LIB_IO_LITTLE_ENDIAN_H_
#define DSV4MX_LIB_IO_LITTLE_ENDIAN_H_

#include <cstdint>
#include <type_traits>

namespace dsv4mx::io {

// `T` is an integer. Compilers make one load of it.
template <class T>
T LoadLittle(const uint8_t* from) {
  using Unsigned = std::make_unsigned_t<T>;
  Unsigned value = 0;
  for (unsigned i = 0; i < sizeof(T); ++i) {
    value = static_cast<Unsigned>(value | static_cast<Unsigned>(Unsigned{from[i]} << (8 * i)));
  }
  return static_cast<T>(value);
}

template <class T>
void StoreLittle(T value, uint8_t* to) {
  const auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (unsigned i = 0; i < sizeof(T); ++i) to[i] = static_cast<uint8_t>(bits >> (8 * i));
}

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_LITTLE_ENDIAN_H_
