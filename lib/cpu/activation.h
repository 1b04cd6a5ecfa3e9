// The activation, in the number type of the caller: the formulas are those of dsv4mx_activation.
#ifndef DSV4MX_LIB_CPU_ACTIVATION_H_
#define DSV4MX_LIB_CPU_ACTIVATION_H_

#include <cmath>
#include <limits>

#include "lib/base/spec.h"

namespace dsv4mx::cpu {

// gate * sigmoid(z) * up. Where e^-z overflows, at z < -88.7 in fp32, sigmoid(z) is e^z to the last bit; half of it goes to
// each factor, so that nothing is lost on the way to a product that the number type holds.
template <class Number>
Number GateBySigmoid(Number gate, Number z, Number up) {
  const Number power = std::exp(-z);
  if (power > std::numeric_limits<Number>::max()) {  // not where it is NaN
    const Number root = std::exp(z / 2);
    return gate * root * (up * root);
  }
  const Number one = 1;
  return gate * (one / (one + power)) * up;
}

template <class Number>
Number Activate(const LayerSpec& spec, Number gate, Number up) {
  if (spec.situ_beta > 0) {
    const Number b = spec.situ_beta, l = spec.situ_linear_beta;
    return GateBySigmoid(b * std::tanh(gate / b), gate, l * std::tanh(up / l));
  }
  if (spec.clamp_limit > 0) {  // comparisons with a NaN are false: it stays
    const Number limit = spec.clamp_limit;
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up;
    up = up < -limit ? -limit : up;
  }
  return GateBySigmoid(gate, static_cast<Number>(spec.alpha) * gate,
                       up + static_cast<Number>(spec.beta));
}

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_ACTIVATION_H_
