// struct_size of every struct: older and smaller ones are accepted, larger ones if what is unknown is zero. NULL for every
// pointer argument. Defaults are zero.
#include <cstddef>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <set>
#include <string>

#include "tests/catch.h"
#include "tests/check.h"
#include "tests/checkpoint_forms.h"
#include "tests/safetensors_file.h"

namespace dsv4mx::test {
namespace {

const char* const kLayer = "h=64 i=32 e=3 k=2 m=4";

// Everything that calls may need, alive.
struct World {
  World()
      : c(MakeCase(kLayer)),
        run(c),
        x(nullptr, c.in.x.data(), c.in.x.size() * 2, 16),
        out(nullptr, 4 * 64 * 2, 16),
        ids(PackIds(c.p, c.in.ids)) {
    need = WorkspaceBytes(run.layer(), 4);
    space = std::make_unique<Guarded>(nullptr, need, 256);
    args.x = x.data();
    args.topk_ids = ids.data();
    args.topk_weights = c.in.weights.data();
    args.out = out.data();
    args.tokens = 4;
    args.workspace = space->data();
    args.workspace_bytes = need;
    tensor_bytes = TensorsOf(c.p, 0, *c.experts[0])[0].bytes;
    tensor = Tensor(tensor_bytes.data(), DSV4MX_DTYPE_U8, {32, 32});
    Must(dsv4mx_comm_create(run.context(), nullptr, &comm_), "comm_create");
    file = WriteForm(folder.path(), Form::kDeepSeek, c);
    snapshot = folder / "experts.dsv4mx";
    Must(dsv4mx_checkpoint_create(file.c_str(), nullptr, &checkpoint), "checkpoint_create");
    Must(dsv4mx_weights_save(run.weights(), snapshot.c_str(), nullptr, nullptr), "weights_save");
    codes = Tensor(read.data(), DSV4MX_DTYPE_U8, {32, 32});
  }
  ~World() {
    dsv4mx_checkpoint_destroy(checkpoint);
    dsv4mx_comm_destroy(comm_);
  }
  const dsv4mx_comm* comm() const { return comm_; }
  dsv4mx_comm* comm() { return comm_; }
  dsv4mx_comm* comm_ = nullptr;
  Case c;
  Runner run;
  Guarded x, out;
  std::vector<uint8_t> ids, tensor_bytes;
  std::unique_ptr<Guarded> space;
  size_t need = 0;
  dsv4mx_apply_args args = DSV4MX_APPLY_ARGS_INIT;
  dsv4mx_tensor tensor;
  TempFolder folder;
  std::string file, snapshot;
  dsv4mx_checkpoint* checkpoint = nullptr;
  std::vector<uint8_t> read = std::vector<uint8_t>(32 * 32);
  dsv4mx_tensor codes;  // where weights_get writes
};

// One struct and the call that reads or fills it: `bytes` holds the struct, 64 bytes longer than this header knows it.
struct Entry {
  const char* name;
  size_t size;
  bool output;  // only written: what is unknown of it is left alone instead of refused
  std::function<void(World&, uint8_t*)> fill;
  std::function<dsv4mx_status(World&, uint8_t*)> call;
};

template <typename T>
std::function<void(World&, uint8_t*)> Zero() {
  return [](World&, uint8_t* p) { std::memset(p, 0, sizeof(T)); };
}

WeightsPtr Empty(World& w) {
  return MakeWeights(w.run.layer());
}

const std::vector<Entry>& Entries() {
  static const std::vector<Entry> all = {
      {"dsv4mx_context_desc", sizeof(dsv4mx_context_desc), false, Zero<dsv4mx_context_desc>(),
       [](World&, uint8_t* p) {
         dsv4mx_context* made = nullptr;
         const dsv4mx_status s =
             dsv4mx_context_create(reinterpret_cast<dsv4mx_context_desc*>(p), &made);
         dsv4mx_context_destroy(made);
         return s;
       }},
      {"dsv4mx_context_info", sizeof(dsv4mx_context_info), true, Zero<dsv4mx_context_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_context_query(w.run.context(), reinterpret_cast<dsv4mx_context_info*>(p));
       }},
      {"dsv4mx_layer_desc", sizeof(dsv4mx_layer_desc), false,
       [](World& w, uint8_t* p) {
         const dsv4mx_layer_desc d = DescOf(w.c);
         std::memcpy(p, &d, sizeof d);
       },
       [](World& w, uint8_t* p) {
         dsv4mx_layer* made = nullptr;
         const dsv4mx_status s =
             dsv4mx_layer_create(w.run.context(), reinterpret_cast<dsv4mx_layer_desc*>(p), &made);
         dsv4mx_layer_destroy(made);
         return s;
       }},
      {"dsv4mx_layer_info", sizeof(dsv4mx_layer_info), true, Zero<dsv4mx_layer_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_layer_query(w.run.layer(), reinterpret_cast<dsv4mx_layer_info*>(p));
       }},
      {"dsv4mx_weights_desc", sizeof(dsv4mx_weights_desc), false, Zero<dsv4mx_weights_desc>(),
       [](World& w, uint8_t* p) {
         dsv4mx_weights* made = nullptr;
         const dsv4mx_status s =
             dsv4mx_weights_create(w.run.layer(), reinterpret_cast<dsv4mx_weights_desc*>(p), &made);
         dsv4mx_weights_destroy(made);
         return s;
       }},
      {"dsv4mx_weights_info", sizeof(dsv4mx_weights_info), true, Zero<dsv4mx_weights_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_query(w.run.weights(), reinterpret_cast<dsv4mx_weights_info*>(p));
       }},
      {"dsv4mx_tensor", sizeof(dsv4mx_tensor), false,
       [](World& w, uint8_t* p) { std::memcpy(p, &w.tensor, sizeof w.tensor); },
       [](World& w, uint8_t* p) {
         const WeightsPtr weights = Empty(w);
         return dsv4mx_weights_set(weights.get(), "w1.weight", 0,
                                   reinterpret_cast<dsv4mx_tensor*>(p), nullptr, nullptr);
       }},
      {"dsv4mx_prepare_args", sizeof(dsv4mx_prepare_args), false, Zero<dsv4mx_prepare_args>(),
       [](World& w, uint8_t* p) {
         const WeightsPtr weights = Empty(w);
         for (int32_t e = 0; e < 3; ++e)
           SetExpert(weights.get(), w.c.p, e, *w.c.experts[static_cast<size_t>(e)]);
         return dsv4mx_weights_prepare(weights.get(), reinterpret_cast<dsv4mx_prepare_args*>(p),
                                       nullptr);
       }},
      {"dsv4mx_marlin", sizeof(dsv4mx_marlin), false, Zero<dsv4mx_marlin>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_layer_query_marlin(w.run.layer(), reinterpret_cast<dsv4mx_marlin*>(p));
       }},
      {"dsv4mx_device_info", sizeof(dsv4mx_device_info), true, Zero<dsv4mx_device_info>(),
       [](World&, uint8_t* p) {
         return dsv4mx_device_query(DSV4MX_DEVICE_CPU, 0, reinterpret_cast<dsv4mx_device_info*>(p));
       }},
      {"dsv4mx_workspace_info", sizeof(dsv4mx_workspace_info), true, Zero<dsv4mx_workspace_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_layer_query_workspace(w.run.layer(), 4, nullptr,
                                             reinterpret_cast<dsv4mx_workspace_info*>(p));
       }},
      {"dsv4mx_workspace_args", sizeof(dsv4mx_workspace_args), false, Zero<dsv4mx_workspace_args>(),
       [](World& w, uint8_t* p) {
         dsv4mx_workspace_info info = DSV4MX_WORKSPACE_INFO_INIT;
         return dsv4mx_layer_query_workspace(w.run.layer(), 4,
                                             reinterpret_cast<dsv4mx_workspace_args*>(p), &info);
       }},
      {"dsv4mx_fault_info", sizeof(dsv4mx_fault_info), true, Zero<dsv4mx_fault_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_layer_query_faults(w.run.layer(), reinterpret_cast<dsv4mx_fault_info*>(p));
       }},
      {"dsv4mx_weights_census", sizeof(dsv4mx_weights_census), true, Zero<dsv4mx_weights_census>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_query_census(w.run.weights(),
                                            reinterpret_cast<dsv4mx_weights_census*>(p));
       }},
      {"dsv4mx_control", sizeof(dsv4mx_control), false, Zero<dsv4mx_control>(),
       [](World& w, uint8_t* p) {
         dsv4mx_set_args args = DSV4MX_SET_ARGS_INIT;
         args.control = reinterpret_cast<dsv4mx_control*>(p);
         return dsv4mx_weights_set(Empty(w).get(), "w1.weight", 0, &w.tensor, &args, nullptr);
       }},
      {"dsv4mx_set_args", sizeof(dsv4mx_set_args), false, Zero<dsv4mx_set_args>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_set(Empty(w).get(), "w1.weight", 0, &w.tensor,
                                   reinterpret_cast<dsv4mx_set_args*>(p), nullptr);
       }},
      {"dsv4mx_marlin_args", sizeof(dsv4mx_marlin_args), false, Zero<dsv4mx_marlin_args>(),
       [](World& w, uint8_t* p) {
         dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
         return dsv4mx_weights_export_marlin(w.run.weights(), &marlin,
                                             reinterpret_cast<dsv4mx_marlin_args*>(p), nullptr);
       }},
      {"dsv4mx_comm_desc", sizeof(dsv4mx_comm_desc), false, Zero<dsv4mx_comm_desc>(),
       [](World& w, uint8_t* p) {
         dsv4mx_comm* made = nullptr;
         const dsv4mx_status s =
             dsv4mx_comm_create(w.run.context(), reinterpret_cast<dsv4mx_comm_desc*>(p), &made);
         dsv4mx_comm_destroy(made);
         return s;
       }},
      {"dsv4mx_comm_info", sizeof(dsv4mx_comm_info), true, Zero<dsv4mx_comm_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_comm_query(w.comm(), reinterpret_cast<dsv4mx_comm_info*>(p));
       }},
      {"dsv4mx_comm_fault_info", sizeof(dsv4mx_comm_fault_info), true,
       Zero<dsv4mx_comm_fault_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_comm_query_faults(w.comm(), reinterpret_cast<dsv4mx_comm_fault_info*>(p));
       }},
      {"dsv4mx_nccl_source", sizeof(dsv4mx_nccl_source), false, Zero<dsv4mx_nccl_source>(),
       [](World& w, uint8_t* p) {
         dsv4mx_comm_desc d = DSV4MX_COMM_DESC_INIT;
         d.nccl = reinterpret_cast<dsv4mx_nccl_source*>(p);
         dsv4mx_comm* made = nullptr;
         const dsv4mx_status s = dsv4mx_comm_create(w.run.context(), &d, &made);
         dsv4mx_comm_destroy(made);
         return s;
       }},
      {"dsv4mx_context_experimental", sizeof(dsv4mx_context_experimental), false,
       Zero<dsv4mx_context_experimental>(),
       [](World&, uint8_t* p) {
         dsv4mx_context_desc d = DSV4MX_CONTEXT_DESC_INIT;
         d.device = DSV4MX_DEVICE_CPU;
         d.experimental = reinterpret_cast<dsv4mx_context_experimental*>(p);
         dsv4mx_context* made = nullptr;
         const dsv4mx_status s = dsv4mx_context_create(&d, &made);
         dsv4mx_context_destroy(made);
         return s;
       }},
      {"dsv4mx_layer_experimental", sizeof(dsv4mx_layer_experimental), false,
       Zero<dsv4mx_layer_experimental>(),
       [](World& w, uint8_t* p) {
         dsv4mx_layer_desc d = DescOf(w.c);
         d.experimental = reinterpret_cast<dsv4mx_layer_experimental*>(p);
         dsv4mx_layer* made = nullptr;
         const dsv4mx_status s = dsv4mx_layer_create(w.run.context(), &d, &made);
         dsv4mx_layer_destroy(made);
         return s;
       }},
      {"dsv4mx_expert_args", sizeof(dsv4mx_expert_args), false, Zero<dsv4mx_expert_args>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_get(w.run.weights(), "w1.weight", 0, &w.codes,
                                   reinterpret_cast<dsv4mx_expert_args*>(p), nullptr);
       }},
      {"dsv4mx_expert_info", sizeof(dsv4mx_expert_info), true, Zero<dsv4mx_expert_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_query_expert(w.run.weights(), 0,
                                            reinterpret_cast<dsv4mx_expert_info*>(p));
       }},
      {"dsv4mx_slab", sizeof(dsv4mx_slab), true, Zero<dsv4mx_slab>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_get_slab(w.run.weights(), 0, reinterpret_cast<dsv4mx_slab*>(p));
       }},
      {"dsv4mx_slab", sizeof(dsv4mx_slab), false,
       [](World& w, uint8_t* p) {
         dsv4mx_slab slab = DSV4MX_SLAB_INIT;
         Must(dsv4mx_weights_get_slab(w.run.weights(), 0, &slab), "get_slab");
         std::memcpy(p, &slab, sizeof slab);
       },
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_set_slab(Empty(w).get(), 0, reinterpret_cast<dsv4mx_slab*>(p),
                                        nullptr, nullptr);
       }},
      {"dsv4mx_copy_args", sizeof(dsv4mx_copy_args), false, Zero<dsv4mx_copy_args>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_copy_experts(Empty(w).get(), w.run.weights(),
                                            reinterpret_cast<dsv4mx_copy_args*>(p), nullptr);
       }},
      {"dsv4mx_snapshot_args", sizeof(dsv4mx_snapshot_args), false, Zero<dsv4mx_snapshot_args>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_weights_restore(Empty(w).get(), w.snapshot.c_str(),
                                       reinterpret_cast<dsv4mx_snapshot_args*>(p), nullptr);
       }},
      {"dsv4mx_snapshot_info", sizeof(dsv4mx_snapshot_info), true, Zero<dsv4mx_snapshot_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_snapshot_query(w.snapshot.c_str(),
                                      reinterpret_cast<dsv4mx_snapshot_info*>(p), nullptr);
       }},
      {"dsv4mx_checkpoint_args", sizeof(dsv4mx_checkpoint_args), false,
       Zero<dsv4mx_checkpoint_args>(),
       [](World& w, uint8_t* p) {
         dsv4mx_checkpoint* made = nullptr;
         const dsv4mx_status s = dsv4mx_checkpoint_create(
             w.file.c_str(), reinterpret_cast<dsv4mx_checkpoint_args*>(p), &made);
         dsv4mx_checkpoint_destroy(made);
         return s;
       }},
      {"dsv4mx_block", sizeof(dsv4mx_block), false, Zero<dsv4mx_block>(),
       [](World& w, uint8_t* p) {
         dsv4mx_layer_desc d = DSV4MX_LAYER_DESC_INIT;
         return dsv4mx_checkpoint_query_layer(w.checkpoint, reinterpret_cast<dsv4mx_block*>(p), &d);
       }},
      {"dsv4mx_block", sizeof(dsv4mx_block), true, Zero<dsv4mx_block>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_checkpoint_get_block(w.checkpoint, 0, reinterpret_cast<dsv4mx_block*>(p));
       }},
      {"dsv4mx_tensor", sizeof(dsv4mx_tensor), true, Zero<dsv4mx_tensor>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_checkpoint_get_tensor(w.checkpoint,
                                             dsv4mx_checkpoint_get_name(w.checkpoint, 0),
                                             reinterpret_cast<dsv4mx_tensor*>(p));
       }},
      {"dsv4mx_model_args", sizeof(dsv4mx_model_args), false, Zero<dsv4mx_model_args>(),
       [](World& w, uint8_t* p) {
         dsv4mx_model_info info = DSV4MX_MODEL_INFO_INIT;
         return dsv4mx_checkpoint_query_model(w.checkpoint, w.run.context(),
                                              reinterpret_cast<dsv4mx_model_args*>(p), &info);
       }},
      {"dsv4mx_model_info", sizeof(dsv4mx_model_info), true, Zero<dsv4mx_model_info>(),
       [](World& w, uint8_t* p) {
         return dsv4mx_checkpoint_query_model(w.checkpoint, w.run.context(), nullptr,
                                              reinterpret_cast<dsv4mx_model_info*>(p));
       }},
      {"dsv4mx_load_args", sizeof(dsv4mx_load_args), false, Zero<dsv4mx_load_args>(),
       [](World& w, uint8_t* p) {
         const dsv4mx_block block = DSV4MX_BLOCK_INIT;
         return dsv4mx_weights_load(Empty(w).get(), w.checkpoint, &block,
                                    reinterpret_cast<dsv4mx_load_args*>(p), nullptr);
       }},
      {"dsv4mx_apply_args", sizeof(dsv4mx_apply_args), false,
       [](World& w, uint8_t* p) { std::memcpy(p, &w.args, sizeof w.args); },
       [](World& w, uint8_t* p) {
         return dsv4mx_layer_apply(w.run.layer(), w.run.weights(),
                                   reinterpret_cast<dsv4mx_apply_args*>(p), nullptr);
       }},
  };
  return all;
}

