// XXH64 against its published vectors and against zstd's own copy of it, and the zstd wrapper.
#include "lib/io/xxh64.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lib/io/zstd_codec.h"
#include "tests/catch.h"

namespace {

using dsv4mx::io::Xxh64;
using dsv4mx::io::Xxh64Of;
using dsv4mx::io::ZstdDecoder;
using dsv4mx::io::ZstdEncoder;

std::vector<uint8_t> RandomBytes(size_t bytes, uint32_t seed, int values = 256) {
  std::mt19937 random(seed);
  std::vector<uint8_t> data(bytes);
  for (uint8_t& b : data) b = static_cast<uint8_t>(random() % static_cast<uint32_t>(values));
  return data;
}

TEST_CASE("XXH64 is that of its specification", "[io][snapshot]") {
  CHECK(Xxh64Of("", 0) == 0xEF46DB3751D8E999);
  CHECK(Xxh64Of("a", 1) == 0xD24EC4F1A98C6E5B);
  CHECK(Xxh64Of("abc", 3) == 0x44BC2CF5AD770999);
}

TEST_CASE("XXH64: any cut gives the same sum, whose low half is that of zstd's frames",
          "[io][snapshot]") {
  for (const size_t bytes :
       {0, 1, 3, 4, 5, 7, 8, 12, 31, 32, 33, 63, 64, 65, 100, 255, 1000, 4096, 100001}) {
    INFO(bytes);
    const std::vector<uint8_t> data = RandomBytes(bytes, static_cast<uint32_t>(bytes));
    const uint64_t sum = Xxh64Of(data.data(), bytes);
    for (const size_t cut : {size_t{1}, size_t{7}, size_t{32}, size_t{50}}) {
      Xxh64 parts;
      for (size_t at = 0; at < bytes; at += cut)
        parts.Add(data.data() + at, std::min(cut, bytes - at));
      CHECK(parts.Sum() == sum);
      CHECK(parts.Sum() == sum);  // asking changes nothing
    }
    std::vector<uint8_t> frame(ZSTD_compressBound(bytes) + 8);
    ZSTD_CCtx* context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    const size_t length = ZSTD_compress2(context, frame.data(), frame.size(), data.data(), bytes);
    ZSTD_freeCCtx(context);
    REQUIRE(ZSTD_isError(length) == 0);
    uint32_t low = 0;
    std::memcpy(&low, frame.data() + length - 4, 4);
    CHECK(low == static_cast<uint32_t>(sum));
  }
  Xxh64 zeros;
  zeros.AddZeros(1000);
  CHECK(zeros.Sum() == Xxh64Of(std::vector<uint8_t>(1000).data(), 1000));
}

TEST_CASE("XXH64: every single bit counts", "[io][snapshot]") {
  std::vector<uint8_t> data = RandomBytes(300, 5);
  const uint64_t sum = Xxh64Of(data.data(), data.size());
  for (size_t bit = 0; bit < 8 * data.size(); ++bit) {
    data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
    REQUIRE(Xxh64Of(data.data(), data.size()) != sum);
    data[bit / 8] = static_cast<uint8_t>(data[bit / 8] ^ 1u << bit % 8);
  }
}

TEST_CASE("zstd: frames of every level in memory of the caller's, exact lengths alone",
          "[io][snapshot]") {
  std::vector<uint64_t> decoder_memory(ZstdDecoder::MemoryBytes() / 8 + 1);
  ZstdDecoder decoder(decoder_memory.data());
  for (int level = 1; level <= 19; ++level) {
    for (const size_t most : {size_t{100}, size_t{1} << 16, size_t{300000}}) {
      std::vector<uint64_t> memory(ZstdEncoder::MemoryBytes(level, most) / 8 + 1);
      ZstdEncoder encoder(level, most, memory.data());
      for (const size_t bytes : {most, most / 2, size_t{1}, most}) {
        INFO(level << " " << most << " " << bytes);
        const std::vector<uint8_t> data = RandomBytes(bytes, 9, 5);
        std::vector<uint8_t> frame(ZstdEncoder::Bound(bytes));
        const size_t length = encoder.Encode(data.data(), bytes, frame.data(), frame.size());
        REQUIRE(length > 0);
        if (bytes > 1000) CHECK(length < bytes / 2);
        std::vector<uint8_t> back(bytes + 8, 7);
        REQUIRE(decoder.Decode(frame.data(), length, back.data(), bytes) == nullptr);
        CHECK(std::memcmp(back.data(), data.data(), bytes) == 0);
        CHECK(back[bytes] == 7);
        // Takes as long as the frame itself, seconds at the highest levels.
        if (bytes == most / 2) {
          std::vector<uint8_t> narrow(length);
          CHECK(encoder.Encode(data.data(), bytes, narrow.data(), length - 1) == 0);
        }
        CHECK(decoder.Decode(frame.data(), length, back.data(), bytes + 1) != nullptr);
        CHECK(decoder.Decode(frame.data(), length, back.data(), bytes - 1) != nullptr);
        CHECK(decoder.Decode(frame.data(), length - 1, back.data(), bytes) != nullptr);
        REQUIRE(decoder.Decode(frame.data(), length, back.data(), bytes) == nullptr);
      }
    }
  }
}

}  // namespace
