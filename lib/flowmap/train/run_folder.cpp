#include "flowmap/train/run_folder.h"

#include <algorithm>
#include <cctype>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"
#include "flowmap/train/checkpoint.h"

namespace fs = std::filesystem;

namespace flowmap {

std::string kimg_text(int64_t images) {
  return format("%06lld", static_cast<long long>(images / 1000));
}

fs::path new_run_folder(const fs::path& outdir, const std::string& description) {
  make_directories(outdir);
  long long highest = -1;
  for (const auto& entry : fs::directory_iterator(outdir)) {
    const std::string name = entry.path().filename().string();
    const auto digits = std::find_if_not(name.begin(), name.end(), [](unsigned char c) {
                          return std::isdigit(c) != 0;
                        }) -
                        name.begin();
    if (digits > 0 && digits < 10 && entry.is_directory())
      highest = std::max(highest, std::stoll(name.substr(0, digits)));
  }
  // Another process may take the number first; create_directory tells.
  for (long long number = highest + 1;; ++number) {
    const fs::path run = outdir / format("%05lld-%s", number, description.c_str());
    if (fs::create_directory(run)) return run;
    FM_CHECK(number < highest + 1000, outdir.string(), ": cannot create a run folder");
  }
}

std::optional<fs::path> latest_state(const fs::path& run) {
  std::optional<fs::path> best;
  int64_t most = -1;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run, ignored)) {
    if (!entry.path().filename().string().starts_with("training-state-")) continue;
    const std::optional<int64_t> images = checkpoint_images(entry.path());
    if (images && *images > most) {
      most = *images;
      best = entry.path();
    }
  }
  return best;
}

fs::path run_of(const fs::path& given) {
  FM_CHECK_USAGE(fs::is_directory(given), "--resume: ", given.string(),
                 " is no folder; name a run folder or a training-state folder in one");
  if (checkpoint_images(given)) {
    const fs::path parent = fs::absolute(given).lexically_normal().parent_path();
    // "a/training-state-1/" has an empty last part.
    return given.filename().empty() ? parent.parent_path() : parent;
  }
  FM_CHECK_USAGE(latest_state(given), "--resume: ", given.string(),
                 " holds no complete training-state folder; start anew with --outdir");
  return given;
}

}  // namespace flowmap