TEST_CASE("[A26] struct_size: this header's, a newer program's, nonsense", "[structs]") {
  World w;
  for (const Entry& entry : Entries()) {
    INFO(entry.name);
    alignas(16) uint8_t bytes[1024];
    const auto with = [&](size_t size, uint8_t tail) {
      std::memset(bytes, tail, sizeof bytes);
      entry.fill(w, bytes);
      std::memcpy(bytes, &size, sizeof size);
      return entry.call(w, bytes);
    };
    REQUIRE(entry.size + 64 <= sizeof bytes);
    REQUIRE_OK(with(entry.size, 0xEE));    // nothing behind the struct is looked at
    CHECK(bytes[entry.size] == 0xEE);      // or written
    REQUIRE_OK(with(entry.size + 64, 0));  // newer, unknown fields zero
    if (entry.output) {
      REQUIRE_OK(with(entry.size + 64, 1));
      for (size_t i = 0; i <= 64; ++i) REQUIRE(bytes[entry.size + i] == 1);
    } else {
      REQUIRE_REFUSED(with(entry.size + 64, 1), DSV4MX_STATUS_INVALID_STRUCT, "zero");
    }
    REQUIRE_REFUSED(with(0, 0), DSV4MX_STATUS_INVALID_STRUCT, "struct_size,0");
    REQUIRE_REFUSED(with(4, 0), DSV4MX_STATUS_INVALID_STRUCT, "struct_size,4");
    // Sizes that no version had, and what an uninitialised struct may say: nothing is read or written for them.
    for (const size_t size : {entry.size - 8, entry.size + 4, entry.size + 1032, size_t{20000}}) {
      REQUIRE_REFUSED(
          with(size, 0xEE), DSV4MX_STATUS_INVALID_STRUCT,
          "no version had,_INIT," + std::to_string(size) + "," + std::to_string(entry.size));
      for (size_t i = entry.size; i < sizeof bytes; ++i) REQUIRE(bytes[i] == 0xEE);
    }
    REQUIRE_REFUSED(with(SIZE_MAX, 0), DSV4MX_STATUS_INVALID_STRUCT, "struct_size");
  }
}

