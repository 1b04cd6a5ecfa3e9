#include "lib/dist/file_exchange.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "lib/base/printable.h"
#include "lib/dist/region.h"

namespace dsv4mx::dist {

Files::~Files() {
  for (const int file : files_) {
    if (file >= 0) (void)close(file);
  }
}

namespace {

// A socket of this rank under a name that is new each time. It has a name in a file system, and no abstract one: those have no
// mode, and do not reach over network namespaces. Nobody can connect before it listens, and by then its mode is 0600, whatever
// the process's umask.
class Listener {
 public:
  ~Listener() {
    if (socket_ >= 0) (void)close(socket_);
    if (bound_) (void)unlink(name_.sun_path);
  }
  Status Open() {
    uint64_t random[2] = {};
    const bool named = getentropy(random, sizeof(random)) == 0;
    name_.sun_family = AF_UNIX;
    std::snprintf(name_.sun_path, sizeof(name_.sun_path), "/dev/shm/dsv4mx-%016llx%016llx",
                  static_cast<unsigned long long>(random[0]),
                  static_cast<unsigned long long>(random[1]));
    if (named) socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bound_ = socket_ >= 0 &&
             bind(socket_, reinterpret_cast<const sockaddr*>(&name_), sizeof(name_)) == 0;
    const bool closed = bound_ && chmod(name_.sun_path, S_IRUSR | S_IWUSR) == 0;
    DSV4MX_RETURN_IF(!closed || listen(socket_, kMaxRanks) != 0, DSV4MX_STATUS_COMM_ERROR,
                     "a socket at %s cannot be made: %s; wanted a /dev/shm that this process may "
                     "write",
                     name_.sun_path, ErrnoText(errno).c_str());
    return kOk;
  }
  int file() const { return socket_; }
  const sockaddr_un& name() const { return name_; }

 private:
  int socket_ = -1;
  bool bound_ = false;
  sockaddr_un name_{};
};

// Who made the socket at the other end listen, or connected it; the kernel says so.
bool UserOf(int line, uid_t* user) {
  ucred who{};
  socklen_t bytes = sizeof(who);
  if (getsockopt(line, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) return false;
  *user = who.uid;
  return true;
}

// One byte, the sender's rank, with a file.
union Ancillary {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

bool SendFile(int to, uint8_t rank, int file) {
  iovec data{&rank, 1};
  Ancillary ancillary{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &ancillary;
  message.msg_controllen = sizeof(ancillary);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &file, sizeof(int));
  return sendmsg(to, &message, MSG_NOSIGNAL) == 1;
}

bool ReceiveFile(int from, uint8_t* rank, int* file) {
  iovec data{rank, 1};
  Ancillary ancillary{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = &ancillary;
  message.msg_controllen = CMSG_LEN(sizeof(int));  // the padding would take a second file
  if (recvmsg(from, &message, MSG_CMSG_CLOEXEC) != 1) return false;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) return false;
  std::memcpy(file, CMSG_DATA(header), sizeof(int));
  return true;
}

Status SendToAll(const CommSpec& spec, int mine, const std::vector<sockaddr_un>& names) {
  for (int32_t r = 0; r < spec.size; ++r) {
    if (r == spec.rank) continue;
    Files line(1);
    line[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto& name = names[static_cast<size_t>(r)];
    uid_t user = 0;
    // The peer's backlog holds every rank, so that this waits for nobody.
    bool sent = line[0] >= 0 &&
                connect(line[0], reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 &&
                UserOf(line[0], &user);
    DSV4MX_RETURN_IF(sent && !IsTrusted(user), DSV4MX_STATUS_COMM_ERROR,
                     "the window is not passed to rank %d, whose socket is user %u's; wanted ranks "
                     "of user %u, or root's",
                     r, user, geteuid());
    sent = sent && SendFile(line[0], static_cast<uint8_t>(spec.rank), mine);
    DSV4MX_RETURN_IF(!sent, DSV4MX_STATUS_COMM_ERROR,
                     "the window cannot be passed to rank %d: %s; wanted ranks of one host, one "
                     "user and one /dev/shm",
                     r, ErrnoText(errno).c_str());
  }
  return kOk;
}

// Everybody has sent: nothing is waited for.
Status ReceiveFromAll(const CommSpec& spec, int listener, Files* theirs) {
  bool refused = false;
  uid_t stranger = 0;
  for (;;) {
    Files line(1);
    line[0] = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (line[0] < 0) break;
    uid_t user = 0;
    if (!UserOf(line[0], &user)) continue;
    if (!IsTrusted(user)) {
      refused = true;
      stranger = user;
      continue;
    }
    uint8_t rank = 0;
    Files file(1);
    if (!ReceiveFile(line[0], &rank, &file[0])) continue;
    if (rank < spec.size && rank != spec.rank && (*theirs)[rank] < 0)
      std::swap((*theirs)[rank], file[0]);
  }
  const int why = errno;
  for (int32_t r = 0; r < spec.size; ++r) {
    if (r == spec.rank || (*theirs)[r] >= 0) continue;
    // Where all ranks' windows are there, whoever else came does not matter.
    DSV4MX_RETURN_IF(refused, DSV4MX_STATUS_COMM_ERROR,
                     "the window of rank %d did not come, and one of user %u was refused; wanted "
                     "ranks of user %u, or root's",
                     r, stranger, geteuid());
    return Fail(DSV4MX_STATUS_COMM_ERROR, "the window of rank %d did not come: %s", r,
                ErrnoText(why).c_str());
  }
  return kOk;
}

}  // namespace

Status ExchangeFiles(Bootstrap* bootstrap, const CommSpec& spec, int mine, const Control& control,
                     Files* theirs) {
  Listener listener;
  DSV4MX_TRY(Agree(bootstrap, spec, listener.Open(), control));
  std::vector<sockaddr_un> names;
  DSV4MX_TRY(GatherOne(bootstrap, spec, listener.name(), &names, control));
  for (sockaddr_un& name : names) name.sun_path[sizeof(name.sun_path) - 1] = '\0';
  Status done = SendToAll(spec, mine, names);
  DSV4MX_TRY(Agree(bootstrap, spec, done, control));
  done = ReceiveFromAll(spec, listener.file(), theirs);
  return Agree(bootstrap, spec, done, control);
}

}  // namespace dsv4mx::dist
