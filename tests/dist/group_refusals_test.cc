// What a group refuses, text by text: descriptors, parts that do not make one layer, shared memory that is not there.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/dist/communicator.h"
#include "lib/dist/file_exchange.h"
#include "lib/dist/local_group.h"
#include "lib/dist/peer_carrier.h"
#include "lib/dist/routes.h"
#include "tests/catch.h"
#include "tests/dist/fake_nccl.h"
#include "tests/dist/group.h"

// Faults of shared memory (linked with --wrap).
static std::atomic<int> open_faults{0}, allocate_faults{0}, map_faults{0};
static std::atomic<int> bind_faults{0}, connect_faults{0}, accept_faults{0};
// Who is at the other end: 1, 2: a stranger for who connects, for who accepts; 3: nobody can say.
static std::atomic<int> user_faults{0};
static std::atomic<mode_t> socket_mode{0};  // as the last rank that connected found it
// Names of the sockets that this process has bound.
static std::mutex bound_mutex;
static std::vector<std::string> bound;

extern "C" {
int __real_shm_open(const char* name, int flags, mode_t mode);
int __wrap_shm_open(const char* name, int flags, mode_t mode) {
  // 1: making fails; 2: opening another rank's does.
  const int fault = (flags & O_CREAT) != 0 ? 1 : 2;
  if (open_faults.load() == fault) return errno = fault == 1 ? EACCES : ENOENT, -1;
  return __real_shm_open(name, flags, mode);
}
int __real_posix_fallocate64(int fd, off64_t at, off64_t bytes);
int __wrap_posix_fallocate64(int fd, off64_t at, off64_t bytes) {
  return allocate_faults.load() != 0 ? ENOSPC : __real_posix_fallocate64(fd, at, bytes);
}
int __real_bind(int socket, const sockaddr* name, socklen_t bytes);
int __wrap_bind(int socket, const sockaddr* name, socklen_t bytes) {
  if (name->sa_family == AF_UNIX) {
    const std::lock_guard<std::mutex> lock(bound_mutex);
    bound.emplace_back(reinterpret_cast<const sockaddr_un*>(name)->sun_path);
  }
  return bind_faults.load() != 0 ? (errno = EACCES, -1) : __real_bind(socket, name, bytes);
}
int __real_connect(int socket, const sockaddr* name, socklen_t bytes);
int __wrap_connect(int socket, const sockaddr* name, socklen_t bytes) {
  struct stat about {};
  if (name->sa_family == AF_UNIX &&
      stat(reinterpret_cast<const sockaddr_un*>(name)->sun_path, &about) == 0)
    socket_mode = about.st_mode;
  return connect_faults.load() != 0 ? (errno = ENOENT, -1) : __real_connect(socket, name, bytes);
}
int __real_getsockopt(int socket, int level, int option, void* value, socklen_t* bytes);
int __wrap_getsockopt(int socket, int level, int option, void* value, socklen_t* bytes) {
  const int result = __real_getsockopt(socket, level, option, value, bytes);
  if (option != SO_PEERCRED || user_faults.load() == 0) return result;
  if (user_faults.load() == 3) return errno = ENOPROTOOPT, -1;
  // Only who listens has a name.
  sockaddr_un peer{};
  socklen_t length = sizeof(peer);
  const bool accepted = getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &length) == 0 &&
                        peer.sun_path[0] == '\0';
  if (accepted == (user_faults.load() == 2)) static_cast<ucred*>(value)->uid = 12345;
  return result;
}
int __real_accept4(int socket, sockaddr* name, socklen_t* bytes, int flags);
int __wrap_accept4(int socket, sockaddr* name, socklen_t* bytes, int flags) {
  return accept_faults.load() != 0 ? (errno = EMFILE, -1)
                                   : __real_accept4(socket, name, bytes, flags);
}
void* __real_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset);
void* __wrap_mmap64(void* at, size_t bytes, int protection, int flags, int fd, off64_t offset) {
  if (map_faults.load() != 0 && (flags & MAP_SHARED) != 0) return errno = ENOMEM, MAP_FAILED;
  return __real_mmap64(at, bytes, protection, flags, fd, offset);
}
}