TEST_CASE("[A26] struct_size: every struct of the header is asked about", "[structs]") {
  std::ifstream file("include/dsv4mx.h");
  const std::string header{std::istreambuf_iterator<char>(file), {}};
  std::set<std::string> asked = {"dsv4mx_nccl_function",
                                 "dsv4mx_nccl_info"};  // with an NCCL: [D40]
  for (const Entry& entry : Entries()) asked.insert(entry.name);
  int structs = 0;
  const std::string begin = "struct dsv4mx_";
  for (size_t at = header.find(begin); at != std::string::npos; at = header.find(begin, at + 1)) {
    const size_t end = header.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_", at + 7);
    if (header.compare(end, 3, " {\n") != 0) continue;  // mentioned, not defined
    const std::string name = header.substr(at + 7, end - at - 7);
    INFO(name);
    CHECK(asked.count(name) == 1);
    ++structs;
  }
  CHECK(structs > 30);
}

TEST_CASE("a filled info struct keeps the caller's struct_size", "[structs]") {
  World w;
  dsv4mx_context_info info;
  REQUIRE_OK(dsv4mx_struct_init(&info, sizeof info));
  REQUIRE_OK(dsv4mx_context_query(w.run.context(), &info));
  CHECK(info.struct_size == sizeof info);
}

