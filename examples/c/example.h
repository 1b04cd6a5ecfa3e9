/* What the example programs share and what is not the library's business: options, time,
 * progress, random numbers and bf16. Everything is static, so that each example stays one file
 * and this one. */
#ifndef DSV4MX_EXAMPLES_C_EXAMPLE_H_
#define DSV4MX_EXAMPLES_C_EXAMPLE_H_

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* One line on stderr and a non-zero exit: what every failure of an example looks like. */
static inline void Die(const char* format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "%s", isatty(STDERR_FILENO) ? "\r\033[K" : ""); /* over a progress line */
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(1);
}

static inline double Seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Progress of something long: silent for a second, then a line that overwrites itself, on a
 * terminal only. */
typedef struct {
  const char* what;
  double start, last;
  int shown;
} Progress;

static inline void ProgressStart(Progress* p, const char* what) {
  p->what = what;
  p->start = p->last = Seconds();
  p->shown = 0;
}

static inline void ProgressShow(Progress* p, double fraction) {
  const double now = Seconds();
  if (now - p->start < 1.0 || now - p->last < 0.1 || !isatty(STDERR_FILENO)) return;
  p->last = now;
  p->shown = 1;
  fprintf(stderr, "\r\033[K%s: %3.0f %%, %.0f s", p->what, 100.0 * fraction, now - p->start);
  fflush(stderr);
}

static inline double ProgressEnd(Progress* p) {
  if (p->shown) fprintf(stderr, "\r\033[K");
  p->shown = 0;
  return Seconds() - p->start;
}

/* splitmix64 (Steele, Lea, Flood): any seed will do, and a stream of its own for every use. */
typedef struct {
  uint64_t state;
} Rng;

static inline uint64_t RngNext(Rng* r) {
  uint64_t z = (r->state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static inline Rng RngMake(uint64_t seed, uint64_t stream) {
  Rng r = {seed ^ (stream * 0xD1B54A32D192ED03u)};
  r.state = RngNext(&r);
  return r;
}

static inline double RngUniform(Rng* r) {
  return ((double)(RngNext(r) >> 11) + 0.5) * 0x1p-53;
} /* (0, 1) */

static inline double RngNormal(Rng* r) {
  const double radius = sqrt(-2.0 * log(RngUniform(r)));
  return radius * cos(6.283185307179586 * RngUniform(r));
}

static inline float FromBf16(uint16_t b) {
  const uint32_t bits = (uint32_t)b << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

/* Nearest, ties to even; finite values. */
static inline uint16_t ToBf16(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Options: "--name value" anywhere, everything else is positional. */
static inline const char* OptionText(int argc, char** argv, int* i) {
  if (*i + 1 >= argc) Die("%s: %s needs a value", argv[0], argv[*i]);
  return argv[++*i];
}

static inline int64_t OptionInt(int argc, char** argv, int* i, int64_t low, int64_t high) {
  const char* name = argv[*i];
  const char* text = OptionText(argc, argv, i);
  char* end;
  const long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < low || value > high) {
    Die("%s: %s is '%s', expected %lld..%lld", argv[0], name, text, (long long)low,
        (long long)high);
  }
  return value;
}

static inline double OptionReal(int argc, char** argv, int* i, double low, double high) {
  const char* name = argv[*i];
  const char* text = OptionText(argc, argv, i);
  char* end;
  const double value = strtod(text, &end);
  if (*text == '\0' || *end != '\0' || !(value >= low && value <= high)) {
    Die("%s: %s is '%s', expected %g..%g", argv[0], name, text, low, high);
  }
  return value;
}

static inline void* Alloc(size_t bytes) {
  void* p = malloc(bytes > 0 ? bytes : 1);
  if (p == NULL) Die("out of memory: %zu bytes", bytes);
  return p;
}

#endif /* DSV4MX_EXAMPLES_C_EXAMPLE_H_ */