namespace dsv4mx::test {
namespace {

const char* const kText = "h=64 i=64 e=8 k=2 m=16 slot=bf16 invariant=1";

Layout Ranks(int size) {
  Layout layout;
  layout.size = size;
  layout.timeout_ns = 2'000'000'000;
  return layout;
}

// Every rank is refused with these words when it joins.
void CheckAll(const std::vector<std::string>& errors, const std::string& words) {
  for (const auto& e : errors) {
    INFO(e);
    if (words.empty()) {
      CHECK(e == "");
    } else {
      CHECK(MissingWords(e, words) == "");
    }
  }
}

TEST_CASE("[D60] shared memory that is not there is a status on every rank, or another way",
          "[dist]") {
  const Case c = MakeCase(kText);
  Layout layout = Ranks(2);
  layout.kind = DSV4MX_COMM_CALLBACK;
  const auto join = [&](dsv4mx_comm_transport transport, dsv4mx_comm_info* info) {
    layout.transport = transport;
    const uint64_t group = NewGroup();
    return OnRanks(2, [&](int r) {
      Rank rank;
      rank.rank = r;
      MakeComm(c, layout, group, &rank);
      dsv4mx_comm_info mine = DSV4MX_COMM_INFO_INIT;
      Must(dsv4mx_comm_query(rank.comm.get(), &mine), "query");
      if (r == 0 && info != nullptr) *info = mine;
    });
  };
  open_faults = 1;
  CheckAll(join(DSV4MX_COMM_TRANSPORT_PEER, nullptr), "COMM_ERROR,cannot be made,/dev/shm");
  open_faults = 2;
  CheckAll(join(DSV4MX_COMM_TRANSPORT_PEER, nullptr),
           "COMM_ERROR,cannot be opened,one /dev/shm,COLLECTIVE");
  // AUTO goes the other way, and says why.
  dsv4mx_comm_info info = DSV4MX_COMM_INFO_INIT;
  CheckAll(join(DSV4MX_COMM_TRANSPORT_AUTO, &info), "");
  CHECK(info.transport == DSV4MX_COMM_TRANSPORT_COLLECTIVE);
  CHECK(MissingWords(info.reason, "collective, because,shared memory") == "");
  CHECK(RunGroup(c, layout) == Runner(c).Apply().raw);
  open_faults = 0;
  allocate_faults = 1;
  CheckAll(join(DSV4MX_COMM_TRANSPORT_AUTO, nullptr), "OUT_OF_MEMORY,larger /dev/shm");
  allocate_faults = 0;
  map_faults = 1;
  CheckAll(join(DSV4MX_COMM_TRANSPORT_AUTO, nullptr), "OUT_OF_MEMORY,a window in shared memory");
  map_faults = 0;
}

TEST_CASE("[D61] callbacks that fail end the call", "[dist]") {
  const Case c = MakeCase(kText);
  dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(2), 0, 0);
  d.kind = DSV4MX_COMM_CALLBACK;
  d.all_gather = [](void*, const void*, void*, size_t) { return int32_t{7}; };
  dsv4mx_comm* comm = nullptr;
  REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), DSV4MX_STATUS_COMM_ERROR,
                  "all_gather returned 7");
}

TEST_CASE("[D66] a barrier of the caller's is used, and may fail", "[dist]") {
  const Case c = MakeCase(kText);
  dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(1), 0, 0);
  d.kind = DSV4MX_COMM_CALLBACK;
  d.tp_reduce = DSV4MX_TP_INVARIANT;  // so that a group of one has windows
  static int32_t result;
  d.all_gather = [](void*, const void* mine, void* all, size_t bytes) {
    std::memcpy(all, mine, bytes);
    return int32_t{0};
  };
  d.barrier = [](void*) { return result; };
  dsv4mx_comm* made = nullptr;
  REQUIRE_OK(dsv4mx_comm_create(CpuContext(), &d, &made));
  const CommPtr comm(made);
  result = 0;
  REQUIRE_OK(dsv4mx_comm_reset(made, nullptr));
  result = 4;
  REQUIRE_REFUSED(dsv4mx_comm_reset(made, nullptr), DSV4MX_STATUS_COMM_ERROR, "barrier returned 4");
}