TEST_CASE("struct_init does what the _INIT macros do", "[structs]") {
  const dsv4mx_layer_desc want = DSV4MX_LAYER_DESC_INIT;
  dsv4mx_layer_desc got;
  std::memset(&got, 0xAB, sizeof got);
  REQUIRE_OK(dsv4mx_struct_init(&got, sizeof got));
  CHECK(std::memcmp(&want, &got, sizeof got) == 0);
  REQUIRE_REFUSED(dsv4mx_struct_init(nullptr, 64), DSV4MX_STATUS_INVALID_ARGUMENT, "NULL");
  REQUIRE_REFUSED(dsv4mx_struct_init(&got, 7), DSV4MX_STATUS_INVALID_ARGUMENT, "7");
}

TEST_CASE("an all-zero descriptor means the stated defaults", "[structs]") {
  // Each default spelled out gives the same bits as zero.
  Case zero = MakeCase("h=64 i=32 e=3 k=2 m=4 act=gptoss clamp=7"), spelled = zero;
  spelled.p.alpha = 1.702f;
  spelled.p.beta = 1.0f;
  spelled.p.rsf = 1.0f;
  spelled.p.out = DSV4MX_DTYPE_BF16;
  spelled.p.ids = DSV4MX_DTYPE_I32;
  spelled.p.rw = DSV4MX_DTYPE_F32;
  spelled.p.slot = DSV4MX_DTYPE_F32;
  CHECK(CheckSame(Runner(zero).Apply(), Runner(spelled).Apply()) == "");
  dsv4mx_layer_desc d = DescOf(zero);
  d.group_size = 32;
  d.x_dtype = DSV4MX_DTYPE_BF16;
  d.experts_global = 3;
  const LayerPtr layer = MakeLayer(CpuContext(), d);
}

