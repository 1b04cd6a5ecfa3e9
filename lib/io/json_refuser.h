// A base for SAX handlers that refuse every JSON event their file format does not name.
//
// SAX and not the DOM: the DOM keeps one of two equal keys without a word, and a header with two
// entries of one name must be refused. Derived handlers override the events they expect; all others
// end the parse with one line in error().
#ifndef DSV4MX_LIB_IO_JSON_REFUSER_H_
#define DSV4MX_LIB_IO_JSON_REFUSER_H_

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

namespace dsv4mx::io {

class JsonRefuser : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { return Unexpected("a number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Unexpected("a number that is no 64-bit integer");
  }
  bool string(string_t&) override { return Unexpected("a string"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool start_object(size_t) override { return Unexpected("an object"); }
  bool key(string_t&) override { return Unexpected("a key"); }
  bool end_object() override { return Unexpected("the end of an object"); }
  bool start_array(size_t) override { return Unexpected("an array"); }
  bool end_array() override { return Unexpected("the end of an array"); }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Refuse("is not valid JSON at byte " + std::to_string(position));
  }

  const std::string& error() const { return error_; }

 protected:
  // The first refusal is the one that is told.
  bool Refuse(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }
  // What the handler was waiting for, with the place: "a dtype string of tensor 'x'".
  virtual std::string Wanted() const = 0;

 private:
  bool Unexpected(const char* got) {
    return Refuse(std::string("has ") + got + " where " + Wanted() + " belongs");
  }

  std::string error_;
};

}  // namespace dsv4mx::io

#endif  // DSV4MX_LIB_IO_JSON_REFUSER_H_