// A rank on a GPU, as far as a group that is refused knows it.
class GpuRank final : public RankGroup {
 public:
  int32_t place() const override { return 0; }
  Status MakeWindow(const std::vector<int32_t>&) override { return kOk; }
  std::shared_ptr<GroupWindow> window() const override { return nullptr; }
  Status Connect(std::vector<std::shared_ptr<GroupWindow>>) override { return kOk; }
  int64_t bytes() const override { return 0; }
  const char* what() const override { return ""; }
  Status MakeLayer(const LayerBackend&, const GroupRoutes&, bool,
                   std::unique_ptr<GroupLayer>*) override {
    return kOk;
  }
  Status Apply(const GroupCall&, dist::FaultWord*) override { return kOk; }
  void Poison(const GroupCall&) override {}
  dist::FaultWord Fault() const override { return {}; }
  dist::FaultWord Break(const dist::FaultWord& fault) override { return fault; }
  void Leave() override {}
  Status Reset() override { return kOk; }
};

// Backends as far as a communicator asks them.
class Cpu : public Backend {
 public:
  void Query(dsv4mx_context_info*) const override {}
  void Name(char*, size_t) const override {}
  Status Alloc(size_t, size_t, void**) const override { return kOk; }
  Status Free(void*, size_t) const override { return kOk; }
  Status AllocStaging(size_t, void**) const override { return kOk; }
  Status FreeStaging(void*, size_t) const override { return kOk; }
  Status Copy(void*, const void*, size_t, dsv4mx_stream) const override { return kOk; }
  Status Synchronize(dsv4mx_stream) const override { return kOk; }
  Status MakeLayer(std::shared_ptr<const LayerSpec>,
                   std::unique_ptr<LayerBackend>*) const override {
    return kOk;
  }
};
class Gpu final : public Cpu {
 public:
  Status MakeRankGroup(const GroupShape&, Collectives*,
                       std::unique_ptr<RankGroup>* out) const override {
    *out = std::make_unique<GpuRank>();
    return kOk;
  }
};

TEST_CASE("ranks of one group are all on CPUs or all on GPUs", "[dist]") {
  const Case c = MakeCase(kText);
  const uint64_t group = NewGroup();
  const Gpu gpu;
  const Cpu cpu;
  for (const auto& error : OnRanks(2, [&](int r) {
         std::unique_ptr<dist::Communicator> comm;
         const Backend& mine = r == 0 ? static_cast<const Backend&>(cpu) : gpu;
         const Status status = dist::Communicator::Create(
             CommDescOf(c.p, Ranks(2), r, group), DSV4MX_NCCL_SOURCE_INIT, mine, Control(), &comm);
         throw std::runtime_error(status.ok() ? "accepted" : dsv4mx_last_error());
       })) {
    CHECK(MissingWords(error, "rank 1 is on a GPU,wanted one of rank 0's kind") == "");
  }
}

// What windows of GPUs go by from process to process.
TEST_CASE("[D69] open files go to every rank, or all are told why not", "[dist]") {
  constexpr int kRanks = 4;
  const auto exchange = [&](std::vector<std::string>* read) {
    const uint64_t group = NewGroup();
    return OnRanks(kRanks, [&](int r) {
      dist::CommSpec spec;
      spec.kind = DSV4MX_COMM_LOCAL;
      spec.rank = r;
      spec.size = kRanks;
      spec.timeout_ns = 2'000'000'000;
      std::shared_ptr<dist::LocalGroup> joined;
      if (!dist::LocalGroup::Join(group, spec, Control(), &joined).ok())
        throw std::runtime_error(dsv4mx_last_error());
      dist::LocalBootstrap bootstrap(joined, spec);
      dist::Files mine(1), theirs(kRanks);
      mine[0] = memfd_create("rank", MFD_CLOEXEC);
      const auto text = static_cast<char>('a' + r);
      if (write(mine[0], &text, 1) != 1) throw std::runtime_error("no file");
      const Status status = dist::ExchangeFiles(&bootstrap, spec, mine[0], Control(), &theirs);
      if (!status.ok()) throw std::runtime_error(dsv4mx_last_error());
      for (int other = 0; other < kRanks; ++other) {
        char byte = '-';
        if (other != r && pread(theirs[other], &byte, 1, 0) != 1) byte = '?';
        (*read)[static_cast<size_t>(r)] += byte;
      }
    });
  };
  std::vector<std::string> read(kRanks);
  CheckAll(exchange(&read), "");
  CHECK(read == std::vector<std::string>{"-bcd", "a-cd", "ab-d", "abc-"});
  // Nobody else may connect, whatever the umask of the process says.
  for (const mode_t mask : {0, 0077, 0777}) {
    const mode_t usual = umask(mask);
    const auto errors = exchange(&read);
    umask(usual);
    CheckAll(errors, "");
    CHECK(socket_mode.load() == (S_IFSOCK | 0600));
  }
  const std::string users = ",wanted ranks of user " + std::to_string(geteuid()) + ",root";
  const struct {
    std::atomic<int>& fault;
    int value;
    std::string words;
  } faults[] = {
      {bind_faults, 1, "a socket at /dev/shm/dsv4mx-,cannot be made"},
      {connect_faults, 1, "the window cannot be passed to rank 1,one host,one user"},
      {accept_faults, 1, "the window of rank 1 did not come"},
      {user_faults, 1, "the window is not passed to rank 1,socket is user 12345's" + users},
      {user_faults, 2, "the window of rank 1 did not come,one of user 12345 was refused" + users},
      {user_faults, 3, "the window cannot be passed to rank 1"}};
  for (const auto& one : faults) {
    one.fault = one.value;
    const auto errors = exchange(&read);
    one.fault = 0;
    for (const auto& error : errors) {
      INFO(error);
      CHECK(error != "");
      CHECK(MissingWords(error, one.words) == "");
    }
  }
  CHECK(bound.size() >= kRanks);
  for (const auto& name : bound) CHECK(access(name.c_str(), F_OK) != 0);
}

