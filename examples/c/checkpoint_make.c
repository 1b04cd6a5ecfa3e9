/* Writes MoE layers as a safetensors checkpoint in DeepSeek-V4's own form, so that the other
 * examples need no download: layers.N.ffn.experts.M.w{1,2,3}.weight (I8, two E2M1 codes a byte)
 * and .scale (F8_E8M0, one byte per 32 values), plus the router (gate.weight BF16, gate.bias
 * F32). One layer, or several and draft blocks (mtp.K, half as many experts).
 *
 * The codes come from numbers, as in a real model: every expert draws its own Gaussian (even
 * experts) or heavy-tailed (odd experts, Student's t with 4 degrees of freedom) weights with a
 * width of its own per row, and each group of 32 is quantised by the rule of the OCP
 * Microscaling specification (v1.0, section 6.3): scale 2^(floor(log2 max) - 2), round to
 * nearest even, saturate. Uniformly random bytes would never meet most of what a real layer
 * meets.
 *
 * The data begins at an odd byte of the file and every tensor has an even size, so every tensor
 * lies at an odd offset: the format allows it, and readers that assume alignment break on it. */
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "example.h"

enum { kGroup = 32, kTableBits = 16, kMaxShards = 64, kMaxPath = 4096 };

typedef struct {
  const char* path;
  const char* prefix;
  int64_t layer, layers, drafts, experts, hidden, intermediate, shards, threads;
  uint64_t seed;
} Options;

typedef struct {
  char name[160];
  const char* dtype;
  int64_t shape[2];
  int rank, shard;
  int64_t bytes, offset; /* offset: in the shard's file */
} Tensor;

typedef struct {
  char name[64], part[kMaxPath + 8], path[kMaxPath];
  int fd;
  int64_t data_bytes;
} Shard;

typedef struct {
  const Options* options;
  /* Expert e, counted over all blocks, has 6 from 6*e on: w1.weight, w1.scale, w2..., w3...; behind
   * them block b has 2 of its router. */
  Tensor* tensors;
  Shard* shards;
  float*
      normal; /* inverse distribution functions at 2^16 midpoints: a random number is a look-up */
  float* heavy;
  atomic_llong next, done;
} Job;

/* Block b: the layers, then the draft blocks, which have half as many experts. */
static int64_t BlockExperts(const Options* o, int64_t b) {
  return b < o->layers ? o->experts : (o->experts + 1) / 2;
}

static int64_t AllExperts(const Options* o) {
  return o->layers * o->experts + o->drafts * BlockExperts(o, o->layers);
}

static void BlockStem(const Options* o, int64_t b, char* out, size_t bytes) {
  const int layer = b < o->layers;
  snprintf(out, bytes, "%s%s.%lld.ffn.", o->prefix, layer ? "layers" : "mtp",
           (long long)(layer ? o->layer + b : b - o->layers));
}

/* ---- numbers ---- */

/* Inverse of the normal distribution function by bisection of erfc: slow, exact, and called 2^15
 * times. */
static double NormalQuantile(double p) {
  double low = -10.0, high = 10.0;
  for (int i = 0; i < 60; ++i) {
    const double mid = 0.5 * (low + high);
    if (0.5 * erfc(-mid * 0.7071067811865476) < p)
      low = mid;
    else
      high = mid;
  }
  return 0.5 * (low + high);
}

/* Student's t, 4 degrees of freedom, closed form (W. T. Shaw, 2006), scaled to unit variance. */
static double HeavyQuantile(double p) {
  const double alpha = 4.0 * p * (1.0 - p);
  const double q = cos(acos(sqrt(alpha)) / 3.0) / sqrt(alpha);
  return (p < 0.5 ? -2.0 : 2.0) * sqrt(q - 1.0) * 0.7071067811865476;
}