TEST_CASE("[B15] NULL for every pointer argument is an error, not a crash", "[structs]") {
  World w;
  const dsv4mx_context* ctx = w.run.context();
  const dsv4mx_layer* layer = w.run.layer();
  dsv4mx_context_desc cd = DSV4MX_CONTEXT_DESC_INIT;
  dsv4mx_layer_desc ld = DescOf(w.c);
  dsv4mx_marlin marlin = DSV4MX_MARLIN_INIT;
  const WeightsPtr fresh = MakeWeights(layer);
  dsv4mx_context* c = nullptr;
  dsv4mx_layer* l = nullptr;
  dsv4mx_weights* ws = nullptr;
  dsv4mx_checkpoint* cp = nullptr;
  dsv4mx_context_info ci{};
  ci.struct_size = sizeof ci;
  dsv4mx_layer_info li{};
  li.struct_size = sizeof li;
  dsv4mx_weights_info wi{};
  wi.struct_size = sizeof wi;
  dsv4mx_workspace_info wo = DSV4MX_WORKSPACE_INFO_INIT;
  dsv4mx_fault_info fi = DSV4MX_FAULT_INFO_INIT;
  dsv4mx_weights_census wc = DSV4MX_WEIGHTS_CENSUS_INIT;
  dsv4mx_comm* cm = nullptr;
  dsv4mx_comm_info mi = DSV4MX_COMM_INFO_INIT;
  dsv4mx_comm_fault_info mf = DSV4MX_COMM_FAULT_INFO_INIT;
  int64_t loads[1] = {};
  dsv4mx_context_free(nullptr, &fi);
  void* memory = nullptr;
  char text[64];
  const struct {
    const char* call;
    dsv4mx_status status;
  } calls[] = {
      {"context_create out", dsv4mx_context_create(&cd, nullptr)},
      {"context_query context", dsv4mx_context_query(nullptr, &ci)},
      {"context_query out", dsv4mx_context_query(ctx, nullptr)},
      {"context_alloc context", dsv4mx_context_alloc(nullptr, 16, &memory)},
      {"context_alloc out", dsv4mx_context_alloc(ctx, 16, nullptr)},
      {"context_copy context", dsv4mx_context_copy(nullptr, text, text, 1, nullptr)},
      {"context_copy to", dsv4mx_context_copy(ctx, nullptr, text, 1, nullptr)},
      {"context_copy from", dsv4mx_context_copy(ctx, text, nullptr, 1, nullptr)},
      {"context_synchronize", dsv4mx_context_synchronize(nullptr, nullptr)},
      {"layer_create context", dsv4mx_layer_create(nullptr, &ld, &l)},
      {"layer_create desc", dsv4mx_layer_create(ctx, nullptr, &l)},
      {"layer_create out", dsv4mx_layer_create(ctx, &ld, nullptr)},
      {"layer_query layer", dsv4mx_layer_query(nullptr, &li)},
      {"layer_query out", dsv4mx_layer_query(layer, nullptr)},
      {"layer_query_workspace layer", dsv4mx_layer_query_workspace(nullptr, 1, nullptr, &wo)},
      {"layer_query_workspace out", dsv4mx_layer_query_workspace(layer, 1, nullptr, nullptr)},
      {"layer_query_faults layer", dsv4mx_layer_query_faults(nullptr, &fi)},
      {"layer_query_faults out", dsv4mx_layer_query_faults(layer, nullptr)},
      {"device_get_count out", dsv4mx_device_get_count(DSV4MX_DEVICE_CPU, nullptr)},
      {"device_query out", dsv4mx_device_query(DSV4MX_DEVICE_CPU, 0, nullptr)},
      {"comm_create context", dsv4mx_comm_create(nullptr, nullptr, &cm)},
      {"comm_create out", dsv4mx_comm_create(ctx, nullptr, nullptr)},
      {"comm_prepare comm", dsv4mx_comm_prepare(nullptr, layer, nullptr)},
      {"comm_prepare layer", dsv4mx_comm_prepare(w.comm(), nullptr, nullptr)},
      {"comm_query comm", dsv4mx_comm_query(nullptr, &mi)},
      {"comm_query out", dsv4mx_comm_query(w.comm(), nullptr)},
      {"comm_query_faults comm", dsv4mx_comm_query_faults(nullptr, &mf)},
      {"comm_query_faults out", dsv4mx_comm_query_faults(w.comm(), nullptr)},
      {"comm_abort", dsv4mx_comm_abort(nullptr)},
      {"comm_reset", dsv4mx_comm_reset(nullptr, nullptr)},
      {"comm_get_loads comm", dsv4mx_comm_get_loads(nullptr, layer, loads, 1)},
      {"comm_get_loads layer", dsv4mx_comm_get_loads(w.comm(), nullptr, loads, 1)},
      {"comm_get_loads pairs", dsv4mx_comm_get_loads(w.comm(), layer, nullptr, 1)},
      {"nccl_query out", dsv4mx_nccl_query(nullptr, nullptr)},
      {"nccl_get_unique_id id", dsv4mx_nccl_get_unique_id(nullptr, nullptr)},
      {"weights_query_census weights", dsv4mx_weights_query_census(nullptr, &wc)},
      {"weights_query_census out", dsv4mx_weights_query_census(w.run.weights(), nullptr)},
      {"checkpoint_read checkpoint", dsv4mx_checkpoint_read(nullptr, "a", 0, text, 1)},
      {"weights_load block", dsv4mx_weights_load(fresh.get(), nullptr, nullptr, nullptr, nullptr)},
      {"layer_query_plan layer", dsv4mx_layer_query_plan(nullptr, nullptr, 1, text, sizeof text)},
      {"layer_query_plan text", dsv4mx_layer_query_plan(layer, nullptr, 1, nullptr, 64)},
      {"layer_query_marlin layer", dsv4mx_layer_query_marlin(nullptr, &marlin)},
      {"layer_query_marlin marlin", dsv4mx_layer_query_marlin(layer, nullptr)},
      {"weights_create layer", dsv4mx_weights_create(nullptr, nullptr, &ws)},
      {"weights_create out", dsv4mx_weights_create(layer, nullptr, nullptr)},
      {"weights_set weights",
       dsv4mx_weights_set(nullptr, "w1.weight", 0, &w.tensor, nullptr, nullptr)},
      {"weights_set name",
       dsv4mx_weights_set(fresh.get(), nullptr, 0, &w.tensor, nullptr, nullptr)},
      {"weights_set tensor",
       dsv4mx_weights_set(fresh.get(), "w1.weight", 0, nullptr, nullptr, nullptr)},
      {"weights_prepare weights", dsv4mx_weights_prepare(nullptr, nullptr, nullptr)},
      {"weights_query weights", dsv4mx_weights_query(nullptr, &wi)},
      {"weights_query out", dsv4mx_weights_query(w.run.weights(), nullptr)},
      {"import_marlin weights", dsv4mx_weights_import_marlin(nullptr, &marlin, nullptr, nullptr)},
      {"import_marlin marlin",
       dsv4mx_weights_import_marlin(fresh.get(), nullptr, nullptr, nullptr)},
      {"export_marlin weights", dsv4mx_weights_export_marlin(nullptr, &marlin, nullptr, nullptr)},
      {"export_marlin marlin",
       dsv4mx_weights_export_marlin(w.run.weights(), nullptr, nullptr, nullptr)},
      {"apply layer", dsv4mx_layer_apply(nullptr, w.run.weights(), &w.args, nullptr)},
      {"apply weights", dsv4mx_layer_apply(layer, nullptr, &w.args, nullptr)},
      {"apply args", dsv4mx_layer_apply(layer, w.run.weights(), nullptr, nullptr)},
      {"checkpoint_create path", dsv4mx_checkpoint_create(nullptr, nullptr, &cp)},
      {"checkpoint_create out", dsv4mx_checkpoint_create("nowhere", nullptr, nullptr)},
      {"checkpoint_get_tensor checkpoint", dsv4mx_checkpoint_get_tensor(nullptr, "a", &w.tensor)},
      {"checkpoint_query_layer checkpoint", dsv4mx_checkpoint_query_layer(nullptr, Block(0), &ld)},
      {"weights_load weights", dsv4mx_weights_load(nullptr, nullptr, Block(0), nullptr, nullptr)},
      {"weights_load checkpoint",
       dsv4mx_weights_load(fresh.get(), nullptr, Block(0), nullptr, nullptr)},
  };
  for (const auto& call : calls) {
    INFO(call.call);
    CHECK(call.status == DSV4MX_STATUS_INVALID_ARGUMENT);
  }
  CHECK(c == nullptr);
  CHECK(l == nullptr);
  CHECK(ws == nullptr);
  CHECK(cp == nullptr);
  CHECK(memory == nullptr);
  CHECK(dsv4mx_checkpoint_get_count(nullptr) == 0);
  CHECK(dsv4mx_checkpoint_get_name(nullptr, 0) == nullptr);
}

}  // namespace
}  // namespace dsv4mx::test