TEST_CASE("[D70] memory of another user's is not shared", "[dist]") {
  CHECK(dist::IsTrusted(geteuid()));
  CHECK(dist::IsTrusted(0));
  CHECK_FALSE(dist::IsTrusted(geteuid() + 1));
  char name[dist::Region::kNameBytes];
  std::shared_ptr<dist::Region> own, theirs;
  const mode_t usual = umask(0);
  REQUIRE(dist::Region::MakeShared(4096, name, &own).ok());
  umask(usual);
  const std::string path = std::string("/dev/shm") + name;
  struct stat about {};
  REQUIRE(stat(path.c_str(), &about) == 0);
  CHECK((about.st_mode & 0777) == 0600);
  CHECK(dist::Region::Open(name, 4096, &theirs).ok());
  // Only root can make a segment another user's.
  if (geteuid() == 0) {
    theirs.reset();
    REQUIRE(chown(path.c_str(), 12345, static_cast<gid_t>(-1)) == 0);
    REQUIRE_REFUSED(dist::Region::Open(name, 4096, &theirs).code, DSV4MX_STATUS_COMM_ERROR,
                    "shared memory /dsv4mx-,is user 12345's,wanted user 0's");
    CHECK(theirs == nullptr);
  }
  dist::Region::Unlink(name);
}