static void FillTables(Job* job) {
  const int n = 1 << kTableBits;
  job->normal = Alloc(sizeof(float) * (size_t)n);
  job->heavy = Alloc(sizeof(float) * (size_t)n);
  for (int i = 0; i < n / 2; ++i) {
    const double p = (i + 0.5) / n;
    job->normal[i] = (float)NormalQuantile(p);
    job->heavy[i] = (float)HeavyQuantile(p);
    job->normal[n - 1 - i] = -job->normal[i];
    job->heavy[n - 1 - i] = -job->heavy[i];
  }
}

/* 32 numbers to 16 bytes of codes; returns the scale byte. */
static uint8_t QuantiseGroup(const float* v, uint8_t* codes) {
  float max = 0.0f;
  for (int i = 0; i < kGroup; ++i) {
    const float a = fabsf(v[i]);
    max = a > max ? a : max;
  }
  uint32_t bits;
  memcpy(&bits, &max, sizeof bits);
  int byte = (int)(bits >> 23) - 2; /* biased exponent of max, less the largest exponent of E2M1 */
  if (byte < 1) byte = 1;
  const uint32_t inverse_bits = (uint32_t)(254 - byte) << 23;
  float inverse; /* 2^-(byte - 127) */
  memcpy(&inverse, &inverse_bits, sizeof inverse);
  uint8_t code[kGroup];
  for (int i = 0; i < kGroup; ++i) {
    /* Midpoints between 0, 0.5, 1, 1.5, 2, 3, 4, 6; a tie goes to the even code. */
    const float a = fabsf(v[i]) * inverse;
    const int magnitude = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                          (a >= 3.5f) + (a > 5.0f);
    code[i] = (uint8_t)(magnitude | (v[i] < 0.0f ? 8 : 0));
  }
  for (int i = 0; i < kGroup / 2; ++i) codes[i] = (uint8_t)(code[2 * i] | code[2 * i + 1] << 4);
  return (uint8_t)byte;
}

/* One matrix of one expert: [rows, k]. 0.025 is about the width of released experts: scale bytes
 * around 120. */
static void MakeMatrix(const Job* job, int64_t expert, int matrix, int64_t rows, int64_t k,
                       uint8_t* codes, uint8_t* scales) {
  const float* table = expert % 2 == 0 ? job->normal : job->heavy;
  Rng rng = RngMake(job->options->seed, (uint64_t)(expert * 3 + matrix + 1));
  for (int64_t row = 0; row < rows; ++row) {
    const float width = (float)(0.025 * exp(0.3 * RngNormal(&rng)));
    for (int64_t group = 0; group < k / kGroup; ++group) {
      float v[kGroup];
      for (int i = 0; i < kGroup; i += 4) {
        const uint64_t r = RngNext(&rng);
        v[i] = width * table[r & 0xffff];
        v[i + 1] = width * table[r >> 16 & 0xffff];
        v[i + 2] = width * table[r >> 32 & 0xffff];
        v[i + 3] = width * table[r >> 48];
      }
      *scales++ = QuantiseGroup(v, codes);
      codes += kGroup / 2;
    }
  }
}

/* ---- files ---- */

static Shard* open_shards; /* for the clean-up of a failed run */
static int64_t open_count;

static void RemoveParts(void) {
  for (int64_t i = 0; i < open_count; ++i) {
    if (open_shards[i].part[0] != '\0') unlink(open_shards[i].part);
  }
}

static void WriteAt(const Shard* shard, const void* bytes, size_t size, int64_t offset) {
  const char* from = bytes;
  while (size > 0) {
    const ssize_t n = pwrite(shard->fd, from, size, (off_t)offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) Die("%s: cannot write: %s", shard->part, n < 0 ? strerror(errno) : "no space");
    from += n;
    size -= (size_t)n;
    offset += n;
  }
}

