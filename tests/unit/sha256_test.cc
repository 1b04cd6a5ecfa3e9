// The hash that the golden tests rest on, against the vectors of FIPS 180-4's examples.
#include "tests/sha256.h"

#include <string>

#include "tests/catch.h"

using dsv4mx::test::Sha256;

TEST_CASE("sha256: published vectors", "[unit]") {
  CHECK(Sha256("", 0) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha256("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  CHECK(Sha256(two.data(), two.size()) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string many(1000000, 'a');
  CHECK(Sha256(many.data(), many.size()) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