// What needs a GPU, or a rank that is broken inside, to be caused from outside.
TEST_CASE("[D67] words for what cannot be caused from outside", "[dist]") {
  const Case c = MakeCase(kText);
  dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(1), 0, NewGroup());
  d.tp_reduce = DSV4MX_TP_INVARIANT;
  std::unique_ptr<dist::Communicator> comm;
  const Gpu gpu;
  const auto create = [&](const dsv4mx_comm_desc& desc, const Backend& backend) {
    return dist::Communicator::Create(desc, DSV4MX_NCCL_SOURCE_INIT, backend, Control(), &comm);
  };
  d.kind = DSV4MX_COMM_CALLBACK;
  d.transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE;
  d.all_gather = [](void*, const void* mine, void* all, size_t bytes) {
    std::memcpy(all, mine, bytes);
    return int32_t{0};
  };
  REQUIRE_REFUSED(create(d, gpu).code, DSV4MX_STATUS_UNSUPPORTED,
                  "COLLECTIVE with kind CALLBACK,CUDA context,wanted AUTO or PEER");
  REQUIRE_REFUSED(dist::TellFault(dist::CommSpec(), {DSV4MX_STATUS_COMM_ERROR, 1, 2, 3, 4}).code,
                  DSV4MX_STATUS_COMM_ERROR, "rank 2 failed inside");
  // What a group on devices does where it is aborted.
  SetFakeNccl({});
  const auto functions = FakeNcclTable();
  dsv4mx_nccl_source source = DSV4MX_NCCL_SOURCE_INIT;
  source.functions = functions.data();
  source.function_count = functions.size();
  const char id[128] = "aborted";
  d.kind = DSV4MX_COMM_NCCL_ID;
  d.nccl_id = id;
  dist::CommSpec spec;
  spec.kind = d.kind;
  std::unique_ptr<dist::NcclGroup> group;
  REQUIRE(dist::NcclGroup::Make(d, source, spec, gpu, Control(), &group).ok());
  const int aborts = SeenByFakeNccl().aborts;
  group->Abort();
  group->Abort();
  CHECK(SeenByFakeNccl().aborts == aborts + 1);
  CHECK(group->Aborted());
  REQUIRE_REFUSED(group->AllGather(Among::kGroup, nullptr, nullptr, 1, dsv4mx_stream{}).code,
                  DSV4MX_STATUS_NCCL_ERROR, "was aborted,wanted a new communicator");
  // Also while a call is in progress, for ever if need be; the abort is to come after the call has begun.
  spec.timeout_ns = 60'000'000'000;
  bool ended = false;
  for (int wait = 20; wait < 5000 && !ended; wait *= 4) {
    const std::string another = "again" + std::to_string(wait) + std::string(128, '\0');
    d.nccl_id = another.data();
    REQUIRE(dist::NcclGroup::Make(d, source, spec, gpu, Control(), &group).ok());
    SetFakeNccl({.hang = true});
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait));
      group->Abort();
    });
    uint8_t byte = 0;
    const Status status = group->AllGather(Among::kGroup, &byte, &byte, 1, dsv4mx_stream{});
    const std::string why = LastError();
    other.join();
    SetFakeNccl({});
    ended = status.code == DSV4MX_STATUS_COMM_RANK_LOST &&
            MissingWords(why, "rank 0 aborted,while ncclAllGather was in progress") == "";
  }
  CHECK(ended);
  d.nccl_id = id;
  // Parts and slices on GPUs take communicators of their own.
  void* host = MakeFakeNcclComm(id, 1, 0);
  d.kind = spec.kind = DSV4MX_COMM_NCCL_BORROW;
  d.flags = DSV4MX_COMM_NO_SPLIT;
  d.nccl_comm = host;
  REQUIRE(dist::NcclGroup::Make(d, source, spec, gpu, Control(), &group).ok());
  spec.size = 4;
  spec.tp_size = 2;
  REQUIRE_REFUSED(group->Divide(spec, Control()).code, DSV4MX_STATUS_UNSUPPORTED,
                  "NO_SPLIT with tp_size 2 of size 4,wanted 1 or all,may be split");
  group.reset();
  DestroyFakeNcclComm(host);
  dist::RouteTable table;
  REQUIRE_REFUSED(dist::RouteTable::Make(2, {{{2, 0}}}, 0, &table).code,
                  DSV4MX_STATUS_COMM_MISMATCH, "holds id 2,0..1");
}