static Tensor* AddTensor(Tensor* at, const char* dtype, int64_t bytes_each, int rank, int64_t d0,
                         int64_t d1) {
  at->dtype = dtype;
  at->rank = rank;
  at->shape[0] = d0;
  at->shape[1] = d1;
  at->bytes = bytes_each * d0 * (rank == 2 ? d1 : 1);
  return at + 1;
}

/* Names, shapes, and which shard: cut by count, so that a cut may fall inside an expert. */
static int64_t ListTensors(const Options* o, Tensor* tensors) {
  Tensor* t = tensors;
  char stem[112];
  for (int64_t b = 0; b < o->layers + o->drafts; ++b) {
    BlockStem(o, b, stem, sizeof stem);
    for (int64_t e = 0; e < BlockExperts(o, b); ++e) {
      for (int m = 1; m <= 3; ++m) {
        const int64_t rows = m == 2 ? o->hidden : o->intermediate,
                      k = m == 2 ? o->intermediate : o->hidden;
        snprintf(t[0].name, sizeof t->name, "%sexperts.%lld.w%d.weight", stem, (long long)e, m);
        snprintf(t[1].name, sizeof t->name, "%sexperts.%lld.w%d.scale", stem, (long long)e, m);
        t = AddTensor(t, "I8", 1, 2, rows, k / 2);
        t = AddTensor(t, "F8_E8M0", 1, 2, rows, k / kGroup);
      }
    }
  }
  for (int64_t b = 0; b < o->layers + o->drafts; ++b) {
    BlockStem(o, b, stem, sizeof stem);
    snprintf(t->name, sizeof t->name, "%sgate.weight", stem);
    t = AddTensor(t, "BF16", 2, 2, BlockExperts(o, b), o->hidden);
    snprintf(t->name, sizeof t->name, "%sgate.bias", stem);
    t = AddTensor(t, "F32", 4, 1, BlockExperts(o, b), 0);
  }
  const int64_t count = t - tensors;
  for (int64_t i = 0; i < count; ++i) tensors[i].shard = (int)(i * o->shards / count);
  return count;
}

/* Creates a shard's file at its full size and writes the header. */
static void StartShard(Shard* shard, int index, Tensor* tensors, int64_t count, uint64_t seed) {
  size_t used = 0;
  const size_t room = 256 + (size_t)count * 320;
  char* header = Alloc(room);
  used += (size_t)snprintf(
      header, room,
      "{\"__metadata__\":{\"format\":\"pt\",\"made_by\":\"checkpoint_make\",\"seed\":\"%llu\"}",
      (unsigned long long)seed);
  int64_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    Tensor* t = &tensors[i];
    if (t->shard != index) continue;
    char shape[48];
    if (t->rank == 2)
      snprintf(shape, sizeof shape, "%lld,%lld", (long long)t->shape[0], (long long)t->shape[1]);
    else
      snprintf(shape, sizeof shape, "%lld", (long long)t->shape[0]);
    used +=
        (size_t)snprintf(header + used, room - used,
                         ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
                         t->name, t->dtype, shape, (long long)at, (long long)(at + t->bytes));
    t->offset = at;
    at += t->bytes;
  }
  header[used++] = '}';
  if (used % 2 == 0) header[used++] = ' '; /* 8 + odd: the data begins at an odd byte */
  shard->data_bytes = at;
  for (int64_t i = 0; i < count; ++i) {
    if (tensors[i].shard == index) tensors[i].offset += 8 + (int64_t)used;
  }

  shard->fd = open(shard->part, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  if (shard->fd < 0) Die("%s: cannot create: %s", shard->part, strerror(errno));
  /* Now and not after minutes: a full disk. */
  const int error = posix_fallocate(shard->fd, 0, (off_t)(8 + (int64_t)used + at));
  if (error != 0 && error != EOPNOTSUPP && error != EINVAL) {
    Die("%s: cannot reserve %lld bytes: %s", shard->part, (long long)at, strerror(error));
  }
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = (uint8_t)((uint64_t)used >> (8 * i));
  WriteAt(shard, length, sizeof length, 0);
  WriteAt(shard, header, used, 8);
  free(header);
}

