// The activation, in the number type of the caller: the formulas are those of dsv4mx_activation.
#ifndef DSV4MX_LIB_CPU_ACTIVATION_H_
#define DSV4MX_LIB_CPU_ACTIVATION_H_

#include <cmath>

#include "lib/base/spec.h"

namespace dsv4mx::cpu {

template <class Number>
Number Activate(const LayerSpec& spec, Number gate, Number up) {
  const Number one = 1;
  if (spec.situ_beta > 0) {
    const Number b = spec.situ_beta, l = spec.situ_linear_beta;
    const Number sigmoid = one / (one + std::exp(-gate));
    return b * std::tanh(gate / b) * sigmoid * (l * std::tanh(up / l));
  }
  if (spec.clamp_limit > 0) {  // comparisons with a NaN are false: it stays
    const Number limit = spec.clamp_limit;
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up;
    up = up < -limit ? -limit : up;
  }
  const Number sigmoid = one / (one + std::exp(-static_cast<Number>(spec.alpha) * gate));
  return gate * sigmoid * (up + static_cast<Number>(spec.beta));
}

}  // namespace dsv4mx::cpu

#endif  // DSV4MX_LIB_CPU_ACTIVATION_H_