// Properties of the way of ids: every copy is reachable, a home's own copy comes first, a choice depends on nothing else.
TEST_CASE("[D68] routes: every id leads to a copy of it, the own one first", "[dist]") {
  uint64_t state = 12345;
  const auto random = [&](uint64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (state >> 33) % n;
  };
  for (int turn = 0; turn < 200; ++turn) {
    const auto ids = static_cast<int32_t>(1 + random(40));
    const auto parts = static_cast<int32_t>(1 + random(8));
    std::vector<std::vector<dist::HeldId>> held(static_cast<size_t>(parts));
    for (int32_t id = 0; id < ids; ++id) {
      const auto always = static_cast<int32_t>(random(static_cast<uint64_t>(parts)));
      for (int32_t p = 0; p < parts; ++p) {
        auto& one = held[static_cast<size_t>(p)];
        if (p == always || random(4) == 0) one.push_back({id, static_cast<int32_t>(one.size())});
      }
    }
    const auto holds = [&](int32_t p, int32_t id) {
      for (const auto& h : held[static_cast<size_t>(p)]) {
        if (h.id == id) return h.local;
      }
      return int32_t{-1};
    };
    for (int32_t home = 0; home < parts; ++home) {
      dist::RouteTable table;
      REQUIRE(dist::RouteTable::Make(ids, held, home, &table).ok());
      CHECK(table.Choose(-1, 0, 0) == nullptr);
      CHECK(table.Choose(ids, 0, 0) == nullptr);
      for (int32_t id = 0; id < ids; ++id) {
        std::vector<bool> seen(static_cast<size_t>(parts));
        int copies = 0;
        for (int32_t p = 0; p < parts; ++p) copies += holds(p, id) >= 0 ? 1 : 0;
        for (int64_t token = 0; token < 200; ++token) {
          const auto* copy = table.Choose(id, token, static_cast<int>(token % 6));
          // Asked 4 million times: one assertion each would take longer than all else.
          if (copy == nullptr || holds(copy->ep_rank, id) != copy->local) {
            FAIL("id " << id << ", token " << token << ", home " << home
                       << ": no copy, or another's");
          }
          seen[static_cast<size_t>(copy->ep_rank)] = true;
        }
        if (holds(home, id) >= 0) {
          CHECK(std::count(seen.begin(), seen.end(), true) == 1);
          CHECK(seen[static_cast<size_t>(home)]);
        } else {
          CHECK(std::count(seen.begin(), seen.end(), true) == copies);
        }
      }
    }
  }
}