static void WriteIndex(const char* folder, const Tensor* tensors, int64_t count,
                       const Shard* shards) {
  char path[kMaxPath], part[kMaxPath + 8];
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  snprintf(part, sizeof part, "%s.part", path);
  FILE* f = fopen(part, "w");
  if (f == NULL) Die("%s: cannot create: %s", part, strerror(errno));
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += tensors[i].bytes;
  fprintf(f, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {\n", (long long)total);
  for (int64_t i = 0; i < count; ++i) {
    fprintf(f, "    \"%s\": \"%s\"%s\n", tensors[i].name, shards[tensors[i].shard].name,
            i + 1 < count ? "," : "");
  }
  fprintf(f, "  }\n}\n");
  if (fclose(f) != 0 || rename(part, path) != 0) Die("%s: cannot write: %s", path, strerror(errno));
}

/* ---- work ---- */

/* Takes one matrix after the other until none is left. What is written depends on the seed
 * alone. */
static void* Worker(void* arg) {
  Job* job = arg;
  const Options* o = job->options;
  const size_t codes_bytes = (size_t)(o->hidden * o->intermediate / 2);
  uint8_t* codes = Alloc(codes_bytes);
  uint8_t* scales = Alloc(codes_bytes / 16);
  for (;;) {
    const int64_t item = atomic_fetch_add(&job->next, 1);
    if (item >= 3 * AllExperts(o)) break;
    const Tensor* weight = &job->tensors[2 * item];
    const Tensor* scale = weight + 1;
    MakeMatrix(job, item / 3, (int)(item % 3), weight->shape[0], 2 * weight->shape[1], codes,
               scales);
    WriteAt(&job->shards[weight->shard], codes, (size_t)weight->bytes, weight->offset);
    WriteAt(&job->shards[scale->shard], scales, (size_t)scale->bytes, scale->offset);
    atomic_fetch_add(&job->done, 1);
  }
  free(codes);
  free(scales);
  return NULL;
}

/* Logits of about unit width for unit-width tokens; biases near the 8.08 that releases are
 * reported to have. */
static void WriteRouter(const Job* job, int64_t block) {
  const Options* o = job->options;
  const Tensor* weight = &job->tensors[6 * AllExperts(o) + 2 * block];
  const Tensor* bias = weight + 1;
  const int64_t experts = BlockExperts(o, block), n = experts * o->hidden;
  uint16_t* w = Alloc(sizeof(uint16_t) * (size_t)n);
  float* b = Alloc(sizeof(float) * (size_t)experts);
  Rng rng = RngMake(o->seed, block == 0 ? 0 : ((uint64_t)1 << 40) + (uint64_t)block);
  const float width = 1.0f / sqrtf((float)o->hidden);
  for (int64_t i = 0; i < n; ++i) w[i] = ToBf16(width * job->normal[RngNext(&rng) >> 48]);
  for (int64_t e = 0; e < experts; ++e) b[e] = (float)(8.08 + 0.02 * RngNormal(&rng));
  WriteAt(&job->shards[weight->shard], w, (size_t)weight->bytes, weight->offset);
  WriteAt(&job->shards[bias->shard], b, (size_t)bias->bytes, bias->offset);
  free(w);
  free(b);
}

static void Usage(const char* program) {
  printf(
      "usage: %s PATH [options]\n"
      "PATH ending in .safetensors: one file; else a folder with shards and "
      "model.safetensors.index.json\n"
      "  --preset small|flash|pro|v41   sizes; small is E 16, H 1024, I 288; flash writes 3.2 GiB, "
      "pro 12.6, v41 6.7\n"
      "  --experts E --hidden H --intermediate I\n"
      "  --layer N                      number of the first layer in the names (3)\n"
      "  --layers N                     layers, of which each is as large as the sizes say (1)\n"
      "  --drafts N                     draft blocks mtp.0 .. with half as many experts (0)\n"
      "  --prefix P                     put before the names, e.g. model.\n"
      "  --shards N                     files of a folder (2)\n"
      "  --seed N                       (1)\n"
      "  --threads N                    (one per processor)\n",
      program);
}

static int EndsWith(const char* text, const char* end) {
  const size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

static Options ParseOptions(int argc, char** argv) {
  Options o = {.prefix = "",
               .layer = 3,
               .layers = 1,
               .experts = 16,
               .hidden = 1024,
               .intermediate = 288,
               .shards = 2,
               .seed = 1};
  o.threads = sysconf(_SC_NPROCESSORS_ONLN);
  for (int i = 1; i < argc; ++i) {
    const char* a = argv[i];
    if (strcmp(a, "--help") == 0) {
      Usage(argv[0]);
      exit(0);
    } else if (strcmp(a, "--preset") == 0) {
      const struct {
        const char* name;
        int64_t experts, hidden, intermediate;
      } presets[] = {{"small", 16, 1024, 288},
                     {"flash", 256, 4096, 2048},
                     {"pro", 384, 7168, 3072},
                     {"v41", 384, 5120, 2304}};
      const char* name = OptionText(argc, argv, &i);
      int known = 0;
      for (size_t p = 0; p < sizeof presets / sizeof presets[0]; ++p) {
        if (strcmp(name, presets[p].name) != 0) continue;
        known = 1;
        o.experts = presets[p].experts;
        o.hidden = presets[p].hidden;
        o.intermediate = presets[p].intermediate;
      }
      if (!known) Die("%s: --preset is '%s', expected small, flash, pro or v41", argv[0], name);
    } else if (strcmp(a, "--experts") == 0) {
      o.experts = OptionInt(argc, argv, &i, 1, 4096);
    } else if (strcmp(a, "--hidden") == 0) {
      o.hidden = OptionInt(argc, argv, &i, 32, 65536);
    } else if (strcmp(a, "--intermediate") == 0) {
      o.intermediate = OptionInt(argc, argv, &i, 32, 65536);
    } else if (strcmp(a, "--layer") == 0) {
      o.layer = OptionInt(argc, argv, &i, 0, 9999);
    } else if (strcmp(a, "--layers") == 0) {
      o.layers = OptionInt(argc, argv, &i, 1, 1000);
    } else if (strcmp(a, "--drafts") == 0) {
      o.drafts = OptionInt(argc, argv, &i, 0, 100);
    } else if (strcmp(a, "--prefix") == 0) {
      o.prefix = OptionText(argc, argv, &i);
      if (strlen(o.prefix) > 64 || strpbrk(o.prefix, "\"\\") != NULL)
        Die("%s: --prefix is no prefix of a name", argv[0]);
    } else if (strcmp(a, "--shards") == 0) {
      o.shards = OptionInt(argc, argv, &i, 1, kMaxShards);
    } else if (strcmp(a, "--seed") == 0) {
      o.seed = (uint64_t)OptionInt(argc, argv, &i, 0, INT64_MAX);
    } else if (strcmp(a, "--threads") == 0) {
      o.threads = OptionInt(argc, argv, &i, 1, 4096);
    } else if (a[0] == '-' || o.path != NULL) {
      Die("%s: what is '%s'? try --help", argv[0], a);
    } else {
      o.path = a;
    }
  }
  if (o.path == NULL) Die("%s: no path given; try --help", argv[0]);
  if (strlen(o.path) > kMaxPath - 72) Die("%s: the path is too long", argv[0]);
  if (o.hidden % kGroup != 0 || o.intermediate % kGroup != 0) {
    Die("%s: hidden %lld and intermediate %lld, expected multiples of %d", argv[0],
        (long long)o.hidden, (long long)o.intermediate, kGroup);
  }
  if (o.threads > 3 * AllExperts(&o)) o.threads = 3 * AllExperts(&o);
  return o;
}

int main(int argc, char** argv) {
  Options o = ParseOptions(argc, argv);
  const int one_file = EndsWith(o.path, ".safetensors");
  if (one_file) o.shards = 1;
  const int64_t blocks = o.layers + o.drafts, items = 3 * AllExperts(&o);
  Tensor* tensors = calloc((size_t)(2 * items + 2 * blocks), sizeof *tensors);
  Shard* shards = calloc((size_t)o.shards, sizeof *shards);
  pthread_t* threads = calloc((size_t)o.threads, sizeof *threads);
  if (tensors == NULL || shards == NULL || threads == NULL) Die("out of memory");
  const int64_t count = ListTensors(&o, tensors);

  if (!one_file && mkdir(o.path, 0777) != 0 && errno != EEXIST)
    Die("%s: cannot create: %s", o.path, strerror(errno));
  open_shards = shards;
  open_count = o.shards;
  atexit(RemoveParts);
  for (int i = 0; i < o.shards; ++i) {
    if (one_file) {
      snprintf(shards[i].path, sizeof shards[i].path, "%s", o.path);
    } else {
      snprintf(shards[i].name, sizeof shards[i].name, "model-%05d-of-%05d.safetensors", i + 1,
               (int)o.shards);
      snprintf(shards[i].path, sizeof shards[i].path, "%.*s/%s", kMaxPath - 72, o.path,
               shards[i].name);
    }
    snprintf(shards[i].part, sizeof shards[i].part, "%s.part", shards[i].path);
    StartShard(&shards[i], i, tensors, count, o.seed);
  }

  Job job = {.options = &o, .tensors = tensors, .shards = shards};
  FillTables(&job);
  Progress progress;
  ProgressStart(&progress, "writing the checkpoint");
  for (int64_t i = 0; i < o.threads; ++i) {
    if (pthread_create(&threads[i], NULL, Worker, &job) != 0) Die("cannot start a thread");
  }
  for (int64_t b = 0; b < blocks; ++b) WriteRouter(&job, b);
  for (int64_t left; (left = items - atomic_load(&job.done)) > 0;) {
    ProgressShow(&progress, 1.0 - (double)left / (double)items);
    nanosleep(&(struct timespec){.tv_nsec = left > 16 ? 50000000 : 1000000}, NULL);
  }
  for (int64_t i = 0; i < o.threads; ++i) pthread_join(threads[i], NULL);

  int64_t bytes = 0;
  for (int i = 0; i < o.shards; ++i) {
    bytes += shards[i].data_bytes;
    if (close(shards[i].fd) != 0) Die("%s: cannot write: %s", shards[i].part, strerror(errno));
    if (rename(shards[i].part, shards[i].path) != 0)
      Die("%s: cannot rename: %s", shards[i].part, strerror(errno));
    shards[i].part[0] = '\0';
  }
  if (!one_file) WriteIndex(o.path, tensors, count, shards);
  const double seconds = ProgressEnd(&progress);
  printf(
      "%s: %lld layer%s from %lld on, %lld draft block%s, E %lld, H %lld, I %lld, seed %llu, "
      "%lld file%s, %.3f GB in %.1f s\n",
      o.path, (long long)o.layers, o.layers == 1 ? "" : "s", (long long)o.layer,
      (long long)o.drafts, o.drafts == 1 ? "" : "s", (long long)o.experts, (long long)o.hidden,
      (long long)o.intermediate, (unsigned long long)o.seed, (long long)o.shards,
      o.shards == 1 ? "" : "s", 1e-9 * (double)bytes, seconds);
  free(job.normal);
  free(job.heavy);
  free(threads);
  open_count = 0;
  free(shards);
  free(tensors);
  return 0;
}