TEST_CASE("[D62] descriptors, field by field", "[dist]") {
  const struct {
    void (*change)(dsv4mx_comm_desc*);
    dsv4mx_status status;
    const char* words;
  } cases[] = {
      {[](dsv4mx_comm_desc* d) { d->kind = DSV4MX_COMM_CALLBACK; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "all_gather is NULL"},
      {[](dsv4mx_comm_desc* d) { d->kind = DSV4MX_COMM_NCCL_ID; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "nccl_id is NULL"},
      {[](dsv4mx_comm_desc* d) { d->transport = DSV4MX_COMM_TRANSPORT_COLLECTIVE; },
       DSV4MX_STATUS_UNSUPPORTED, "COLLECTIVE with kind LOCAL"},
      {[](dsv4mx_comm_desc* d) { d->kind = DSV4MX_COMM_SELF, d->size = 2; },
       DSV4MX_STATUS_INVALID_ARGUMENT, "size is 2 with kind SELF"},
      {[](dsv4mx_comm_desc* d) { d->rank = 1; }, DSV4MX_STATUS_INVALID_ARGUMENT, "rank is 1"},
      {[](dsv4mx_comm_desc* d) { d->timeout_ns = -5; }, DSV4MX_STATUS_INVALID_ARGUMENT,
       "timeout_ns is -5"},
      {[](dsv4mx_comm_desc* d) {
         d->tp_reduce = DSV4MX_TP_INVARIANT, d->partial_dtype = DSV4MX_DTYPE_BF16;
       },
       DSV4MX_STATUS_INVALID_ARGUMENT, "partial_dtype is BF16 with TP_INVARIANT"},
      {[](dsv4mx_comm_desc* d) { d->tp_reduce = DSV4MX_TP_INVARIANT, d->tp_slices = 6; },
       DSV4MX_STATUS_INVALID_ARGUMENT, "tp_slices is 6,power of two"},
  };
  const Case c = MakeCase(kText);
  for (const auto& one : cases) {
    dsv4mx_comm_desc d = CommDescOf(c.p, Ranks(1), 0, NewGroup());
    one.change(&d);
    dsv4mx_comm* comm = nullptr;
    REQUIRE_REFUSED(dsv4mx_comm_create(CpuContext(), &d, &comm), one.status, one.words);
  }
}

TEST_CASE("[D63] parts that do not make one layer are refused on every rank", "[dist]") {
  // Ranks that describe their parts by layouts of their own.
  const auto refused = [](const char* text, const Layout& comm, const Layout& first,
                          const Layout& second, int as, const std::string& words,
                          const char* isa = "") {
    const Case a = MakeCase(text), b = MakeCase(std::string(text) + isa);
    (void)ContextOf(a.p), (void)ContextOf(b.p);
    const uint64_t group = NewGroup();
    CheckAll(OnRanks(comm.size,
                     [&](int r) {
                       Rank part;
                       part.rank = r == 1 && as >= 0 ? as : r;
                       MakePart(r == 0 ? a : b, r == 0 ? first : second, &part);
                       part.rank = r;
                       MakeComm(r == 0 ? a : b, comm, group, &part);
                       Must(dsv4mx_comm_prepare(part.comm.get(), part.layer.get(), nullptr),
                            "prepare");
                     }),
             words);
  };
  Layout tp = Ranks(2);
  tp.tp = 2;
  refused(kText, tp, tp, Ranks(2), 0, "INVALID_ARGUMENT,tensor-parallel rank 0 of 1,wanted 1 of 2");
  Layout others = tp;
  others.placement = {{0, 1, 2, 3, 4, 5, 7, 6}};
  refused(kText, tp, tp, others, -1, "COMM_MISMATCH,rank 1 holds other experts than rank 0");
  Layout tree = tp;
  tree.tp_reduce = DSV4MX_TP_INVARIANT;
  refused(kText, tree, tree, tree, -1, "UNSUPPORTED_SHAPE,intermediate is 64,8 slices,straddle");
  refused("h=64 i=256 e=8 k=2 m=4 slot=bf16 invariant=1", Ranks(2), Ranks(2), Ranks(2), -1,
          "COMM_MISMATCH,device of another kind", " isa=portable");
}

TEST_CASE("[D64] uneven slices follow each other; what does not is refused", "[dist]") {
  const struct {
    int32_t first[2], count[2];
    bool tree;
    const char* words;  // "" = works
  } cases[] = {
      {{0, 96}, {96, 32}, false, ""},
      {{0, 64}, {32, 64}, false, "COMM_MISMATCH,rank 1 holds channels from 64 on,wanted 32"},
      {{0, 64}, {64, 32}, false, "COMM_MISMATCH,end at channel 96,wanted 128"},
      {{0, 96}, {96, 32}, true, "INVALID_ARGUMENT,even cut,TP_INVARIANT"},
  };
  const Case c = MakeCase("h=64 i=128 e=2 k=2 m=4");
  for (const auto& one : cases) {
    const uint64_t group = NewGroup();
    INFO(one.words);
    CheckAll(OnRanks(2,
                     [&](int r) {
                       dsv4mx_layer_desc d = DescOf(c);
                       d.tp_size = 2;
                       d.tp_rank = r;
                       d.intermediate_first = one.first[r];
                       d.intermediate_count = one.count[r];
                       Rank rank;
                       rank.rank = r;
                       rank.layer = MakeLayer(ContextOf(c.p), d);
                       Layout layout = Ranks(2);
                       layout.tp = 2;
                       if (one.tree) layout.tp_reduce = DSV4MX_TP_INVARIANT, layout.tp_slices = 4;
                       MakeComm(c, layout, group, &rank);
                       Must(dsv4mx_comm_prepare(rank.comm.get(), rank.layer.get(), nullptr),
                            "prepare");
                     }),
             one.words);
  }
}

TEST_CASE("[D65] a layer that checks ids, and collective calls in another order", "[dist]") {
  const Case c = MakeCase(kText);
  (void)ContextOf(c.p);
  uint64_t group = NewGroup();
  CheckAll(OnRanks(2,
                   [&](int r) {
                     dsv4mx_layer_desc d = DescOf(c);
                     d.flags |= DSV4MX_LAYER_CHECKED_IDS;
                     Rank rank;
                     rank.rank = r;
                     rank.layer = MakeLayer(ContextOf(c.p), d);
                     MakeComm(c, Ranks(2), group, &rank);
                     Must(dsv4mx_comm_prepare(rank.comm.get(), rank.layer.get(), nullptr),
                          "prepare");
                   }),
           "UNSUPPORTED,CHECKED_IDS");
  // One rank prepares, the other resets: after the first words they part.
  group = NewGroup();
  const auto errors = OnRanks(2, [&](int r) {
    Rank rank;
    rank.rank = r;
    MakePart(c, Ranks(2), &rank);
    MakeComm(c, Ranks(2), group, &rank);
    Must(r == 0 ? dsv4mx_comm_prepare(rank.comm.get(), rank.layer.get(), nullptr)
                : dsv4mx_comm_reset(rank.comm.get(), nullptr),
         "collective call");
  });
  CheckAll(errors, "COMM_MISMATCH,gathers,same order");
}

}  // namespace
}  // namespace dsv4mx::test
